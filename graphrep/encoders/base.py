"""What every encoder takes and gives, so that they can be compared on equal terms."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..architecture import Architecture
from ..architecture.reorder import read_block
from ..tokens import TokenGrid, token_grid

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True, eq=False)
class Batch:
    """Networks of one architecture, scaled; a network a row.

    `visible` [B, P] is False where a number is hidden from the encoder (its
    value is 0 there); None when all is seen. `window` bounds the tokens that
    are wanted, so that training need not encode them all; without `tokens` none is,
    and an encoder that does not pool them spares itself the work.
    With `predict`, an encoder that can says what stands where it sees nothing.
    """

    architecture: Architecture
    values: Tensor  # [B, P]
    token_size: int
    visible: Tensor | None = None
    window: slice = field(default_factory=lambda: slice(None))
    tokens: bool = True
    predict: bool = False

    @property
    def grid(self) -> TokenGrid:
        return token_grid(self.architecture, self.token_size)


@dataclass(frozen=True, eq=False)
class Embedding:
    """`tokens` [B, T, Z] of the window, `model` [B, D], `units` [B, N, C] if there are any.

    `tokens` is [B, 0, Z] where none was wanted. `numbers` [B, P] are scaled numbers as the
    encoder predicts them from what is visible, NaN where it makes no prediction.
    """

    tokens: Tensor
    model: Tensor
    units: Tensor | None = None
    numbers: Tensor | None = None


class Encoder(nn.Module):
    """Batch -> Embedding. `embedding_dim` is D, `latent_dim` is Z."""

    embedding_dim: int
    latent_dim: int

    def forward(self, batch: Batch) -> Embedding:
        raise NotImplementedError


def depth_weights(num: int, num_slots: int, like: Tensor) -> Tensor:
    """Spread a list of layers over a fixed number of slots by relative depth: [slots, num].

    Linear interpolation: with as many layers as slots each layer has its own,
    first and last always land on the first and last slot. Rows sum to one
    (zero for a slot that no layer reaches).
    """
    place = torch.linspace(0, num_slots - 1, num) if num != 1 else torch.zeros(1)
    slots = torch.arange(num_slots).unsqueeze(1)
    weights = (1 - (place - slots).abs()).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
    return weights.to(like)


def layer_moments(values: Tensor, architecture: Architecture, num_slots: int) -> Tensor:
    """s(W): mean, variance and quantiles of each layer's numbers, [B, slots * 14].

    Weights and the diagonal numbers (biases, norms) of a layer apart. Source:
    Unterthiner et al. 2020, arXiv:2002.11448; layers are spread over slots by depth.
    """
    parts = []
    for kinds in (("dense", "lookup", "opaque"), ("diagonal",)):
        layers: dict[str, list[Tensor]] = {}
        for block in architecture.blocks:
            if block.kind in kinds and block.num_edges:
                numbers = read_block(architecture, block, values).flatten(1)
                layers.setdefault(block.leader or block.tensor, []).append(numbers)
        rows = [moments(torch.cat(numbers, 1)) for numbers in layers.values()]
        if not rows:
            parts.append(values.new_zeros(len(values), num_slots * (2 + len(QUANTILES))))
            continue
        stacked = torch.stack(rows, 1)  # [B, layers, 7]
        spread = depth_weights(len(rows), num_slots, stacked) @ stacked
        parts.append(spread.flatten(1))
    return torch.cat(parts, 1)


def moments(numbers: Tensor) -> Tensor:
    """Mean, variance and quantiles of each row: [B, n] -> [B, 7]."""
    quantiles = torch.quantile(numbers, numbers.new_tensor(QUANTILES), dim=1).T
    centre = numbers.mean(1, keepdim=True)
    return torch.cat([centre, numbers.var(1, unbiased=False, keepdim=True), quantiles], 1)


NUM_MOMENTS = 2 * (2 + len(QUANTILES))
