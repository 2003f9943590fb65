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
from dataclasses import dataclass, replace
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
    return replace(architecture, behaviour=digest)


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
                if n in kept and not torch.equal(b.nan_to_num(), kept[n].nan_to_num()):
                    b.copy_(kept[n])


class Recorder(TorchDispatchMode):
    """Sees every operation of a run and applies its rule to the labels."""

    def __init__(self, ledger: Ledger, sources: Mapping[str, Tensor], buffers: set[str]) -> None:
        super().__init__()
        self.ledger = ledger
        self.tracked: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.held: WeakIdKeyDictionary = WeakIdKeyDictionary()  # buffers that may be statistics
        self.path: list[str] = []
        self.written: list[tuple[torch.UntypedStorage, list[Tracked]]] = []  # in part
        for name, tensor in sources.items():
            if name in buffers:
                if not tensor.dtype.is_floating_point:
                    continue
                if tensor.dim() == 1:
                    self.held[tensor] = ledger.reference(name, tuple(tensor.shape))
                # its values belong to one checkpoint: they may tell units apart in another
                self.tracked[tensor] = _unlabelled(tensor)
            elif isinstance(tensor, nn.Parameter) and tensor not in self.tracked:
                known = tensor.is_floating_point()
                shape = tuple(tensor.shape)
                self.tracked[tensor] = (
                    ledger.reference(name, shape) if known else _unlabelled(tensor)
                )

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
                self.tracked[value] = _unlabelled(value)

    def fix_outputs(self, output: Any) -> None:
        """What a network returns has an identity."""
        values = output_tensors(output)
        if not values:
            raise ValueError(
                f"the module returned no tensor but {type(output).__name__}; example_inputs must "
                "lead it to return what it computes"
            )
        for value in values:
            found = self.lookup(value)
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
        found = self.held.get(buffer)
        if found is None:
            return None
        self.ledger.statistics.add(found.name)
        self.ledger.touched.add(found.name)
        self.tracked[buffer] = found
        return found

    def lookup(self, value: Tensor) -> Tracked | None:
        found = self.tracked.get(value)
        if isinstance(found, Reference):
            self.ledger.touched.add(found.name)
        if found is None:
            for storage, pieces in self.written:
                if _same_memory(value, storage):
                    found = Stale(pieces)
        if isinstance(found, Stale):
            for piece in found.pieces:
                self.ledger.give_up(piece, "part of its memory was overwritten")
            self.tracked[value] = found = _unlabelled(value)
        return found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        before = {id(t): self.tracked.get(t) for t in tensors_in([*args, *kwargs.values()])}
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        self.ledger.behaviour.append(f"{name}{_plain_arguments(args)}{_plain_arguments(kwargs)}")
        written = _written(func, args, kwargs)
        if written and name not in RULES:
            name = name.removesuffix("_")
        operands = tensors_in([*args, *kwargs.values()])
        if not any(self.lookup(v) for v in operands) and name not in ("zeros", "new_zeros"):
            return out
        self.ledger.context = (name, self.path[-1] if self.path else "")
        call = Call(
            name, func, args, kwargs, out, self.ledger, self.lookup, self.statistic, self.held
        )
        found = RULES.get(name)
        try:
            (found.apply if found else give_up)(call)
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError):
            call.results.clear()  # a use that the rule did not foresee
            give_up(call)
        for value, tracked in call.results:
            self.tracked[value] = tracked
        for value in written:
            self._spread_write(value, before.get(id(value)))
        return out

    def _spread_write(self, written: Tensor, before: Tracked | Stale | None) -> None:
        """Whoever reads memory of which a part was overwritten does not read what labels say."""
        after = self.tracked.get(written)
        storage = written.untyped_storage()
        whole = written.numel() * written.element_size() == storage.nbytes()
        same = (
            isinstance(before, Activation)
            and isinstance(after, Activation)
            and torch.equal(before.labels, after.labels)
        )
        if whole and same:
            return
        pieces: list[Tracked] = []
        for tracked in (before, after):
            pieces += tracked.pieces if isinstance(tracked, Stale) else [tracked] if tracked else []
        for value in list(self.tracked):
            if value is not written and _same_memory(value, storage) and _overlap(value, written):
                own = self.tracked[value]
                mine = own.pieces if isinstance(own, Stale) else [own]
                self.tracked[value] = Stale([*mine, *pieces])
        self.written.append((storage, pieces))


@dataclass(frozen=True)
class Stale:
    """Memory that was overwritten in part: to read it gives up the labels of all its pieces."""

    pieces: list[Tracked]


def _unlabelled(value: Tensor) -> Activation:
    return Activation(torch.full((1,) * value.dim(), NONE).expand(value.shape))


def _same_memory(value: Tensor, storage: torch.UntypedStorage) -> bool:
    try:
        return value.untyped_storage()._cdata == storage._cdata
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return False


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage share an element; large ones are taken to."""
    size = a.untyped_storage().nbytes() // a.element_size()
    if size > 1_000_000 or a.element_size() != b.element_size():
        return True
    touched = torch.zeros(size, dtype=torch.bool)
    touched.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(touched.as_strided(b.shape, b.stride(), b.storage_offset()).any())


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes into."""
    if not func._schema.is_mutable:
        return []
    found = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            found += tensors_in(value)
    return found


def _plain_arguments(value: Any) -> str:
    """Arguments without their tensors' values, for telling two runs apart."""
    if isinstance(value, Tensor):
        return "T"
    if isinstance(value, Mapping):
        return str({k: _plain_arguments(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return f"({','.join(map(_plain_arguments, value))})"
    return str(value)


def output_tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, however nested: containers, mappings, and objects' attributes."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value)
            return
        if id(value) in seen or isinstance(value, str | bytes | nn.Module | type):
            return
        seen.add(id(value))
        if isinstance(value, Mapping):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                visit(item)
        names = [*getattr(value, "__dict__", {}), *getattr(type(value), "__slots__", ())]
        for name in names:
            visit(getattr(value, name, None))

    visit(output)
    return found
