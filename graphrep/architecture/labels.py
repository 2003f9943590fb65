"""Labels that ride along with a traced run: which unit does each element belong to.

Every index of every parameter axis is an *atom*, and so is every element of a
float input. An activation carries a label tensor of its own shape (expanded,
so that a label that does not vary along an axis costs nothing) with the atom of
each element. Rules tie atoms that must move together, freeze those that must
not move, and colour those that may only be exchanged with their like. Nothing
here knows an operation; that is `rules.py`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

NONE = -1  # the same under every reordering, but perhaps unlike its neighbours
ZERO = -2  # a constant zero: facing it tells nothing apart


@dataclass(frozen=True)
class Activation:
    """Labels of a tensor that was computed; `producer` is the weight it just came out of."""

    labels: Tensor
    producer: str = ""


@dataclass(frozen=True)
class Reference:
    """A parameter or a view of one: for each of its axes, the atom of every element."""

    name: str
    coords: tuple[Tensor, ...]


Tracked = Activation | Reference


def varying_dims(labels: Tensor) -> set[int]:
    """The dimensions along which labels differ."""
    if labels.numel() == 0:
        return set()
    return {
        dim
        for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True))
        if size > 1 and stride != 0 and not bool((labels == labels.narrow(dim, 0, 1)).all())
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
    """How a parameter was used: the part each of its axes plays and where."""

    role: str = ""
    axis_parts: dict[int, str] = field(default_factory=dict)  # out, in, unit, position
    leader: str = ""
    order: int = 0
    lookup: bool = False


class Ledger:
    """All atoms of a run and what is known of them."""

    def __init__(self) -> None:
        self.num_atoms = 0
        self.axes: dict[tuple[str, int], Tensor] = {}  # atoms of a tensor's axis
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.ties: list[Tensor] = []  # [2, k]
        self.frozen: list[Tensor] = []
        self.colours: list[tuple[Tensor, Tensor]] = []
        self.uses: dict[str, Use] = {}
        self.touched: set[str] = set()  # parameters that any operation read
        self.operations: list[dict] = []
        self.behaviour: list[str] = []  # every operation with its plain arguments
        self.notes: list[tuple[Tensor | str, str, str, str]] = []  # subject, operation, module, why
        self.context: tuple[str, str] = ("", "")  # operation, module path

    def new_atoms(self, num: int) -> Tensor:
        start, self.num_atoms = self.num_atoms, self.num_atoms + num
        return torch.arange(start, self.num_atoms)

    def reference(self, name: str, shape: tuple[int, ...]) -> Reference:
        """Atoms for each axis of a parameter, expanded to its shape."""
        coords = []
        for axis, size in enumerate(shape):
            atoms = self.new_atoms(size)
            self.axes[name, axis] = atoms
            along = [1] * len(shape)
            along[axis] = size
            coords.append(atoms.view(along).expand(shape))
        return Reference(name, tuple(coords))

    # What rules say ---------------------------------------------------------

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Atoms facing each other move together; one that faces NONE is told from the rest."""
        if a is b:
            return
        a, b = drop_repeats(a, b)
        a, b = a.reshape(-1), b.reshape(-1)
        both = (a >= 0) & (b >= 0) & (a != b)
        if both.any():
            self.ties.append(torch.unique(torch.stack([a[both], b[both]]), dim=1))
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

    def freeze(self, labels: Tensor, reason: str) -> None:
        """These atoms keep their places."""
        (labels,) = drop_repeats(labels)
        atoms = torch.unique(labels[labels >= 0])
        if len(atoms):
            self.frozen.append(atoms)
            if reason:
                self.notes.append((atoms, *self.context, reason))

    def colour(self, labels: Tensor, colours: Tensor) -> None:
        """Atoms may be exchanged only with those that meet the same colours equally often."""
        labels, colours = drop_repeats(labels, colours)
        labels, colours = labels.reshape(-1), colours.reshape(-1)
        real = labels >= 0
        labels, colours = labels[real], colours[real]
        if len(labels) == 0:
            return
        atoms, where = torch.unique(labels, return_inverse=True)
        digests = torch.zeros_like(atoms).index_add_(0, where, _scatter_bits(colours))
        if len(atoms) > 1 and len(torch.unique(digests)) == len(atoms):
            self.freeze(atoms, "each meets a value of its own")
        else:
            self.colours.append((atoms, digests))

    def use(self, name: str, role: str, leader: str = "", lookup: bool = False) -> Use:
        """Note the first use of a parameter; later ones only add axis parts."""
        if name not in self.uses:
            self.uses[name] = Use(role=role, leader=leader, order=len(self.uses), lookup=lookup)
        return self.uses[name]

    def give_up(self, tracked: Tracked, reason: str) -> None:
        """Freeze all that a value carries; a parameter that no rule places is opaque."""
        if isinstance(tracked, Activation):
            self.freeze(tracked.labels, reason)
            return
        for coords in tracked.coords:
            self.freeze(coords, "")
        self.notes.append((tracked.name, *self.context, reason))


@dataclass
class Classes:
    """Atoms after all ties: a class of atoms is one unit."""

    of_atom: Tensor  # [num_atoms]
    num: int
    frozen: Tensor  # bool [num]
    colours: list[tuple[tuple[int, int], ...]]  # a unit


def classify(ledger: Ledger) -> Classes:
    """Connected components of the ties, with what is frozen and coloured."""
    of_atom, num = _components(ledger.num_atoms, ledger.ties)
    frozen = torch.zeros(num, dtype=torch.bool)
    for atoms in ledger.frozen:
        frozen[of_atom[atoms]] = True
    colours: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for operation, (atoms, values) in enumerate(ledger.colours):
        classes = of_atom[atoms]
        present = torch.unique(classes)
        total = torch.zeros(num, dtype=torch.int64).index_add_(0, classes, _scatter_bits(values))
        for c, value in zip(present.tolist(), total[present].tolist(), strict=True):
            colours[c].append((operation, value))
    return Classes(of_atom, num, frozen, [tuple(colours[c]) for c in range(num)])


def _scatter_bits(numbers: Tensor) -> Tensor:
    """Numbers spread over 64 bits, so that a sum of them tells multisets apart."""
    mixed = (numbers + 1) * -7046029254386353131  # odd; int64 arithmetic wraps around
    mixed = (mixed ^ (mixed >> 31)) * -4658895280553007687
    return mixed ^ (mixed >> 29)


def _components(num_atoms: int, ties: list[Tensor]) -> tuple[Tensor, int]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = torch.cat([torch.empty(2, 0, dtype=torch.int64), *ties], dim=1).numpy()
    if num_atoms == 0:
        return torch.empty(0, dtype=torch.int64), 0
    ones = torch.ones(pairs.shape[1], dtype=torch.int8).numpy()
    graph = coo_array((ones, (pairs[0], pairs[1])), shape=(num_atoms, num_atoms))
    num, of_atom = connected_components(graph, directed=False)
    return torch.as_tensor(of_atom, dtype=torch.int64), int(num)


def index_of(shape: torch.Size) -> Tensor:
    """A different number for every element of a tensor of this shape."""
    return torch.arange(prod(shape)).view(shape)
