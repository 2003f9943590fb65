"""Latents of tokens from states of units, for encoders that pass messages between units.

Knows the token grid and unit states; knows not how these came about.

Letters in shapes: B batch, N units, C channels of a unit, T tokens of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch


class TokenHead(nn.Module):
    """A token's latent reads its own numbers and the states of the units at its two ends."""

    def __init__(self, unit_dim: int, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(2 * token_size, unit_dim)
        self.ends = nn.Linear(2 * unit_dim, unit_dim)
        self.mix = nn.Sequential(
            nn.LayerNorm(unit_dim),
            nn.Linear(unit_dim, 2 * unit_dim),
            nn.GELU(),
            nn.Linear(2 * unit_dim, unit_dim),
        )
        self.out = nn.Linear(unit_dim + token_size, latent_dim)

    def forward(self, batch: Batch, units: Tensor) -> Tensor:
        """units [B, N, C], groups in the architecture's order -> [B, T, latent_dim]."""
        grid, window = batch.grid, batch.window
        own = grid.cut(batch.values)[:, window]
        seen = torch.ones_like(own)
        if batch.visible is not None:
            seen = grid.cut(batch.visible.to(own))[:, window]
        nothing = units.new_zeros(len(units), 1, units.shape[2])
        target = grid.target[window].to(units.device)
        targets = torch.cat([units, nothing], 1)[:, target]  # -1 is last
        ends = torch.cat([targets, source_means(batch, units, nothing)], -1)
        hidden = self.own(torch.cat([own, seen], -1)) + self.ends(ends)
        hidden = hidden + self.mix(hidden)
        latents: Tensor = self.out(torch.cat([hidden, own], -1))
        return latents


def source_means(batch: Batch, units: Tensor, nothing: Tensor) -> Tensor:
    """Mean state of the units that each of the window's tokens reads from, [B, T, C]."""
    grid, groups = batch.grid, batch.architecture.units
    parts = units.split([u.size for u in groups], 1) if groups else ()
    state = {u.name: part for u, part in zip(groups, parts, strict=True)}
    means = [state[name].unflatten(1, (num, -1)).mean(2) for name, num in grid.sources]
    reads = grid.reads.to(units.device)
    found = torch.cat([*means, nothing], 1)[:, reads].sum(2)  # -1 is last
    found = found / (reads >= 0).sum(1, keepdim=True).clamp(min=1)
    return found[:, grid.reader[batch.window].to(units.device)]
