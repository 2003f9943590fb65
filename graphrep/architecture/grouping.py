"""From atoms to an architecture: which units may be exchanged, which blocks join them.

Units with the same signature (the same places in the same tensors, the same
colours, frozen or not) form a group. Knows the ledger of a finished run and the
state dict's names and shapes; knows no operation and no value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from .labels import Classes, Ledger, Use, classify
from .rules import ACTIVATIONS
from .spec import Architecture, Block, BlockKind, Note, Operation, Span, TensorSpec, UnitKind, Units

UNIT_PARTS = ("in", "out", "unit")


def build_architecture(name: str, tensors: Sequence[TensorSpec], ledger: Ledger) -> Architecture:
    """The architecture that a traced run's ledger describes."""
    shapes = {t.name: t.shape for t in tensors if t.offset is not None}
    placed = {
        tensor: use
        for tensor, use in ledger.uses.items()
        if tensor in shapes
        and any(part in UNIT_PARTS for part in use.axis_parts.values())
        and all(axis in use.axis_parts for axis in range(len(shapes[tensor])))
        and 0 not in shapes[tensor]
    }
    classes = classify(ledger)
    groups = _Groups(ledger, classes, placed)
    names = _name_groups(groups, placed, ledger)
    blocks = [
        block
        for tensor, use in sorted(placed.items(), key=lambda item: item[1].order)
        for block in _blocks_of(tensor, shapes[tensor], use, groups, names)
    ]
    opaque = [t for t in tensors if t.offset is not None and t.name not in placed]
    blocks += [_opaque(t) for t in opaque]
    operations = tuple(_operations(ledger, groups, names))
    units = tuple(
        Units(
            name=names[g],
            size=len(groups.members[g]),
            kind=groups.kind[g],
            activations=_activations(names[g], operations),
        )
        for g in names
    )
    return Architecture(
        name=name,
        units=units,
        blocks=tuple(blocks),
        tensors=tuple(tensors),
        operations=operations,
        notes=tuple(_notes(ledger, groups, names, opaque)),
    )


class _Groups:
    """Unit groups: classes of atoms with equal signatures, members in order of their atoms."""

    def __init__(self, ledger: Ledger, classes: Classes, placed: Mapping[str, Use]) -> None:
        self.axis_classes = {
            (tensor, axis): classes.of_atom[ledger.axes[tensor, axis]]
            for tensor, use in placed.items()
            for axis, part in use.axis_parts.items()
            if part in UNIT_PARTS
        }
        signatures: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, found in enumerate(self.axis_classes.values()):
            present, counts = torch.unique(found, return_counts=True)
            for c, count in zip(present.tolist(), counts.tolist(), strict=True):
                signatures[c].append((number, count))
        inputs = _class_set(ledger.inputs, classes)
        outputs = _class_set(ledger.outputs, classes)
        grouped: dict[tuple, list[int]] = defaultdict(list)
        first_atom = _first_atoms(classes)
        for c in sorted(signatures, key=lambda c: first_atom[c]):
            kind: UnitKind = "hidden"
            if classes.frozen[c]:
                kind = "input" if c in inputs else "output" if c in outputs else "fixed"
            colours = classes.colours[c] if kind == "hidden" else ()
            grouped[tuple(signatures[c]), kind, colours].append(c)
        self.members = list(grouped.values())
        self.kind = [key[1] for key in grouped]
        self.of_class = torch.full((classes.num,), -1)
        self.member_of_class = torch.zeros(classes.num, dtype=torch.int64)
        for g, members in enumerate(self.members):
            self.of_class[members] = g
            self.member_of_class[members] = torch.arange(len(members))
        self.of_atom = self.of_class[classes.of_atom]

    def spans(self, tensor: str, axis: int) -> list[tuple[int, Tensor]]:
        """The groups along an axis, each with its places [members, slots]."""
        found = self.axis_classes[tensor, axis]
        groups, members = self.of_class[found], self.member_of_class[found]
        spans = []
        for g in torch.unique(groups).tolist():
            places = torch.nonzero(groups == g).flatten()
            places = places[torch.argsort(members[places], stable=True)]
            spans.append((g, places.view(len(self.members[g]), -1)))
        return sorted(spans, key=lambda span: int(span[1].min()))

    def named(self, atoms: Tensor, names: Mapping[int, str]) -> tuple[str, ...]:
        """Names of the groups that atoms belong to."""
        found = torch.unique(self.of_atom[atoms]).tolist()
        return tuple(names[g] for g in names if g in set(found))


def _class_set(atoms: list[Tensor], classes: Classes) -> set[int]:
    return {c for a in atoms for c in torch.unique(classes.of_atom[a]).tolist()}


def _first_atoms(classes: Classes) -> list[int]:
    first = torch.full((classes.num,), len(classes.of_atom))
    first.scatter_reduce_(0, classes.of_atom, torch.arange(len(classes.of_atom)), "amin")
    return first.tolist()


