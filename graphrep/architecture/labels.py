"""Labels that ride along with a traced run: which unit does each element belong to.

Every index of every parameter axis is an *atom*, and so is every element of a
float input. An activation carries a label tensor of its own shape (expanded,
so that a label that does not vary along an axis costs nothing) with the atom of
each element. Rules tie atoms that must move together, freeze those that must
not move, colour those that may only be exchanged with their like, and link those
that go with a larger unit, such as a head. Nothing here knows an operation; those
are in `rules/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from .remarks import Remark, calling_line

NONE = -1  # the same under every reordering, but perhaps unlike its neighbours
ZERO = -2  # a constant zero: facing it tells nothing apart


@dataclass(frozen=True)
class Activation:
    """Labels of a tensor that was computed; `producer` is the weight it just came out of.

    `history` is a digest of what was done to its units since they were made.
    """

    labels: Tensor
    producer: str = ""
    history: int = 0


@dataclass(frozen=True)
class Reference:
    """A parameter or a view of one: for each of its axes, the atom of every element."""

    name: str
    coords: tuple[Tensor, ...]
    experts: Tensor | None = None  # whose slice of a stack it is: the first stands for all

    @property
    def is_whole(self) -> bool:
        """Whether each axis still lies along the dimension of its own number."""
        rank = self.coords[0].dim() if self.coords else 0
        return rank == len(self.coords) and all(
            varying_dims(c) <= {axis} for axis, c in enumerate(self.coords)
        )

    def is_slice(self, ledger: Ledger, axis: int) -> bool:
        """Whether one known place was taken of an axis with several."""
        coords = self.coords[axis]
        several = len(ledger.axes[self.name, (axis,)]) > 1
        return several and coords.numel() > 0 and int(coords.reshape(-1)[0]) >= 0


@dataclass(frozen=True)
class Derived:
    """What was computed from parameters alone, such as a norm: the atoms it still varies with."""

    coords: tuple[Tensor, ...]


@dataclass(frozen=True)
class Pointer:
    """Whole numbers that say which unit: an index of an expert, or where its rows end."""

    atoms: Tensor
    ends: bool = False


Tracked = Activation | Reference | Derived | Pointer


def varying_dims(labels: Tensor) -> set[int]:
    """The dimensions along which labels differ."""
    if labels.numel() == 0:
        return set()
    for dim, stride in enumerate(labels.stride()):
        if stride == 0:  # repeats are not compared
            labels = labels.narrow(dim, 0, 1)
    return {
        dim
        for dim, size in enumerate(labels.shape)
        if size > 1 and not bool((labels == labels.narrow(dim, 0, 1)).all())
    }


def drop_repeats(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Broadcast together and keep one of every dimension along which none varies."""
    wide = torch.broadcast_tensors(*tensors)
    for dim in range(wide[0].dim()):
        if all(t.stride(dim) == 0 for t in wide):
            wide = tuple(t.narrow(dim, 0, min(1, t.shape[dim])) for t in wide)
    return tuple(wide)


@dataclass
class Use:
    """How a parameter was used: the part that each of its axes plays, alone or jointly."""

    role: str = ""
    parts: dict[tuple[int, ...], str] = field(default_factory=dict)  # out, in, unit, position
    leader: str = ""
    order: int = 0
    lookup: bool = False

    def place(self, part: str, *axes: int) -> None:
        """The first use of axes says what they are."""
        self.parts.setdefault(axes, part)


