"""Modules that a user names: `package.module:factory`, and the inputs they run on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Shapes = Sequence[Sequence[int]]
LARGEST_INPUT = 1 << 26  # numbers; tracing needs small examples


def build_module(model: str | Callable[[], nn.Module] | nn.Module) -> nn.Module:
    """The module that `package.module:factory`, a factory, or a module itself stands for.

    Raises:
        ValueError: no such factory, or one that returns something else.
    """
    if isinstance(model, nn.Module):
        return model
    built = _named(model)() if isinstance(model, str) else model()
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"--model {model}: gives a {type(built).__name__}, expected something that returns a "
            "torch.nn.Module when it is called without arguments"
        )
    return built


def _named(factory: str) -> Callable[[], Any]:
    module_name, _, function = factory.partition(":")
    if not function or not module_name:
        raise ValueError(f"--model must be package.module:factory, got '{factory}'")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {factory}: {error}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(f"--model {factory}: is a {type(found).__name__}, expected a function")
    return found


def parse_shape(text: str) -> tuple[int, ...]:
    """Sizes by comma, as `--input` takes them.

    Raises:
        ValueError: not sizes, or too large a tensor for an example.
    """
    try:
        sizes = tuple(int(s) for s in text.split(","))
    except ValueError as error:
        raise ValueError(f"--input must be sizes such as 1,3,32,32, got '{text}'") from error
    return check_shape(sizes)


def check_shape(sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes, if a tensor of them is a small example."""
    if any(s < 0 for s in sizes) or prod(sizes) > LARGEST_INPUT:
        raise ValueError(
            f"--input {','.join(map(str, sizes))}: expected sizes from 0 of at most "
            f"{LARGEST_INPUT:,} numbers in all; small examples do"
        )
    return tuple(sizes)


def as_shapes(
    input_shape: str | Sequence[int] | Sequence[Sequence[int]] | Sequence[str] | None,
) -> list[tuple[int, ...]]:
    """One shape or several, as numbers or as text, as a list of shapes; None is none."""
    if input_shape is None:
        return []
    if isinstance(input_shape, str):
        return [parse_shape(input_shape)]
    if all(isinstance(s, int) for s in input_shape):
        return [check_shape([int(s) for s in input_shape])] if input_shape else []  # type: ignore[arg-type]
    return [
        parse_shape(s) if isinstance(s, str) else check_shape(list(s))  # type: ignore[arg-type]
        for s in input_shape
    ]


def example_inputs(module: nn.Module, shapes: Shapes) -> Any:
    """What the module is run on: float tensors of the shapes, else what the module offers.

    Raises:
        ValueError: no shapes, and the module offers none.
    """
    generator = torch.Generator().manual_seed(0)
    if shapes:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        made = tuple(torch.randn(s, generator=generator).to(dtype) for s in shapes)
        return made[0] if len(made) == 1 else made
    for name in ("example_input_array", "dummy_inputs"):  # Lightning, transformers
        offered = getattr(module, name, None)
        if isinstance(offered, Tensor | tuple | dict):
            return offered
    raise ValueError(
        f"{type(module).__name__} needs an example input: pass --input with its shape, such as "
        "1,3,32,32 (input_shape= in Python)"
    )