def _name_groups(groups: _Groups, placed: Mapping[str, Use], ledger: Ledger) -> dict[int, str]:
    """A name a group, in order of execution: the module whose rows the units are."""
    order: dict[int, str] = {}
    taken: dict[str, int] = {}

    def enter(g: int, wanted: str) -> None:
        if g in order:
            return
        taken[wanted] = taken.get(wanted, 0) + 1
        order[g] = wanted if taken[wanted] == 1 else f"{wanted}#{taken[wanted]}"

    by_use = sorted(placed.items(), key=lambda item: item[1].order)
    for tensor, use in by_use:
        owner = tensor.rpartition(".")[0] or tensor
        for part in UNIT_PARTS:
            for axis in (a for a, p in use.axis_parts.items() if p == part):
                for g, _ in groups.spans(tensor, axis):
                    if groups.kind[g] == "input":
                        enter(g, "input")
                    elif part == "in" and use.lookup:
                        enter(g, f"{owner}.rows")
                    elif part != "in":
                        enter(g, owner)
    for tensor, use in by_use:  # sources that nothing here produces
        for axis, part in use.axis_parts.items():
            if part in UNIT_PARTS:
                for g, _ in groups.spans(tensor, axis):
                    enter(g, f"{tensor.rpartition('.')[0] or tensor}.in")
    return order


def _blocks_of(
    tensor: str,
    shape: tuple[int, ...],
    use: Use,
    groups: _Groups,
    names: Mapping[int, str],
) -> list[Block]:
    parts = use.axis_parts
    choices = []
    for axis, size in enumerate(shape):
        if parts[axis] in UNIT_PARTS:
            spans = groups.spans(tensor, axis)
            choices.append([Span.from_index(names[g], index) for g, index in spans])
        else:
            choices.append([Span.from_index(None, torch.arange(size).unsqueeze(0))])
    unit_axes = [a for a in range(len(shape)) if parts[a] in UNIT_PARTS]
    target = next((a for a in unit_axes if parts[a] == "out"), unit_axes[0])
    source = next((a for a in unit_axes if a != target), None)
    kind: BlockKind = "lookup" if use.lookup else "diagonal" if source is None else "dense"
    combinations = list(product(*choices))
    return [
        Block(
            name=tensor if len(combinations) == 1 else f"{tensor}[{number}]",
            tensor=tensor,
            kind=kind,
            role=use.role,
            axes=axes,
            source=None if source is None else axes[source].units,
            target=axes[target].units,
            source_axis=source,
            target_axis=target,
            leader=use.leader,
        )
        for number, axes in enumerate(combinations)
    ]


def _opaque(spec: TensorSpec) -> Block:
    axes = tuple(Span(units=None, size=1, slots=size) for size in spec.shape)
    return Block(name=spec.name, tensor=spec.name, kind="opaque", role="opaque", axes=axes)


def _operations(ledger: Ledger, groups: _Groups, names: Mapping[int, str]) -> list[Operation]:
    found = []
    for record in ledger.operations:
        inputs = {n for atoms in record["inputs"] for n in groups.named(atoms, names)}
        outputs = {n for atoms in record["outputs"] for n in groups.named(atoms, names)}
        in_order = [n for n in names.values() if n in inputs]
        out_order = [n for n in names.values() if n in outputs]
        found.append(
            Operation(
                name=record["name"],
                inputs=tuple(in_order),
                outputs=tuple(out_order),
                settings=record["settings"],
                module=record["module"],
            )
        )
    return found


def _activations(units: str, operations: Sequence[Operation]) -> tuple[str, ...]:
    names: list[str] = []
    for operation in operations:
        applies = operation.name in ACTIVATIONS.split() and units in operation.inputs
        if applies and operation.name not in names:
            names.append(operation.name)
    return tuple(names)


def _notes(
    ledger: Ledger, groups: _Groups, names: Mapping[int, str], opaque: Sequence[TensorSpec]
) -> list[Note]:
    """What was given up and why; inputs and outputs are fixed by nature and not mentioned."""
    notes: dict[Note, None] = {}
    told = set()
    for subject, operation, module, reason in ledger.notes:
        if isinstance(subject, str):
            told.add(subject)
            notes[Note(subject=subject, operation=operation, module=module, reason=reason)] = None
            continue
        for g in torch.unique(groups.of_atom[subject]).tolist():
            if g >= 0 and groups.kind[g] == "fixed":
                why = f"its units keep their places: {reason}"
                note = Note(subject=names[g], operation=operation, module=module, reason=why)
                notes[note] = None
    for spec in opaque:
        if spec.name not in told:
            used = spec.name in ledger.touched
            why = "no axis of it could be placed" if used else "not used in the traced run"
            notes[Note(subject=spec.name, operation="opaque", module="", reason=why)] = None
    return list(notes)
