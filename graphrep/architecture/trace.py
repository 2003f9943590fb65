"""Derive an architecture by running a module once with labels in its shadow.

The module runs under a dispatch mode with small example inputs (on `meta` when
its parameters are there), so Python control flow, functional calls, attention
and recurrent cells are all seen as the primitive operations they come down to.
Each operation's rule (`rules.py`) moves the labels. Values are not looked at,
but for constants that meet units, and the module is left as it was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from .grouping import build_architecture
from .labels import NONE, Activation, Ledger, Reference, Tracked
from .rules import RULES, Call, give_up, tensors_in
from .spec import Architecture, TensorSpec

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def trace(module: nn.Module, example_inputs: Inputs, name: str = "") -> Architecture:
    """The architecture of a module, from one run on example inputs.

    Args:
        module: Any module; training mode, buffers and random state are restored.
        example_inputs: A tensor, a tuple of positional or a dict of keyword
            arguments. Small ones do: a batch of one or two, a short sequence.
        name: Of the architecture; by default the module's class.

    Raises:
        ValueError: the module does not run on these inputs.
    """
    tensors, sources = describe_tensors(module)
    ledger = Ledger()
    recorder = Recorder(ledger, sources, set(_buffers(module)))
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
    recorder.fix_outputs(output)
    statistics = {t for t, use in ledger.uses.items() if use.role in ("mean", "variance")}
    specs = assign_offsets(tensors, statistics)
    return build_architecture(name or type(module).__name__, specs, ledger)


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
    return tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, (args, kwargs))


def _buffers(module: nn.Module) -> Iterator[str]:
    return (name for name, _ in module.named_buffers(remove_duplicate=False))


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
                if n in kept and not torch.equal(b.nan_to_num(), kept[n].nan_to_num()):
                    b.copy_(kept[n])


class Recorder(TorchDispatchMode):
    """Sees every operation of a run and applies its rule to the labels."""

    def __init__(self, ledger: Ledger, sources: Mapping[str, Tensor], buffers: set[str]) -> None:
        super().__init__()
        self.ledger = ledger
        self.tracked: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.buffers: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.path: list[str] = []
        self.cost: list[tuple[str, str]] = []
        for name, tensor in sources.items():
            if name in buffers:
                self.buffers[tensor] = name
            elif tensor.is_floating_point() and tensor not in self.tracked:
                self.tracked[tensor] = ledger.reference(name, tuple(tensor.shape))

    def label_inputs(self, inputs: Any) -> None:
        """Every element of a float input is a unit with an identity; whole numbers carry none."""
        for value in tree_leaves(inputs):
            if not isinstance(value, Tensor):
                continue
            if value.is_floating_point():
                atoms = self.ledger.new_atoms(value.numel())
                self.ledger.inputs.append(atoms)
                self.ledger.freeze(atoms, "")
                self.tracked[value] = Activation(atoms.view(value.shape))
            else:
                labels = torch.full((1,) * value.dim(), NONE).expand(value.shape)
                self.tracked[value] = Activation(labels)

    def fix_outputs(self, output: Any) -> None:
        """What a network returns has an identity."""
        for value in _leaves(output):
            found = self.tracked.get(value)
            if isinstance(found, Activation):
                atoms = torch.unique(found.labels[found.labels >= 0])
                self.ledger.outputs.append(atoms)
                self.ledger.freeze(atoms, "")
            elif isinstance(found, Reference):
                self.ledger.give_up(found, "returned as it is")

    @contextmanager
    def module_paths(self, module: nn.Module) -> Iterator[None]:
        """Know which submodule is running."""
        handles = []
        for name, child in module.named_modules():

            def enter(*_: Any, name: str = name) -> None:
                self.path.append(name)

            def leave(*_: Any) -> None:
                self.path.pop()

            handles.append(child.register_forward_pre_hook(enter))
            handles.append(child.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def statistic(self, buffer: Tensor) -> Reference | None:
        """A buffer that a norm uses as running statistic joins theta."""
        name = self.buffers.get(buffer)
        if name is None or not buffer.is_floating_point():
            return None
        self.tracked[buffer] = self.ledger.reference(name, tuple(buffer.shape))
        del self.buffers[buffer]
        return self.tracked[buffer]

    def lookup(self, value: Tensor) -> Tracked | None:
        found = self.tracked.get(value)
        if isinstance(found, Reference):
            self.ledger.touched.add(found.name)
        return found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operands = tensors_in([*args, *kwargs.values()])
        name = func._schema.name.removeprefix("aten::")
        in_place = func._schema.is_mutable
        if in_place and name not in RULES:
            name = name.removesuffix("_")
        if not any(v in self.tracked for v in operands) and name not in ("zeros", "new_zeros"):
            return out
        self.ledger.context = (name, self.path[-1] if self.path else "")
        call = Call(name, func, args, kwargs, out, self.ledger, self.lookup, self.statistic)
        found = RULES.get(name)
        (found.apply if found else give_up)(call)
        before = self.tracked.get(args[0]) if in_place and args else None
        for value, tracked in call.results:
            self.tracked[value] = tracked
        if in_place and args and isinstance(args[0], Tensor):
            self._spread_write(args[0], before)
        return out

    def _spread_write(self, written: Tensor, before: Tracked | None) -> None:
        """Other views of memory that was written to no longer carry what their labels say."""
        after = self.tracked.get(written)
        same = (
            isinstance(before, Activation)
            and isinstance(after, Activation)
            and torch.equal(before.labels, after.labels)
        )
        if same or written.is_meta:
            return
        memory = written.untyped_storage().data_ptr()
        others = [
            value
            for value in self.tracked
            if value is not written
            and not value.is_meta
            and value.untyped_storage().data_ptr() == memory
        ]
        for value in others:
            reason = "part of its memory was overwritten"
            self.ledger.give_up(self.tracked[value], reason)
            if after is not None:
                self.ledger.give_up(after, reason)
            labels = torch.full((1,) * value.dim(), NONE).expand(value.shape)
            self.tracked[value] = Activation(labels)


def _leaves(output: Any) -> list[Tensor]:
    """All tensors of an output: nested sequences, mappings, and objects that act as one."""
    found = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):
            found += _leaves(dict(leaf))
        elif hasattr(leaf, "__dict__"):
            found += [v for v in vars(leaf).values() if isinstance(v, Tensor)]
    return found
