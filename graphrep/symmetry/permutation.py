"""Permutations of hidden units as a group: identity, product, inverse, random element."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.nesting import complete, draw


class Permutation(Mapping[str, Tensor]):
    """An order a hidden unit group of one architecture.

    Groups not named stay as they are, but for those that sit within a group that moves.
    New unit i is old unit `g[units][i]`. Acts from the left:
    `graph.permute(h).permute(g)` equals `graph.permute(g.compose(h))`.
    """

    def __init__(self, architecture: Architecture, orders: Mapping[str, Tensor]) -> None:
        self.architecture = architecture
        self._orders = complete(architecture, orders)

    def __getitem__(self, units: str) -> Tensor:
        return self._orders[units]

    def __iter__(self) -> Iterator[str]:
        return iter(self._orders)

    def __len__(self) -> int:
        return len(self._orders)

    def compose(self, first: Permutation) -> Permutation:
        """The permutation that applies `first`, then this one."""
        names = {**first._orders, **self._orders}
        orders = {}
        for name in names:
            size = self.architecture.unit[name].size
            before = first._orders.get(name, torch.arange(size))
            orders[name] = before[self._orders.get(name, torch.arange(size))]
        return Permutation(self.architecture, orders)

    def inverse(self) -> Permutation:
        """What undoes this permutation."""
        return Permutation(self.architecture, {n: torch.argsort(o) for n, o in self.items()})

    def specification(self) -> dict[str, list[tuple[str, int]]]:
        """Which tensor axes each group moves: git re-basin's perm -> (parameter, axis)."""
        return {
            name: [
                (block.tensor, axis)
                for block in self.architecture.blocks_of(name)
                for axis, span in enumerate(block.axes)
                if span.units == name
            ]
            for name in self
        }

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(order)}" for name, order in self.items())
        return f"Permutation({{{sizes}}})"


def random_permutation(
    architecture: Architecture, generator: torch.Generator | None = None
) -> Permutation:
    """A permutation drawn uniformly from the architecture's group."""
    return Permutation(architecture, draw(architecture, generator))


def identity(architecture: Architecture) -> Permutation:
    """The permutation that moves nothing."""
    return Permutation(
        architecture, {u.name: torch.arange(u.size) for u in architecture.units if not u.fixed}
    )
