"""Which old unit takes which new place: linear assignments within units, and nested ones.

Units within units move together, so putting head b in the place of head a is worth its own
similarity plus the best assignment of what sits inside, and so on down. Knows the nesting of
an architecture; what makes two units alike is a `Score`'s business.

Letters in shapes: n members of a unit group, F families (members that share all parents, and
may take each other's place), m members of each family.
Source: assignments, git re-basin, Ainsworth et al. 2023, arXiv:2209.04836, section 3. They
match one level; here assignments are nested, and a family's parents are held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.nesting import children, family, follow, ordered

Orders = dict[str, Tensor]  # new unit i is old unit orders[units][i]


class Score(Protocol):
    """How alike units of two networks are. `known` names the groups to reckon with: None, all."""

    def similarity(
        self, units: str, members: Tensor, orders: Mapping[str, Tensor], known: set[str] | None
    ) -> Tensor | None:
        """Worth of each present unit in each place: members [F, m] -> [F, place, unit].

        Units are those that `orders` put there. None where nothing known speaks of them.
        """

    def worth(
        self, names: set[str], orders: Mapping[str, Tensor], known: set[str] | None
    ) -> dict[str, Tensor]:
        """What the orders are worth, all that concerns these groups: a number a member."""


@dataclass(frozen=True)
class Lanes:
    """Units that take each other's place when those above do: [L, m], and the family of each L."""

    units: str
    members: Tensor
    family: Tensor


@dataclass(frozen=True)
class Nest:
    """How the unit groups of an architecture sit within one another."""

    architecture: Architecture
    names: tuple[str, ...]  # hidden groups, each after its parents
    below: dict[str, tuple[str, ...]]  # what moves along with a group, parents first
    families: dict[str, tuple[Tensor, ...]]  # members [F, m], one tensor for each m above one
    above: dict[str, dict[str, Tensor]]  # [group][one below it]: the member each sits within
    passes: dict[str, int]  # over what sits inside: two where groups inside depend on each other
    lanes: dict[str, tuple[Lanes, ...]]  # for groups that leave those below no choice

    @staticmethod
    @lru_cache(maxsize=64)
    def of(architecture: Architecture) -> Nest:
        order = [u.name for u in ordered(architecture)]
        free = tuple(n for n in order if not architecture.unit[n].fixed)
        below = {name: _below(architecture, name, order) for name in free}
        above = {name: _above(architecture, name, below[name]) for name in free}
        families = {name: _families(architecture, name) for name in free}
        passes = {name: _passes(architecture, below[name]) for name in free}
        nest = Nest(architecture, free, below, families, above, passes, {})
        nest.lanes.update({name: _lanes(nest, name) for name in free if nest.is_rigid(name)})
        return nest

    def is_rigid(self, units: str) -> bool:
        """Whether all that sits within has but one way to follow."""
        return bool(self.below[units]) and not any(self.families[n] for n in self.below[units])

    def parents(self, units: str) -> set[str]:
        """The groups that may move and that these units sit directly within."""
        return {p.units for p in self.architecture.unit[units].parents} & set(self.names)

    def identity(self) -> Orders:
        return {name: torch.arange(self.architecture.unit[name].size) for name in self.names}

    def moved(self, orders: Orders, units: str, relative: Tensor) -> Orders:
        """The orders after one more of `units`; what sits within them follows.

        Raises:
            ValueError: members of a family have unlike units inside.
        """
        steps = {units: relative}
        for name in self.below[units]:
            steps[name] = follow(self.architecture, self.architecture.unit[name], steps, None)
        return {**orders, **{name: orders[name][step] for name, step in steps.items()}}


def rematch(
    nest: Nest, score: Score, units: str, orders: Orders, known: set[str] | None
) -> tuple[Orders, set[str]]:
    """Match a group anew, within its families, and all that sits within it.

    Returns:
        The new orders, and which of the groups anything known spoke of.
    """
    if known is not None and not nest.parents(units) <= known:
        return orders, set()
    if nest.below[units] and not nest.lanes.get(units):
        return _rematch_nested(nest, score, units, orders, known)
    relative, inside = torch.arange(len(orders[units])), nest.below[units]
    informed = not nest.families[units]  # it has no choice
    for members in nest.families[units]:
        similarity = score.similarity(units, members, orders, known)
        for lanes in nest.lanes.get(units, ()):
            if lanes.members.shape[1] != members.shape[1]:
                continue
            if known is not None and not nest.parents(lanes.units) <= {*known, units, *inside}:
                continue
            found = score.similarity(lanes.units, lanes.members, orders, known)
            if found is not None:
                total = found.new_zeros(len(members), *found.shape[1:])
                total.index_add_(0, lanes.family, found)
                similarity = total if similarity is None else similarity + total
        if similarity is not None:
            informed = True
            relative[members] = members.gather(1, assign(similarity))
    if not informed:
        return orders, set()
    return nest.moved(orders, units, relative), {units}


