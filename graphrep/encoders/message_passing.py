"""Message passing on dense blocks: matrix products instead of gathered edges.

A block's edges are a dense [B, target, source, channels] tensor, so a message is
a batched matrix product. Equal to message passing along the explicit edges of
the parameter graph (tests/references.py), at a fraction of the cost. Groups of a
block are folded into the batch. Units that sit within others, such as the dims of
heads, hear of these and these of them, since moving a dim to another head makes
another network.

Letters in shapes: B batch, n units, C unit channels, E edge channels, V value
channels an edge channel, t/s target and source units, H parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import Architecture


@dataclass(frozen=True, eq=False)
class Kin:
    """One unit group within another: means over children, parents spread to their children."""

    child: str
    parent: str
    every: int  # children a parent, one parent after the other; 0 where only `member` says
    member: Tensor  # int64 [n], the parent of each child
    count: Tensor  # int64 [H], children of each parent

    def mean(self, children: Tensor) -> Tensor:
        """[B, n, C] -> [B, H, C]; zero for a parent without children."""
        if self.every:
            return children.unflatten(1, (len(self.count), self.every)).mean(2)
        total = children.new_zeros(len(children), len(self.count), children.shape[2])
        total = total.index_add(1, self.member, children)
        return total / self.count.clamp(min=1).unsqueeze(1)

    def spread(self, parents: Tensor) -> Tensor:
        """[B, H, C] -> [B, n, C]"""
        if self.every:
            return parents.repeat_interleave(self.every, 1)
        return parents[:, self.member]


def kin(architecture: Architecture, device: torch.device) -> list[Kin]:
    """All pairs of unit groups of which one sits within the other."""
    found = []
    for units in architecture.units:
        for parent in units.parents:
            member = parent.of(units.size)
            count = torch.bincount(member, minlength=architecture.unit[parent.units].size)
            regular = parent.table is None and bool((count == parent.every).all())
            every = parent.every if regular else 0
            found.append(Kin(units.name, parent.units, every, member.to(device), count.to(device)))
    return found


def fold(x: Tensor, groups: int) -> Tensor:
    """Groups into the batch: [B, groups * n, ...] -> [B * groups, n, ...]."""
    return x if groups == 1 else x.reshape(len(x) * groups, x.shape[1] // groups, *x.shape[2:])


def unfold(x: Tensor, groups: int) -> Tensor:
    """The inverse of `fold`."""
    return x if groups == 1 else x.reshape(len(x) // groups, x.shape[1] * groups, *x.shape[2:])


class Round(nn.Module):
    """One round: edges read their two ends, units read their edges, both ways."""

    def __init__(self, unit_dim: int, edge_dim: int, value_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(unit_dim)
        self.edge_in = nn.Linear(edge_dim, 2 * edge_dim)
        self.edge_target = nn.Linear(unit_dim, 2 * edge_dim, bias=False)
        self.edge_source = nn.Linear(unit_dim, 2 * edge_dim, bias=False)
        self.edge_out = nn.Linear(2 * edge_dim, edge_dim)
        self.forward_message = Message(unit_dim, edge_dim, value_dim)
        self.backward_message = Message(unit_dim, edge_dim, value_dim)
        self.update = nn.Sequential(
            nn.Linear(3 * unit_dim, 2 * unit_dim), nn.GELU(), nn.Linear(2 * unit_dim, unit_dim)
        )
        # more inputs of the update; the identity draws no random numbers, so that a seed gives
        # every other weight the value it had before there were kin
        self.kin = nn.Parameter(torch.eye(2 * unit_dim))

    def edges(self, edge: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """edge [B, t, s, E] reads target [B, t, C] and source [B, s, C] (both normalised)."""
        inner = self.edge_in(edge)
        inner = (
            inner + self.edge_target(target).unsqueeze(2) + self.edge_source(source).unsqueeze(1)
        )
        return edge + self.edge_out(F.gelu(inner))

    def hear_kin(self, normal: Mapping[str, Tensor], found: Sequence[Kin]) -> dict[str, Tensor]:
        """What units read from their children's mean and their parents, [B, n, 2C] a group."""
        from_children, from_parents = self.kin.chunk(2, dim=1)
        up: dict[str, list[Tensor]] = {}
        down: dict[str, list[Tensor]] = {}
        for k in found:
            heard = F.linear(k.mean(normal[k.child]), from_children)
            up.setdefault(k.parent, []).append(heard)
            heard = k.spread(F.linear(normal[k.parent], from_parents))
            down.setdefault(k.child, []).append(heard)
        result = {name: torch.stack(parts).mean(0) for name, parts in up.items()}
        for name, parts in down.items():
            heard = torch.stack(parts).mean(0)
            result[name] = result[name] + heard if name in result else heard
        return result

    def units(
        self,
        state: Tensor,
        normal: Tensor,
        incoming: Tensor,
        outgoing: Tensor,
        heard: Tensor | None = None,
    ) -> Tensor:
        """state [B, n, C] reads what came along incoming and back along outgoing edges, and kin."""
        first, activation, last = self.update
        inner = first(torch.cat([normal, incoming, outgoing], -1))
        if heard is not None:
            inner = inner + heard
        return state + last(activation(inner))


class Message(nn.Module):
    """Mean over neighbours of edge channel times value, and the edges' own first two moments."""

    def __init__(self, unit_dim: int, edge_dim: int, value_dim: int) -> None:
        super().__init__()
        self.edge_dim, self.value_dim = edge_dim, value_dim
        self.value = nn.Linear(unit_dim, edge_dim * value_dim)
        self.out = nn.Linear(edge_dim * value_dim + 2 * edge_dim, unit_dim)

    def forward(self, edge: Tensor, neighbour: Tensor) -> Tensor:
        """edge [B, n, m, E], neighbour [B, m, C] -> [B, n, C], a mean over m."""
        B, n, m, E = edge.shape
        values = self.value(neighbour).view(B, m, E, self.value_dim).permute(0, 2, 1, 3)
        mixed = (edge.permute(0, 3, 1, 2) @ values) / m  # [B, E, n, V]
        mixed = mixed.permute(0, 2, 1, 3).reshape(B, n, E * self.value_dim)
        moments = torch.cat([edge.mean(2), edge.square().mean(2)], -1)
        return self.out(torch.cat([mixed, moments], -1))