class Ledger:
    """All atoms of a run and what is known of them."""

    def __init__(self) -> None:
        self.num_atoms = 0
        self.starts: list[int] = []  # of atoms that were made together
        self.axes: dict[tuple[str, tuple[int, ...]], Tensor] = {}  # atoms of axes, alone or jointly
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.ties: list[Tensor] = []  # [2, k]
        self.links: list[Tensor] = []  # [2, k]: an atom, and the one that it goes with
        self.hubs: list[tuple[Tensor, str]] = []  # atoms of larger units, and a name for them
        self.products: list[Tensor] = []  # atoms of units of which each has two larger ones
        self.sections: dict[str, Tensor] = {}  # rows of weights that were used section by section
        self.idle: list[Tensor] = []  # units that met zeros, which tell nothing
        self.statistics: set[str] = set()  # buffers that belong to units
        self.frozen: list[Tensor] = []
        self.colours: list[tuple[Tensor, Tensor]] = []
        self.uses: dict[str, Use] = {}
        self.given_up: set[str] = set()
        self.choosers: list[Tensor] = []  # units whose values chose what was computed
        self.routed: list[Tensor] = []  # experts: units each with a slice of stacked weights
        self.routes: list[Tensor] = []  # [2, k]: links of the units of a slice to its expert
        self.slices: list[Tensor] = []  # [k, experts]: alike in each slice, traced for the first
        self.last_read: tuple[int, Tensor] | None = None  # the pointer that Python read last
        self.touched: set[str] = set()  # parameters that any operation read
        self.operations: list[dict] = []
        self.behaviour: list[str] = []  # every operation with its plain arguments
        self.remarks: list[Remark] = []
        self.context: tuple[str, str] = ("", "")  # operation, module path

    def new_atoms(self, num: int) -> Tensor:
        self.starts.append(self.num_atoms)
        start, self.num_atoms = self.num_atoms, self.num_atoms + num
        return torch.arange(start, self.num_atoms)

    def reference(self, name: str, shape: tuple[int, ...]) -> Reference:
        """Atoms for each axis of a parameter, expanded to its shape."""
        coords = []
        for axis, size in enumerate(shape):
            atoms = self.new_atoms(size)
            self.axes[name, (axis,)] = atoms
            along = [1] * len(shape)
            along[axis] = size
            coords.append(atoms.view(along).expand(shape))
        return Reference(name, tuple(coords))

    def joint(self, reference: Reference, axes: tuple[int, ...]) -> Tensor:
        """Atoms of a parameter's units that lie along several axes, shaped as `reference`."""
        if len(axes) == 1:
            return reference.coords[axes[0]]
        lines = [self.axes[reference.name, (a,)] for a in axes]
        sizes = [len(line) for line in lines]
        if (reference.name, axes) not in self.axes:
            self.axes[reference.name, axes] = self.new_atoms(prod(sizes))
        place = torch.zeros((), dtype=torch.int64)
        for axis, line, size in zip(axes, lines, sizes, strict=True):
            (own,) = drop_repeats(reference.coords[axis])  # a stack of experts is large
            place = place * size + (own - line[0])
        found = self.axes[reference.name, axes][place]
        return found.expand(reference.coords[0].shape)

    # What rules say ---------------------------------------------------------

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Atoms facing each other move together; one that faces NONE is told from the rest."""
        if a is b:
            return
        a, b = drop_repeats(a, b)
        a, b = a.reshape(-1), b.reshape(-1)
        for one, other in ((a, b), (b, a)):
            idle = (one >= 0) & (other == ZERO)
            if idle.any():
                self.idle.append(torch.unique(one[idle]))
        both = (a >= 0) & (b >= 0) & (a != b)
        if both.any():
            self.ties.append(distinct_pairs(a[both], b[both]))
        for one, other in ((a, b), (b, a)):
            lonely = (one >= 0) & (other == NONE)
            if lonely.any():
                self.freeze(one[lonely], "it meets a value that may differ from unit to unit")

    def tie_along(self, labels: Tensor, dims: set[int]) -> Tensor:
        """Make labels constant along `dims` by tying them; what is left, one of each.

        A real label stands for its line even where padding comes first.
        """
        one = labels
        for dim in dims:
            if one.shape[dim] == 0:
                continue
            one = one.amax(dim, keepdim=True) if labels.stride(dim) else one.narrow(dim, 0, 1)
        if varying_dims(labels) & dims:
            self.tie(labels, one.expand_as(labels))
        return one

    def link(self, labels: Tensor, larger: Tensor) -> None:
        """Atoms go where the larger units facing them go: dims with their head."""
        labels, larger = drop_repeats(labels, larger)
        labels, larger = labels.reshape(-1), larger.reshape(-1)
        both = (labels >= 0) & (larger >= 0) & (labels != larger)
        if both.any():
            self.links.append(distinct_pairs(labels[both], larger[both]))

    def hub(self, rows: Tensor, name: str) -> Tensor:
        """What the atoms of each row have in common, [R] of rows [R, k]: a new, larger unit.

        A row of one label stands for itself. Where all rows are alike the result is NONE:
        whatever is moved within them, what they have in common stays.
        """
        real = torch.where(self.is_input(rows), NONE, rows)
        mixed = ((real == NONE).any(1) & (real >= 0).any(1)).unsqueeze(1)
        if bool(mixed.any()):  # each row holds values of its own beside its units
            where = torch.where(mixed, real, NONE)
            self.colour(where, index_of(torch.Size([len(rows), 1])).expand(rows.shape))
        high = real.amax(1)
        low = torch.where(real >= 0, real, high.unsqueeze(1)).amin(1)
        if bool((high == low).all()):
            return high
        kept, number = torch.unique(real.sort(1).values, dim=0, return_inverse=True)
        if bool(((kept[:, 1:] == kept[:, :-1]) & (kept[:, 1:] >= 0)).any()):
            self.colour(kept, torch.zeros_like(kept))  # how often each takes part
        atoms = self.new_atoms(len(kept))
        self.hubs.append((atoms, f"{self.context[1]}.{name}".lstrip(".")))
        self.colours.append((atoms, torch.zeros_like(atoms)))  # told from those of other calls
        self.link(kept, atoms.unsqueeze(1).expand(kept.shape))
        some = (kept >= 0).any(1)
        return torch.where(some & (len(kept) > 1), atoms, NONE)[number]

    def product(self, rows: Tensor, columns: Tensor) -> Tensor:
        """A unit for each pair of a row's label [R] and a column's [m]: atoms [R, m]."""
        kept, number = torch.unique(rows, return_inverse=True)
        return self.pairs(kept.unsqueeze(0), columns.unsqueeze(0))[0, number]

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """A unit for each pair of labels [k, n] and [k, m], within both: atoms [k, n, m]."""
        (k, n), m = left.shape, right.shape[1]
        atoms = self.new_atoms(k * n * m).view(k, n, m)
        self.products.append(atoms)
        self.link(atoms, left.unsqueeze(2).expand(atoms.shape))
        self.link(atoms, right.unsqueeze(1).expand(atoms.shape))
        return atoms

    def are_siblings(self, atoms: Tensor) -> bool:
        """Whether atoms were made together: units along one axis, not of two that meet later."""
        made = torch.searchsorted(torch.tensor(self.starts), atoms.reshape(-1), right=True)
        return bool((made == made[0]).all())

    def is_input(self, labels: Tensor) -> Tensor:
        """Whether labels are those of input elements, which are fixed anyway."""
        found = torch.zeros_like(labels, dtype=torch.bool)
        for atoms in self.inputs:
            if len(atoms):
                found |= (labels >= atoms[0]) & (labels <= atoms[-1])
        return found

    def route(
        self, reference: Reference, axes: tuple[int, ...], stack: int, experts: Tensor
    ) -> None:
        """Units of stacked weights go with their expert; what is traced of one holds of all."""
        atoms = self.axes[reference.name, axes]
        sizes = [len(self.axes[reference.name, (a,)]) for a in axes]
        slices = atoms.view(sizes).movedim(axes.index(stack), -1).reshape(-1, len(experts))
        pairs = torch.stack([slices.reshape(-1), experts.expand(slices.shape).reshape(-1)])
        self.routes.append(pairs)
        self.slices.append(slices)
        self.routed.append(experts)

    def freeze(self, labels: Tensor, reason: str, unsupported: bool = False) -> None:
        """These atoms keep their places."""
        (labels,) = drop_repeats(labels)
        atoms = torch.unique(labels[labels >= 0])
        if len(atoms):
            self.frozen.append(atoms)
            if reason:
                self.remark(atoms, reason, unsupported)

    def colour(self, labels: Tensor, colours: Tensor) -> None:
        """Atoms may be exchanged only with those that meet the same colours equally often."""
        labels, colours = drop_repeats(labels, colours)
        labels, colours = labels.reshape(-1), colours.reshape(-1)
        real = labels >= 0
        labels, colours = labels[real], colours[real]
        if len(labels) == 0:
            return
        atoms, where = torch.unique(labels, return_inverse=True)
        digests = torch.zeros_like(atoms).index_add_(0, where, scatter_bits(colours))
        if len(atoms) > 1 and len(torch.unique(digests)) == len(atoms):
            self.freeze(atoms, "each meets a value of its own")
        else:
            self.colours.append((atoms, digests))

    def use(self, name: str, role: str, leader: str = "", lookup: bool = False) -> Use:
        """Note the first use of a parameter; later ones only add axis parts."""
        if name not in self.uses:
            self.uses[name] = Use(role=role, leader=leader, order=len(self.uses), lookup=lookup)
        return self.uses[name]

    def remark(self, subject: Tensor | str, reason: str, unsupported: bool = False) -> None:
        """What a person should know of units or a tensor, and which line led to it."""
        self.remarks.append(Remark(subject, *self.context, reason, calling_line(), unsupported))

    def place_along(self, atoms: Tensor) -> None:
        """A parameter of which only a norm or a sum is used lies along that result's units."""
        for (name, axes), line in list(self.axes.items()):
            if len(axes) > 1 or not bool(torch.isin(atoms, line).any()) or name in self.uses:
                continue
            use = self.use(name, "other")
            for (tensor, other), rest in list(self.axes.items()):
                if tensor == name and len(other) == 1:
                    use.place("unit" if other == axes else "position", *other)
                    if other != axes:
                        self.freeze(rest, "")

    def give_up_tensor(self, name: str, reason: str) -> None:
        """All units along a parameter keep their places."""
        for (tensor, _), atoms in self.axes.items():
            if tensor == name:
                self.frozen.append(atoms)
        self.remarks.append(Remark(name, "", "", reason))

    def give_up(self, tracked: Tracked, reason: str) -> None:
        """Freeze all that a value carries; a parameter that no rule places is opaque."""
        match tracked:
            case Activation(labels):
                return self.freeze(labels, reason, True)
            case Pointer(atoms):
                return self.freeze(atoms, reason, True)
            case Derived(coords):
                for some in coords:
                    self.freeze(some, reason, True)
                return
        for along in tracked.coords:
            self.freeze(along, "")
        self.given_up.add(tracked.name)
        self.remark(tracked.name, reason, True)


def distinct_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Pairs of numbers that are not negative, each pair once and in order: [2, k]."""
    base = int(b.max()) + 1 if len(b) else 1
    pairs = torch.unique(a * base + b)
    return torch.stack([pairs // base, pairs % base])


def scatter_bits(numbers: Tensor) -> Tensor:
    """Numbers spread over 64 bits, so that a sum of them tells multisets apart."""
    mixed = (numbers + 1) * -7046029254386353131  # odd; int64 arithmetic wraps around
    mixed = (mixed ^ (mixed >> 31)) * -4658895280553007687
    return mixed ^ (mixed >> 29)


def index_of(shape: torch.Size) -> Tensor:
    """A different number for every element of a tensor of this shape."""
    return torch.arange(prod(shape)).view(shape)
