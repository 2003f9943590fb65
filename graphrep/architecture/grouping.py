"""From atoms to an architecture: which units may be exchanged, which blocks join them.

Units with the same signature (the same places in the same tensors, the same
colours, frozen or not) form a group. Knows the ledger of a finished run and the
state dict's names and shapes; knows no operation and no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from .blocks import UNIT_PARTS, blocks_of
from .classes import classify
from .experts import settle_routes
from .labels import Ledger, Use
from .rules import ACTIVATIONS
from .spec import (
    Architecture,
    Block,
    Note,
    Operation,
    Parent,
    Span,
    TensorSpec,
    UnitKind,
    Units,
)
from .unreached import settle_unreached

KINDS: tuple[UnitKind, ...] = ("hidden", "input", "output", "fixed")


def build_architecture(name: str, tensors: Sequence[TensorSpec], ledger: Ledger) -> Architecture:
    """The architecture that a traced run's ledger describes."""
    shapes = {t.name: t.shape for t in tensors if t.offset is not None}
    placed = {
        tensor: use
        for tensor, use in ledger.uses.items()
        if tensor in shapes and _is_placed(use, shapes[tensor])
    }
    settle_routes(ledger)
    settle_unreached(ledger)
    for (tensor, axes), atoms in ledger.axes.items():
        if tensor in ledger.given_up and len(axes) > 1:
            ledger.frozen.append(atoms)
    while True:
        groups = Groups(ledger, placed)
        names = _name_groups(groups, placed, ledger)
        in_order = sorted(placed.items(), key=lambda item: item[1].order)
        found = {t: blocks_of(t, shapes[t], use, groups, names) for t, use in in_order}
        unplaced = [tensor for tensor, some in found.items() if not some]
        turned = [g for g in groups.turned & groups.unmarked if groups.kind[g] == "hidden"]
        if not unplaced and not turned:
            break
        for g in turned:
            ledger.frozen.append(groups.classes.first[groups.members[g]])
        for tensor in unplaced:
            ledger.give_up_tensor(tensor, "its units follow no order of its axes")
            del placed[tensor]
    blocks = [block for some in found.values() for block in some]
    opaque = [t for t in tensors if t.offset is not None and t.name not in placed]
    blocks += [_opaque(t) for t in opaque]
    operations = tuple(_operations(ledger, groups, names))
    units = tuple(
        Units(
            name=names[g],
            size=len(groups.members[g]),
            kind=groups.kind[g],
            activations=_activations(names[g], operations),
            parents=groups.parents(g, names),
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


def _is_placed(use: Use, shape: tuple[int, ...]) -> bool:
    """Whether every axis has its part, and some have units."""
    axes = {axis for joint in use.parts for axis in joint}
    has_units = any(part in UNIT_PARTS for part in use.parts.values())
    return has_units and axes == set(range(len(shape))) and 0 not in shape


class Groups:
    """Unit groups: units of one cell, in the order of what they sit within, then of their atoms."""

    def __init__(self, ledger: Ledger, placed: Mapping[str, Use]) -> None:
        for tensor, use in placed.items():
            _settle(ledger, tensor, use)
        axes = {
            (tensor, joint): ledger.axes[tensor, joint]
            for tensor, use in placed.items()
            for joint, part in use.parts.items()
            if part in UNIT_PARTS
        }
        self.classes = classes = classify(ledger, axes)
        self.ledger, self.atoms = ledger, axes
        self.turned: set[int] = set()  # slots of some units stand in another order here,
        self.unmarked: set[int] = set()  # and nothing tells which stands where there
        self.axis_classes = {key: classes.of_atom[atoms] for key, atoms in axes.items()}
        used = torch.zeros(classes.num, dtype=torch.bool)
        for found in self.axis_classes.values():
            used[found.reshape(-1)] = True
        kinds = torch.zeros(classes.num, dtype=torch.int64)
        kinds[classes.frozen | classes.told_apart] = KINDS.index("fixed")
        for kind, some in (("output", ledger.outputs), ("input", ledger.inputs)):
            ends = torch.zeros(classes.num, dtype=torch.bool)
            for atoms in some:
                ends[classes.of_atom[atoms]] = True
            kinds[ends & (kinds > 0)] = KINDS.index(kind)
        own = torch.where(kinds == 0, classes.cell, classes.base)
        in_order = torch.argsort(classes.first)
        in_order = in_order[used[in_order]]
        alike, number = torch.unique(
            torch.stack([own[in_order], kinds[in_order]]), dim=1, return_inverse=True
        )
        by_group = torch.argsort(number, stable=True)
        counts = torch.bincount(number, minlength=alike.shape[1]).tolist()
        found_groups = in_order[by_group].split(counts)
        order = sorted(range(len(counts)), key=lambda g: int(classes.first[found_groups[g][0]]))
        self.members = [found_groups[g].tolist() for g in order]
        self.kind: list[UnitKind] = [KINDS[int(alike[1, g])] for g in order]
        self.of_class = torch.full((classes.num,), -1)
        self.member_of_class = torch.zeros(classes.num, dtype=torch.int64)
        for g in range(len(self.members)):
            self._number(g)
        self.num_placed = len(self.members)
        self._add_larger()
        self._prefer_stacks(placed)
        self._sort_within()

    def _number(self, g: int) -> None:
        members = torch.tensor(self.members[g])
        self.of_class[members] = g
        self.member_of_class[members] = torch.arange(len(members))

    def _add_larger(self) -> None:
        """Larger units that lie along no axis themselves, such as heads."""
        self.above: list[list[tuple[int, Tensor]]] = []
        number = 0
        while number < len(self.members):
            above = []
            if self.kind[number] == "hidden":
                cell = int(self.classes.cell[self.members[number][0]])
                for units, parents in self.classes.parents.get(cell, []):
                    if int(self.of_class[parents[0]]) < 0:
                        larger = torch.unique(parents)
                        larger = larger[torch.argsort(self.classes.first[larger])]
                        self.members.append(larger.tolist())
                        self.kind.append("hidden")
                        self._number(len(self.members) - 1)
                    parent_of = torch.full((self.classes.num,), -1)
                    parent_of[units] = parents
                    above.append((int(self.of_class[parents[0]]), parent_of))
            self.above.append(above)
            number += 1

    def _prefer_stacks(self, placed: Mapping[str, Use]) -> None:
        """Where a block reads group by group, its two ends stand in the order of these groups."""
        for tensor, use in placed.items():
            ends = {p: a for a, p in use.parts.items() if p in UNIT_PARTS}
            if "out" not in ends or "in" not in ends or not set(ends["out"]) & set(ends["in"]):
                continue
            groups = [
                int(self.of_class[self.axis_classes[tensor, a].reshape(-1)[0]])
                for a in ends.values()
            ]
            above = [{p for p, _ in self.above[g]} for g in groups]
            shared = set.intersection(*above)
            for g in groups:
                self.above[g].sort(key=lambda item: item[0] not in shared)

    def _sort_within(self) -> None:
        """Members of one larger unit stand together."""
        done: set[int] = set()

        def sort(g: int) -> None:
            if g in done:
                return
            done.add(g)
            for parent, _ in self.above[g]:
                sort(parent)
            if self.above[g]:
                _, parent_of = self.above[g][0]
                place = self.member_of_class[parent_of[self.members[g]]].tolist()
                order = sorted(range(len(place)), key=lambda i: place[i])
                self.members[g] = [self.members[g][i] for i in order]
                self.member_of_class[self.members[g]] = torch.arange(len(order))

        for g in range(len(self.members)):
            sort(g)
        self.of_atom = self.of_class[self.classes.of_atom]
        self.member_of_atom = self.member_of_class[self.classes.of_atom]

    def parents(self, g: int, names: Mapping[int, str]) -> tuple[Parent, ...]:
        """What the members of a group sit within."""
        return tuple(
            Parent.from_members(names[p], self.member_of_class[parent_of[self.members[g]]])
            for p, parent_of in self.above[g]
            if self.kind[p] == "hidden"
        )

    def spans(self, tensor: str, axes: tuple[int, ...]) -> list[tuple[int, Tensor]]:
        """The groups along an axis (or several), each with its places [members, slots]."""
        found = self.axis_classes[tensor, axes].reshape(-1)
        return self.spans_of(found, self.slot_keys(tensor, axes))

    def spans_of(self, found: Tensor, key: Tensor) -> list[tuple[int, Tensor]]:
        """As `spans`, of the units along a line and the keys that order their places."""
        groups, members = self.of_class[found], self.member_of_class[found]
        spans = []
        for g in torch.unique(groups).tolist():
            places = torch.nonzero(groups == g).flatten()
            places = places[torch.argsort(members[places], stable=True)]
            places = places.view(len(self.members[g]), -1)
            order = _alike(key[places])
            if bool((order != order[:1]).any()):
                self.turned.add(g)
            elif order.shape[1] > 1 and bool((key[places] == key[places][:, :1]).all()):
                self.unmarked.add(g)
            spans.append((g, places.gather(1, order)))
        return sorted(spans, key=lambda span: int(span[1].min()))

    def sizes(self, tensor: str, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(len(self.ledger.axes[tensor, (a,)]) for a in axes)

    def reduce(self, tensor: str, axes: tuple[int, ...], kept: tuple[int, ...]) -> None:
        """Units that do not change along some of the axes lie along the others."""
        if (tensor, kept) in self.atoms:
            return
        place = tuple(slice(None) if a in kept else 0 for a in axes)
        atoms = self.atoms[tensor, axes].view(self.sizes(tensor, axes))[place].reshape(-1)
        self.atoms[tensor, kept] = atoms
        self.axis_classes[tensor, kept] = self.classes.of_atom[atoms]

    def slot_keys(self, tensor: str, axes: tuple[int, ...]) -> Tensor:
        return self.classes.slot_key[self.atoms[tensor, axes]].reshape(-1)

    def named(self, atoms: Tensor, names: Mapping[int, str]) -> tuple[str, ...]:
        """Names of the groups that atoms belong to."""
        found = torch.unique(self.of_atom[atoms]).tolist()
        return tuple(names[g] for g in names if g in set(found))


def _alike(keys: Tensor) -> Tensor:
    """Orders of each unit's slots [members, slots] that match those of the first unit by key."""
    first, where = torch.unique(keys[0], return_inverse=True)
    if len(first) <= 1:
        return torch.arange(keys.shape[1]).expand(keys.shape)
    rank = torch.full((len(first),), keys.shape[1])
    rank.scatter_reduce_(0, where, torch.arange(keys.shape[1]), "amin")
    known = torch.searchsorted(first, keys).clamp(max=len(first) - 1)
    order = torch.argsort(rank[known], dim=1, stable=True)
    if bool((order == order[:1]).all()):  # all stand alike as they are
        return torch.arange(keys.shape[1]).expand(keys.shape)
    return order


def _settle(ledger: Ledger, tensor: str, use: Use) -> None:
    """Axes used alone here and jointly there have the units of both: those used alone."""
    joint = [a for a, p in use.parts.items() if len(a) > 1 and p in UNIT_PARTS]
    for axes in joint:
        sizes = [len(ledger.axes[tensor, (a,)]) for a in axes]
        seen = ledger.sections.get(tensor)
        whole = seen is None or bool(seen.all())  # what was used of it by sections
        for dim, axis in enumerate(axes):
            if use.parts.get((axis,)) == use.parts[axes] or (not whole and dim == len(axes) - 1):
                along = [1] * len(axes)
                along[dim] = sizes[dim]
                alone = ledger.axes[tensor, (axis,)].view(along).expand(sizes)
                ledger.tie(ledger.axes[tensor, axes].view(sizes), alone)


def _name_groups(groups: Groups, placed: Mapping[str, Use], ledger: Ledger) -> dict[int, str]:
    """A name a group, in order of execution: the module whose rows the units are."""
    order: dict[int, str] = {}
    taken: dict[str, int] = {}
    larger = {int(groups.of_atom[atoms[0]]): name for atoms, name in reversed(ledger.hubs)}

    def enter(g: int, wanted: str) -> None:
        if g in order:
            return
        for parent, _ in groups.above[g]:  # a larger unit stands before what it holds
            enter(parent, larger.get(parent, "larger"))
        own = larger.get(g, wanted)
        if groups.kind[g] == "hidden" and (g >= groups.num_placed or own.endswith("heads")):
            wanted = own
        taken[wanted] = taken.get(wanted, 0) + 1
        order[g] = wanted if taken[wanted] == 1 else f"{wanted}#{taken[wanted]}"

    by_use = sorted(placed.items(), key=lambda item: item[1].order)
    for tensor, use in by_use:
        owner = tensor.rpartition(".")[0] or tensor
        for part in UNIT_PARTS:
            for axes in (a for a, p in use.parts.items() if p == part):
                for g, _ in groups.spans(tensor, axes):
                    if groups.kind[g] == "input":
                        enter(g, "input")
                    elif part == "in" and use.lookup:
                        enter(g, f"{owner}.rows")
                    elif part != "in":
                        enter(g, owner)
    for tensor, use in by_use:  # sources that nothing here produces
        for axes, part in use.parts.items():
            if part in UNIT_PARTS:
                for g, _ in groups.spans(tensor, axes):
                    enter(g, f"{tensor.rpartition('.')[0] or tensor}.in")
    return order


def _opaque(spec: TensorSpec) -> Block:
    axes = tuple(Span(units=None, size=1, slots=size) for size in spec.shape)
    return Block(name=spec.name, tensor=spec.name, kind="opaque", role="opaque", axes=axes)


def _operations(ledger: Ledger, groups: Groups, names: Mapping[int, str]) -> list[Operation]:
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
    ledger: Ledger, groups: Groups, names: Mapping[int, str], opaque: Sequence[TensorSpec]
) -> list[Note]:
    """What was given up and why; inputs and outputs are fixed by nature and not mentioned."""
    notes: dict[Note, None] = {}
    told = set()
    for found in ledger.remarks:
        place = partial(
            Note,
            operation=found.operation,
            module=found.module,
            line=found.line,
            unsupported=found.unsupported,
        )
        if isinstance(found.subject, str):
            told.add(found.subject)
            notes[place(subject=found.subject, reason=found.reason)] = None
            continue
        for g in torch.unique(groups.of_atom[found.subject]).tolist():
            if g >= 0 and groups.kind[g] == "fixed":
                why = f"its units keep their places: {found.reason}"
                notes[place(subject=names[g], reason=why)] = None
    for spec in opaque:
        if spec.name not in told:
            used = spec.name in ledger.touched
            why = "no axis of it could be placed" if used else "not used in the traced run"
            notes[Note(subject=spec.name, operation="opaque", module="", reason=why)] = None
    return list(notes)
