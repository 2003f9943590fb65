"""What every encoder takes and gives, so that they can be compared on equal terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..architecture import Architecture, Block
from ..architecture.reorder import read_block
from ..tokens import TokenGrid, token_grid


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

    def read(self, block: Block) -> Tensor:
        """A block's scaled numbers, shaped as `read_block` says."""
        return read_block(self.architecture, block, self.values)

    def seen(self, block: Block) -> Tensor | None:
        """The share of each edge's (or unit's) numbers that is visible; None when all is."""
        if self.visible is None:
            return None
        return read_block(self.architecture, block, self.visible).to(self.values).mean(-1)


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
    invariant = False  # whether the model embedding ignores the order of hidden units
    streams = False  # whether a model embedding needs `Batch.read` alone
    num_moments = 0  # of the model embedding's last numbers that are layer moments, not learned

    def forward(self, batch: Batch) -> Embedding:
        raise NotImplementedError


def depth_weights(num: int, num_slots: int, like: Tensor) -> Tensor:
    """Spread a list of layers over a fixed number of slots by relative depth: [slots, num].

    Linear interpolation: with as many layers as slots each layer has its own,
    first and last always land on the first and last slot. Rows sum to one
    (zero for a slot that no layer reaches).
    """
    return _depth_weights(num, num_slots).to(like)


@lru_cache(maxsize=1024)
def _depth_weights(num: int, num_slots: int) -> Tensor:
    place = torch.linspace(0, num_slots - 1, num) if num != 1 else torch.zeros(1)
    slots = torch.arange(num_slots).unsqueeze(1)
    weights = (1 - (place - slots).abs()).clamp(min=0)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
