"""The token encoder: SANE, a transformer over the tokens of a network.

Source: Schürholt, Mahoney, Borth 2024, arXiv:2406.09997: linear in, learned
positions cat(E1[n] + E2[l], E3[k]), pre-norm transformer blocks without biases,
a latent a token; the model embedding is the mean over all tokens.

Letters in shapes: B batch, T tokens, S token size, Z latent width.
What is padded: a batch is of one architecture, so all its networks have the same tokens and
none is filled up; a long network is cut into windows of even length, which leaves no remainder;
within a token, padded entries are zeros on the way in and have no part in the share that is
hidden. An embedding so depends on nothing but its own network's numbers.

Where we differ: padded entries are masked out of inputs and loss, scaling is by
asinh and fitted on the training split (`graphrep.scaling`), rows and pieces are
cut as `graphrep.tokens` says (norms share a row, layers without bias have no
bias column), hidden tokens are replaced by a learned vector for masked
reconstruction, and the contrast reads the mean latent instead of a flattened window.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..transformer import Positions, Transformer
from .base import Batch, Embedding, Encoder


@dataclass(frozen=True, kw_only=True)
class TokenEncoderConfig:
    """Settings of `TokenEncoder`; see conf/encoder/token.yaml."""

    name: str = "token"
    model_dim: int = 96
    num_heads: int = 4
    num_layers: int = 3
    max_tokens: int = 4096  # learned positions: tokens, layers, rows
    max_layers: int = 256
    max_rows: int = 1024
    max_window: int = 1024  # tokens that see each other; of a longer network, those of one part
    precision: str = "float32"  # bfloat16: matrix products twice as fast where the CPU has them

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(
                f"encoder.precision must be float32 or bfloat16, got '{self.precision}'"
            )
        if self.max_window < 1:
            raise ValueError(f"encoder.max_window must be at least 1, got {self.max_window}")
        if self.model_dim % self.num_heads or self.model_dim % 2:
            raise ValueError(
                f"encoder.model_dim must be even and a multiple of num_heads={self.num_heads}, "
                f"got {self.model_dim}"
            )


class TokenEncoder(Encoder):
    """Tokens of any network within the learned positions -> latents, and their mean.

    Neither depends on the company in the batch, nor on padding: to 1e-9 of the spread between
    networks in float64, to 1e-5 in float32.
    """

    def __init__(self, config: TokenEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim, self.embedding_dim = config, latent_dim, latent_dim
        limits = (config.max_tokens, config.max_layers, config.max_rows)
        self.inward = nn.Linear(token_size, config.model_dim)
        self.hidden = nn.Parameter(torch.zeros(config.model_dim))
        self.positions = Positions(config.model_dim, *limits)
        self.blocks = Transformer(config.model_dim, config.num_heads, config.num_layers)
        self.outward = nn.Linear(config.model_dim, latent_dim)

    def forward(self, batch: Batch) -> Embedding:
        """Latents of the window's tokens, and the outward map of their mean.

        Raises:
            ValueError: a network larger than the learned positions.
        """
        positions = self.positions(batch.grid.position[batch.window])
        start = batch.window.indices(batch.grid.num_tokens)[0]
        total = batch.values.new_zeros(len(batch.values), self.config.model_dim)
        latents = []
        with self._autocast(batch.values):
            for low, high in parts(len(positions), self.config.max_window):
                window = slice(start + low, start + high)
                inner = self.blocks(self._inward(batch, window) + positions[low:high])
                total = total + inner.sum(1)
                if batch.tokens:
                    latents.append(self.outward(inner))
            model = self.outward(total / max(1, len(positions)))
        none = model.new_zeros(len(model), 0, self.latent_dim)
        tokens = torch.cat(latents or [none], 1).to(batch.values.dtype)
        return Embedding(tokens=tokens, model=model.to(batch.values.dtype))

    def _inward(self, batch: Batch, window: slice) -> Tensor:
        """Tokens [B, T, S] of a window -> [B, T, model_dim]; what is hidden is marked."""
        tokens = batch.grid.cut(batch.values, window)
        inner: Tensor = self.inward(tokens)
        if batch.visible is None:
            return inner
        real = batch.grid.to(tokens.device).mask[window].sum(-1)
        seen = batch.grid.cut(batch.visible.to(tokens), window).sum(-1) / real
        return inner + (1 - seen).unsqueeze(-1) * self.hidden

    def _autocast(self, values: Tensor) -> AbstractContextManager[object]:
        if self.config.precision == "float32":
            return nullcontext()  # what the caller has set stays
        return torch.autocast(values.device.type, torch.bfloat16)


def parts(num: int, most: int) -> list[tuple[int, int]]:
    """Cut `num` tokens into as few parts of at most `most` as there can be, of even length."""
    count = -(-num // most)
    ends = [num * i // max(1, count) for i in range(count + 1)]
    return list(pairwise(ends))
