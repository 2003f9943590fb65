"""Derive an architecture by running a module once with labels in its shadow.

The module runs under a dispatch mode with small example inputs (on `meta` when
its parameters are there), so Python control flow, functional calls, attention
and recurrent cells are all seen as the primitive operations they come down to.
Each operation's rule (`rules/`) moves the labels. Values are not looked at,
but for constants that meet units, and the module is left as it was found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from .grouping import build_architecture
from .labels import Ledger
from .recorder import Recorder
from .spec import Architecture, TensorSpec

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def trace(
    module: nn.Module, example_inputs: Inputs, name: str = "", strict: bool = False
) -> Architecture:
    """The architecture of a module, from one run on example inputs.

    Args:
        module: Any module; training mode, buffers and random state are restored.
        example_inputs: A tensor, a tuple of positional or a dict of keyword
            arguments. Small ones do: a batch of one or two, a short sequence.
        name: Of the architecture; by default the module's class.
        strict: Raise where an operation costs a symmetry, instead of noting it.

    Raises:
        ValueError: the module does not run on these inputs; or, when strict, an operation
            has no rule for how it was used.
    """
    tensors, sources = describe_tensors(module)
    ledger = Ledger()
    recorder = Recorder(ledger, sources, {t.name for t in tensors if t.role == "buffer"})
    args, kwargs = as_arguments(example_inputs, module)
    recorder.label_inputs((args, kwargs))
    with undisturbed(module), recorder.module_paths(module):
        try:
            with recorder:
                output = module(*args, **kwargs)
        except Exception as error:
            shapes = [tuple(t.shape) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            raise ValueError(
                f"{type(module).__name__} does not run on example inputs of shapes {shapes}: "
                f"{type(error).__name__}: {error}. Pass example_inputs that the module's "
                "forward accepts (a tensor, a tuple, or a dict of keyword arguments)."
            ) from error
        finally:
            recorder.put_back()
    recorder.fix_outputs(output)
    specs = assign_offsets(tensors, ledger.statistics)
    architecture = build_architecture(name or type(module).__name__, specs, ledger)
    costly = [note for note in architecture.notes if note.unsupported]
    if strict and costly:
        first = costly[0]
        raise ValueError(
            f"operation '{first.operation}' in {first.module or 'the module itself'} at "
            f"{first.line} costs a symmetry: {first.subject}: {first.reason} "
            f"({len(costly)} such in all). Pass strict=False to keep these units in their "
            "places, or use operations of docs/operations.md."
        )
    digest = hashlib.sha256("\n".join(ledger.behaviour).encode()).hexdigest()[:16]
    constants = tuple(sorted(recorder.read.items()))
    return replace(architecture, behaviour=digest, constants=constants)


def describe_tensors(module: nn.Module) -> tuple[list[TensorSpec], dict[str, Tensor]]:
    """State-dict entries in order, tied names noted, and the live tensor behind each name.

    Raises:
        ValueError: the state dict holds something that is not a tensor.
    """
    live: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    live.update(module.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    specs = []
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"state_dict()['{name}'] of {type(module).__name__} is a "
                f"{type(value).__name__}, not a tensor. Remove get_extra_state() or move what "
                "it returns into buffers."
            )
        tensor = live.setdefault(name, value)
        original = first.setdefault(id(tensor), name)
        specs.append(
            TensorSpec(
                name=name,
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                role="parameter" if isinstance(tensor, nn.Parameter) else "buffer",
                tied_to=None if original == name else original,
            )
        )
    return specs, live


def assign_offsets(tensors: Sequence[TensorSpec], statistics: set[str]) -> list[TensorSpec]:
    """Give every float parameter and statistic its place in theta."""
    placed, offset = [], 0
    for t in tensors:
        values = {f: getattr(t, f) for f in ("name", "shape", "dtype", "role", "tied_to")}
        if t.name in statistics:
            values["role"] = "statistic"
        in_theta = values["role"] != "buffer" and t.torch_dtype.is_floating_point
        if in_theta and t.tied_to is None:
            placed.append(TensorSpec(**values, offset=offset))
            offset += t.numel
        else:
            placed.append(TensorSpec(**values))
    return placed


def as_arguments(inputs: Inputs, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, on the device of the module."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    match inputs:
        case Tensor():
            args = (inputs,)
        case Mapping():
            kwargs = dict(inputs)
        case Sequence():
            args = tuple(inputs)
        case _:
            raise ValueError(
                f"example_inputs must be a tensor, a tuple or a dict, got {type(inputs).__name__}"
            )
    # copies, so that a forward that writes into its inputs changes nothing of the caller's
    return tree_map(
        lambda v: v.detach().to(device).clone() if isinstance(v, Tensor) else v, (args, kwargs)
    )


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run in eval mode, without gradients or fused kernels; put everything back afterwards."""
    training = {m: m.training for m in module.modules()}
    kept = {n: b.detach().clone() for n, b in module.named_buffers() if not b.is_meta}
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)  # its public context manager warns about TF32
        try:
            module.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            torch._C._set_mkldnn_enabled(onednn)
            for m, mode in training.items():
                m.training = mode
            for n, b in module.named_buffers():
                if n in kept and b.shape != kept[n].shape:  # it grew
                    b.data = kept[n]
                elif (
                    n in kept
                    and not b.is_sparse
                    and not torch.equal(b.nan_to_num(), kept[n].nan_to_num())
                ):
                    b.copy_(kept[n])
