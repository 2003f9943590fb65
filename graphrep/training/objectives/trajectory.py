"""Prediction of a training's next checkpoint from this one: what would training do next?

The token latents of checkpoint t, moved by what the whole network and the relative length
of the step say, go through the shared decoder; what it says of them more than of the
latents unmoved is the predicted change. So before training the prediction is no change,
which is the baseline.

No published objective does this for zoos. Nearest: next-checkpoint prediction of Knyazev
et al. 2025, arXiv:2409.04434 (NiNo), which extrapolates single trainings for speed and
trains a decoder of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...architecture.reorder import reorder_theta
from ...encoders import Batch
from ...model import WeightModel
from ...symmetry import random_permutation
from ...tokens import token_grid
from ..networks import Rows
from .base import Objective


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """Settings of `Trajectory`; see conf/objective/trajectory.yaml."""

    name: str = "trajectory"
    change_weight: float = 1.0  # of the change to the next checkpoint
    seen_weight: float = 1.0  # of reconstructing this one
    floor: float = 0.01  # mean square of a scaled change, below which changes count less
    hidden_dim: int = 64  # of what moves the latents
    window: int = 128  # tokens a network and step, from a random start
    permute: bool = True  # a new order of hidden units a batch, for this checkpoint and the next

    def __post_init__(self) -> None:
        if min(self.change_weight, self.seen_weight) < 0 or not self.change_weight:
            raise ValueError(
                "objective.change_weight must be positive and seen_weight 0 or more, got "
                f"{self.change_weight} and {self.seen_weight}"
            )
        if self.floor <= 0 or min(self.hidden_dim, self.window) < 1:
            raise ValueError(
                "objective.floor must be positive, hidden_dim and window at least 1, got "
                f"{self.floor}, {self.hidden_dim} and {self.window}"
            )


class Trajectory(Objective):
    """Needs `Rows.later`, and `Rows.targets` [B, 1] with the relative length of the step.

    Losses: `change` is the squared error over the change's own mean square (and the floor),
    `unchanged` what predicting no change costs by that measure, `ratio` the plain squared
    error over that of no change: below 1 something is foreseen.
    """

    decodes = True

    def __init__(self, config: TrajectoryConfig, model: WeightModel) -> None:
        super().__init__()
        self.config = config
        D, Z, H = model.learned_dim, model.config.latent_dim, config.hidden_dim
        self.whole = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, H))
        self.own = nn.Linear(Z, H)
        self.step = nn.Linear(1, H)
        self.out = nn.Linear(H, Z)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        if rows.later is None or rows.has_later is None or rows.targets is None:
            raise ValueError(
                "objective trajectory needs each network's next checkpoint: take the networks "
                "from graphrep.training.targets.networks_of"
            )
        config, a = self.config, rows.architecture
        theta, later = rows.theta, rows.later
        if config.permute:
            order = random_permutation(a, generator)
            theta, later = (reorder_theta(a, t, order) for t in (theta, later))
        grid = token_grid(a, model.config.token_size)
        window = slice(0, grid.num_tokens)
        if grid.num_tokens > config.window:
            start = int(torch.randint(grid.num_tokens - config.window + 1, (), generator=generator))
            window = slice(start, start + config.window)
        now, then = (model.values(t, a) for t in (theta, later))
        embedding = model.embed(Batch(a, now, model.config.token_size, window=window))
        moved = self.move(embedding.tokens, embedding.model, rows.targets.to(now))
        both = torch.cat([embedding.tokens, moved])
        found, next_found = model.decoder(both, grid.position[window]).to(now).chunk(2)
        real = grid.mask[window].to(now)
        here, there = grid.cut(now)[:, window], grid.cut(then)[:, window]
        change = there - here
        error = _mean(next_found - found - change, real) * rows.has_later
        size = _mean(change, real) * rows.has_later
        losses = {
            "change": (error / (size + config.floor)).mean(),
            "seen": _mean(found - here, real).mean(),
        }
        loss = config.change_weight * losses["change"] + config.seen_weight * losses["seen"]
        with torch.no_grad():
            losses["unchanged"] = (size / (size + config.floor)).mean()
            losses["ratio"] = error.sum() / size.sum().clamp(min=1e-12)
        return {**losses, "loss": loss}

    def move(self, latents: Tensor, whole: Tensor, step: Tensor) -> Tensor:
        """Latents [B, T, Z] of the checkpoint that comes `step` [B, 1] later."""
        told = self.whole(whole) + self.step(torch.nan_to_num(step))
        moved: Tensor = latents + self.out(F.gelu(self.own(latents) + told.unsqueeze(1)))
        return moved


def _mean(difference: Tensor, real: Tensor) -> Tensor:
    """Mean square of each network's real entries: [B, T, S] -> [B]."""
    return (difference.square() * real).sum((1, 2)) / real.sum().clamp(min=1)
