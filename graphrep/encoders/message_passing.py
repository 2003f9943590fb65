"""Message passing on dense blocks: matrix products instead of gathered edges.

A block's edges are a dense [B, target, source, channels] tensor, so a message is
a batched matrix product. Equal to message passing along the explicit edges of
the parameter graph (tests/references.py), at a fraction of the cost.

Letters in shapes: B batch, n units, C unit channels, E edge channels, V value
channels an edge channel, t/s target and source units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def edges(self, edge: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """edge [B, t, s, E] reads target [B, t, C] and source [B, s, C] (both normalised)."""
        inner = self.edge_in(edge)
        inner = (
            inner + self.edge_target(target).unsqueeze(2) + self.edge_source(source).unsqueeze(1)
        )
        return edge + self.edge_out(F.gelu(inner))

    def units(self, state: Tensor, normal: Tensor, incoming: Tensor, outgoing: Tensor) -> Tensor:
        """state [B, n, C] reads what came along incoming and back along outgoing edges."""
        return state + self.update(torch.cat([normal, incoming, outgoing], -1))


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
