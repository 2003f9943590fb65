"""Sees every operation of a run and applies its rule to the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from .labels import Activation, Ledger, Reference, Tracked
from .memory import Stale, overlap, same_memory, unlabelled
from .rules import RULES, Call, give_up, tensors_in
from .rules.history import histories, plain_text
from .spec import digest_of


class Recorder(TorchDispatchMode):
    """Sees every operation of a run and applies its rule to the labels."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that hides a mode from torch.compile imports it, which takes a second."""
        return False

    def __init__(self, ledger: Ledger, sources: Mapping[str, Tensor], buffers: set[str]) -> None:
        super().__init__()
        self.ledger = ledger
        self.tracked: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.parameters = [t for t in sources.values() if isinstance(t, nn.Parameter)]
        self.constants: WeakIdKeyDictionary = WeakIdKeyDictionary()  # numbered, on meta
        self.whole: WeakIdKeyDictionary = WeakIdKeyDictionary()  # buffers that count as constants
        self.read: dict[str, str] = {}  # those that were read, and a digest of their values
        self.held: WeakIdKeyDictionary = WeakIdKeyDictionary()  # buffers that may be statistics
        self.path: list[str] = []
        self.written: list[tuple[torch.UntypedStorage, list[Tracked]]] = []  # in part
        for name, tensor in sources.items():
            if name in buffers:
                if not tensor.dtype.is_floating_point:
                    self.whole[tensor] = name
                    continue
                if tensor.dim() == 1:
                    self.held[tensor] = ledger.reference(name, tuple(tensor.shape))
                # its values belong to one checkpoint: they may tell units apart in another
                self.tracked[tensor] = unlabelled(tensor)
            elif isinstance(tensor, nn.Parameter) and tensor not in self.tracked:
                known = tensor.is_floating_point()
                shape = tuple(tensor.shape)
                self.tracked[tensor] = (
                    ledger.reference(name, shape) if known else unlabelled(tensor)
                )
        self._give_up_shared(sources)

    def _give_up_shared(self, sources: Mapping[str, Tensor]) -> None:
        """Parameters that share memory without being one cannot be reordered apart."""
        unique = {id(t): (name, t) for name, t in sources.items() if not t.is_meta and t.numel()}
        dense = [
            (t.data_ptr(), t.data_ptr() + _reach(t), name, t)
            for name, t in unique.values()
            if isinstance(t, nn.Parameter) and t.layout == torch.strided
        ]
        spans = sorted(dense, key=lambda span: span[:2])
        for (_, end, name, one), (start, _, other, two) in pairwise(spans):
            if start < end and overlap(one, two):
                for tensor, beside in ((one, other), (two, name)):
                    found = self.tracked.get(tensor)
                    if isinstance(found, Reference):
                        self.ledger.give_up(found, f"it shares memory with {beside}")

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
                self.tracked[value] = unlabelled(value)

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
            elif found is not None:
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
                if same_memory(value, storage):
                    found = Stale(pieces)
        if isinstance(found, Stale):
            for piece in found.pieces:
                self.ledger.give_up(piece, "part of its memory was overwritten")
            self.tracked[value] = found = unlabelled(value)
        return found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operands, written = tensors_in([*args, *kwargs.values()]), _written(func, args, kwargs)
        for value in written:
            self._keep(value)
        for value in operands:
            name = self.whole.get(value)
            if name is not None and name not in self.read and not value.is_meta:
                self.read[name] = digest_of(value)
        before = {id(t): self.tracked.get(t) for t in operands}
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        self.ledger.behaviour.append(f"{name}{plain_text(args)}{plain_text(kwargs)}")
        if written and name not in RULES:
            name = name.removesuffix("_")
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
        done = histories(call, self.constants)
        for (value, tracked), history in zip(call.results, done, strict=True):
            if isinstance(tracked, Activation):
                tracked = replace(tracked, history=history)
            self.tracked[value] = tracked
        for value in written:
            self._spread_write(value, before.get(id(value)))
        return out

    def _keep(self, written: Tensor) -> None:
        """A parameter's values before the forward writes into it."""
        for parameter in self.parameters:
            shared = not written.is_meta and same_memory(parameter, written.untyped_storage())
            if shared and id(parameter) not in self.kept:
                self.kept[id(parameter)] = (parameter, parameter.detach().clone())

    def put_back(self) -> None:
        """Undo what the forward wrote into parameters."""
        for parameter, value in self.kept.values():
            parameter.data.copy_(value)

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
            if value is not written and same_memory(value, storage) and overlap(value, written):
                own = self.tracked[value]
                mine = own.pieces if isinstance(own, Stale) else [own]
                self.tracked[value] = Stale([*mine, *pieces])
        self.written.append((storage, pieces))


def _reach(value: Tensor) -> int:
    """Bytes from a tensor's first element to beyond its last."""
    last = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    return (last + 1) * value.element_size()


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