def _rematch_nested(
    nest: Nest, score: Score, units: str, orders: Orders, known: set[str] | None
) -> tuple[Orders, set[str]]:
    """Try every pair of a family: trial s puts the unit s places further on in every place."""
    inside = nest.below[units]
    num_trials = max((members.shape[1] for members in nest.families[units]), default=1)
    size = len(orders[units])
    worths, found = torch.full((num_trials, size), -torch.inf, dtype=torch.float64), []
    informed: set[str] = set()
    for shift in range(num_trials):
        relative = torch.arange(size)
        for members in nest.families[units]:
            relative[members] = members.roll(-shift, 1)
        try:
            trial = nest.moved(orders, units, relative)
        except ValueError:  # unlike units inside: not to be exchanged
            found.append(orders)
            continue
        reckoned = None if known is None else known | {units}
        for _ in range(nest.passes[units]):
            for name in inside:
                trial, learned = rematch(nest, score, name, trial, reckoned)
                if reckoned is not None:
                    reckoned = reckoned | learned
                informed |= learned
        worth = score.worth({units, *inside}, trial, reckoned)
        if units in worth or informed:
            informed.add(units)
        worths[shift] = worth.pop(units, torch.zeros(size, dtype=torch.float64))
        for name, value in worth.items():
            worths[shift].index_add_(0, nest.above[units][name], value)
        found.append(trial)
    chosen = torch.zeros(size, dtype=torch.int64)  # for each place the trial to follow
    for members in nest.families[units]:
        num, m = members.shape
        here = torch.arange(m)
        shifts = (here.unsqueeze(0) - here.unsqueeze(1)) % m  # [place, unit]
        similarity = worths[shifts.expand(num, m, m), members.unsqueeze(2)]
        chosen[members] = (assign(similarity) - here) % m
    result = dict(orders)
    for name in (units, *inside):
        choice = chosen if name == units else chosen[nest.above[units][name]]
        stacked = torch.stack([trial[name] for trial in found])
        result[name] = stacked[choice, torch.arange(stacked.shape[1])]
    return result, informed


def assign(similarity: Tensor) -> Tensor:
    """The best assignment of each matrix: [F, place, unit] -> unit for each place [F, m].

    A worth of minus infinity forbids; the diagonal must be allowed.
    """
    from scipy.optimize import linear_sum_assignment

    orders = []
    for matrix in similarity.numpy():
        _, order = linear_sum_assignment(matrix, maximize=True)
        orders.append(torch.as_tensor(order, dtype=torch.int64))
    return torch.stack(orders)


def _below(architecture: Architecture, name: str, order: list[str]) -> tuple[str, ...]:
    found: set[str] = set()
    open_ = [name]
    while open_:
        for child in children(architecture, open_.pop()):
            if child.name not in found:
                found.add(child.name)
                open_.append(child.name)
    return tuple(n for n in order if n in found)


def _above(architecture: Architecture, name: str, inside: tuple[str, ...]) -> dict[str, Tensor]:
    members = {name: torch.arange(architecture.unit[name].size)}
    for child in inside:
        units = architecture.unit[child]
        parent = next(p for p in units.parents if p.units in members)
        members[child] = members[parent.units][parent.of(units.size)]
    return {child: members[child] for child in inside}


def _passes(architecture: Architecture, inside: tuple[str, ...]) -> int:
    joined = any(b.source in inside and b.target in inside for b in architecture.blocks)
    shared = any(len(architecture.unit[name].parents) > 1 for name in inside)
    return 2 if joined or shared else 1


def _lanes(nest: Nest, name: str) -> tuple[Lanes, ...]:
    """Where every unit below goes when a family turns; () where units inside are unlike."""
    found = []
    for members in nest.families[name]:
        turned = []
        for shift in range(members.shape[1]):
            relative = torch.arange(nest.architecture.unit[name].size)
            relative[members] = members.roll(-shift, 1)
            try:
                turned.append(nest.moved(nest.identity(), name, relative))
            except ValueError:
                return ()
        family = torch.full_like(turned[0][name], -1)
        family[members[:, 0]] = torch.arange(len(members))
        for inside in nest.below[name]:
            of_family = family[nest.above[name][inside]]
            first = torch.nonzero(of_family >= 0).flatten()
            lanes = torch.stack([orders[inside][first] for orders in turned], 1)
            found.append(Lanes(inside, lanes, of_family[first]))
    return tuple(found)


def _families(architecture: Architecture, name: str) -> tuple[Tensor, ...]:
    number, num = family(architecture, name)
    by_size: dict[int, list[Tensor]] = {}
    if num == len(number):
        return ()
    places = torch.argsort(number, stable=True)
    for members in places.split(torch.bincount(number, minlength=num).tolist()):
        if len(members) > 1:
            by_size.setdefault(len(members), []).append(members)
    return tuple(torch.stack(members) for members in by_size.values())
