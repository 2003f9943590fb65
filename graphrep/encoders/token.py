"""The token encoder: SANE, a transformer over the tokens of a network.

Source: Schürholt, Mahoney, Borth 2024, arXiv:2406.09997: linear in, learned
positions cat(E1[n] + E2[l], E3[k]), pre-norm transformer blocks without biases,
a latent a token; the model embedding is the mean over all tokens.

Where we differ: padded entries are masked out of inputs and loss, scaling is by
asinh and fitted on the training split (`graphrep.scaling`), rows and pieces are
cut as `graphrep.tokens` says (norms share a row, layers without bias have no
bias column), hidden tokens are replaced by a learned vector for masked
reconstruction, and the contrast reads the mean latent instead of a flattened window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..transformer import Positions, transformer
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

    def __post_init__(self) -> None:
        if self.model_dim % self.num_heads or self.model_dim % 2:
            raise ValueError(
                f"encoder.model_dim must be even and a multiple of num_heads={self.num_heads}, "
                f"got {self.model_dim}"
            )


class TokenEncoder(Encoder):
    """Tokens of any network within the learned positions -> latents, and their mean."""

    def __init__(self, config: TokenEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim, self.embedding_dim = config, latent_dim, latent_dim
        limits = (config.max_tokens, config.max_layers, config.max_rows)
        self.inward = nn.Linear(token_size, config.model_dim)
        self.hidden = nn.Parameter(torch.zeros(config.model_dim))
        self.positions = Positions(config.model_dim, *limits)
        self.blocks = transformer(config.model_dim, config.num_heads, config.num_layers)
        self.outward = nn.Linear(config.model_dim, latent_dim)

    def forward(self, batch: Batch) -> Embedding:
        grid, window = batch.grid, batch.window
        tokens = grid.cut(batch.values)[:, window]
        inner = self.inward(tokens)
        if batch.visible is not None:
            real = grid.mask[window].to(tokens)
            seen = grid.cut(batch.visible.to(tokens))[:, window].sum(-1) / real.sum(-1)
            inner = inner + (1 - seen).unsqueeze(-1) * self.hidden
        inner = self.blocks(inner + self.positions(grid.position[window]))
        latents = self.outward(inner)
        return Embedding(tokens=latents, model=latents.mean(1))
