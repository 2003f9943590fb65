"""Modules built from names: a state dict's names become a tree of modules.

`nn.Module.register_parameter` takes no dots and no name that the class already has;
files have both. Only the registries count for state dicts, so names go there directly.
"""

from __future__ import annotations

from torch import Tensor, nn


class Scope(nn.Module):
    """A part of a tree: holds tensors and parts, computes nothing itself."""


def scope_at(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, with all above it, made where they are not there."""
    for part in path.split(".") if path else ():
        child = root._modules.get(part)
        if child is None:
            child = root._modules[part] = Scope()
        root = child
    return root


def place(root: nn.Module, name: str, value: Tensor) -> None:
    """Register a parameter or, if it is not an `nn.Parameter`, a buffer by its dotted name."""
    path, _, leaf = name.rpartition(".")
    scope = scope_at(root, path)
    if isinstance(value, nn.Parameter):
        scope._parameters[leaf] = value
    else:
        scope._buffers[leaf] = value


def place_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register a module by its dotted name, which no other module has yet."""
    path, _, leaf = name.rpartition(".")
    scope_at(root, path)._modules[leaf] = module


def safe_name(name: str, taken: set[str]) -> str:
    """The name itself, or the nearest one that a tree can hold, not among those taken.

    `training` is what every module calls its mode; an empty part cannot be told apart.
    """
    parts = [p + "_" if p in ("", "training") else p for p in name.split(".")]
    safe = ".".join(parts)
    while safe in taken:
        safe += "_"
    return safe
