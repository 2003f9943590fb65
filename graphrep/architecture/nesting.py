"""Units within units: the permutations that keep what belongs together together.

Dims sit within heads, channels within groups, query heads within key-value heads. A family of
orders, one a unit group, is allowed when it respects every parent:
`parent[order[m]] == parent_order[parent[m]]`. Units without parents are free; units with
parents are free among those that share all of them. So heads and their dims make a group of
groups, and a unit with two parents (a query dim: its head and its key dim) follows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lgamma, log

import torch
from torch import Tensor

from .spec import Architecture, Units


def ordered(architecture: Architecture) -> list[Units]:
    """All unit groups, each after its parents."""
    done: dict[str, Units] = {}

    def visit(units: Units) -> None:
        if units.name not in done:
            for parent in units.parents:
                visit(architecture.unit[parent.units])
            done[units.name] = units

    for units in architecture.units:
        visit(units)
    return list(done.values())


def children(architecture: Architecture, name: str) -> list[Units]:
    """The unit groups that sit directly within another."""
    return [u for u in architecture.units if any(p.units == name for p in u.parents)]


def family(architecture: Architecture, name: str) -> tuple[Tensor, int]:
    """Which members may take each other's place while all parents stay: a number each [size]."""
    units = architecture.unit[name]
    if not units.parents:
        return torch.zeros(units.size, dtype=torch.int64), min(1, units.size)
    keys = torch.stack([p.of(units.size) for p in units.parents], 1)
    found, number = torch.unique(keys, dim=0, return_inverse=True)
    return number, len(found)


def check_orders(architecture: Architecture, orders: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all are permutations of hidden units that respect their parents."""
    for name, order in orders.items():
        _check_order(architecture, name, order)
    for units in architecture.units:
        order = orders.get(units.name, torch.arange(units.size))
        for parent in units.parents:
            members = parent.of(units.size)
            size = architecture.unit[parent.units].size
            above = orders.get(parent.units, torch.arange(size))
            if not torch.equal(members[order], above[members]):
                raise ValueError(
                    f"units '{units.name}' move with '{parent.units}': member m of those that "
                    f"belong to member p of '{parent.units}' must come from where p comes from. "
                    "Give an order for both that agrees, or for the latter alone."
                )


def complete(architecture: Architecture, orders: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The orders, with those of units that move because what they sit within moves.

    Units that are not named keep their place within their parents.

    Raises:
        ValueError: unknown or fixed units, not a permutation, or one that tears apart what
            belongs together.
    """
    result = dict(orders)
    for name, order in orders.items():
        _check_order(architecture, name, order)
    for units in ordered(architecture):
        if units.name in result or not any(p.units in result for p in units.parents):
            continue
        result[units.name] = follow(architecture, units, result, None)
    check_orders(architecture, result)
    return result


def above(architecture: Architecture, names: set[str]) -> set[str]:
    """These unit groups and all that they sit within: what cannot move if these cannot."""
    found: set[str] = set()
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += [p.units for p in architecture.unit[name].parents]
    return found


def draw(
    architecture: Architecture,
    generator: torch.Generator | None = None,
    names: set[str] | None = None,
    shift: bool = False,
) -> dict[str, Tensor]:
    """Orders drawn uniformly from the whole group, or from the part that moves `names`.

    With `shift` every unit takes the place of the one before it, so that none stays.
    """
    result: dict[str, Tensor] = {}
    for units in ordered(architecture):
        chosen = not units.fixed and (names is None or units.name in names)
        if not chosen and not any(p.units in result for p in units.parents):
            continue
        keys: Tensor | None = None
        if chosen and shift:
            keys = _shifted(family(architecture, units.name)[0])
        elif chosen:
            keys = torch.rand(units.size, generator=generator, dtype=torch.float64)
        if units.parents:
            result[units.name] = follow(architecture, units, result, keys)
        elif keys is not None:
            result[units.name] = torch.argsort(keys)
    return result


def _shifted(number: Tensor) -> Tensor:
    """Keys that turn each family by one."""
    order = torch.argsort(number, stable=True)
    sizes = torch.bincount(number)
    start = (torch.cumsum(sizes, 0) - sizes)[number[order]]
    within = torch.arange(len(number)) - start
    keys = torch.empty_like(number)
    keys[order] = (within - 1) % sizes[number[order]]
    return keys


def follow(
    architecture: Architecture,
    units: Units,
    orders: Mapping[str, Tensor],
    keys: Tensor | None,
) -> Tensor:
    """An order of units whose parents move; `keys` [size] sort those with the same parents.

    Raises:
        ValueError: the parents' orders lead members to where there are none.
    """
    here, there = [], []
    for parent in units.parents:
        members = parent.of(units.size)
        size = architecture.unit[parent.units].size
        here.append(members)
        there.append(orders.get(parent.units, torch.arange(size))[members])
    old = torch.stack(here, 1)
    wanted = torch.stack(there, 1)
    _, number = torch.unique(torch.cat([old, wanted]), dim=0, return_inverse=True)
    old_number, new_number = number[: units.size], number[units.size :]
    sources = _sorted_by(old_number, keys)
    places = torch.argsort(new_number, stable=True)
    if not torch.equal(old_number[sources], new_number[places]):
        raise ValueError(
            f"the orders of {[p.units for p in units.parents]} do not agree with each other on "
            f"units '{units.name}', which sit within them"
        )
    order = torch.empty(units.size, dtype=torch.int64)
    order[places] = sources
    return order


def _sorted_by(number: Tensor, keys: Tensor | None) -> Tensor:
    """Places by number, and among equals by key; in their own order without keys."""
    if keys is None:
        return torch.argsort(number, stable=True)
    by_key = torch.argsort(keys)
    return by_key[torch.argsort(number[by_key], stable=True)]


def log10_symmetries(architecture: Architecture) -> float:
    """Size of the permutation group, log10.

    Units whose parents fix them count nothing; a parent counts all its orders, so that heads
    of which each has its dims count H! * (d!)^H.
    """
    total = 0.0
    for units in architecture.units:
        if not units.fixed:
            number, num = family(architecture, units.name)
            sizes = torch.bincount(number, minlength=num)
            total += sum(lgamma(size + 1) for size in sizes.tolist())
    return total / log(10)


def _check_order(architecture: Architecture, name: str, order: Tensor) -> None:
    units = architecture.unit.get(name)
    hidden = [u.name for u in architecture.units if not u.fixed]
    if units is None:
        raise ValueError(
            f"architecture '{architecture.name}' has no units '{name}'; hidden units: {hidden}"
        )
    if units.fixed:
        raise ValueError(f"units '{name}' are of kind '{units.kind}' and cannot be reordered")
    if not torch.equal(torch.sort(order).values, torch.arange(units.size)):
        raise ValueError(
            f"the order of units '{name}' must hold each of 0..{units.size - 1} once, got "
            f"{tuple(order.shape)} values: {order.tolist()[:8]}..."
        )
