"""Hyper-representations of 2021: a transformer over tokens, and one latent vector a network.

Source: Schürholt, Kostadinov, Borth 2021, arXiv:2110.15288: tokens of neurons -> linear ->
learned positions -> transformer blocks -> a compression token, or the flattened sequence ->
linear -> tanh; the decoder begins with a linear map of the latent for each token.

Where we differ: tokens are those of `graphrep.tokens`, so that one linear map serves all layers,
with positions cat(E1[n] + E2[l], E3[k]) and blocks as in SANE; the decoder is the shared one, and
a token's latent is linear in the one latent by a map that its position gates, where the paper
has a matrix for each token of one architecture (which reconstructed no better, at 8 times the
parameters); hidden numbers are told from zeros. The embedding reads all tokens, whatever the
window.

Letters in shapes: B batch, T tokens, C model width, D embedding, Z latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..transformer import Positions, Transformer
from .base import Batch, Embedding, Encoder

COMPRESSIONS = ("token", "flatten")


@dataclass(frozen=True, kw_only=True)
class HyperRepresentationConfig:
    """Settings of `HyperRepresentationEncoder`; see conf/encoder/hyperrep.yaml."""

    name: str = "hyperrep"
    embedding_dim: int = 128  # of the one latent
    model_dim: int = 64
    num_heads: int = 4
    num_layers: int = 2
    compression: str = "token"  # one of COMPRESSIONS
    max_tokens: int = 256  # learned positions: tokens, layers, rows; larger networks are refused
    max_layers: int = 16
    max_rows: int = 256

    def __post_init__(self) -> None:
        if self.model_dim % self.num_heads or self.model_dim % 2:
            raise ValueError(
                f"encoder.model_dim must be even and a multiple of num_heads={self.num_heads}, "
                f"got {self.model_dim}"
            )
        for field in ("embedding_dim", "num_layers", "max_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"encoder.{field} must be at least 1, got {getattr(self, field)}")
        if self.compression not in COMPRESSIONS:
            names = ", ".join(COMPRESSIONS)
            raise ValueError(
                f"encoder.compression must be one of {names}, got '{self.compression}'"
            )


class HyperRepresentationEncoder(Encoder):
    """Tokens of a network -> one latent in (-1, 1), and latents of tokens that it expands to."""

    def __init__(self, config: HyperRepresentationConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        self.embedding_dim = config.embedding_dim
        C, D, T = config.model_dim, config.embedding_dim, config.max_tokens
        self.inward = nn.Linear(token_size, C)
        self.hidden = nn.Parameter(torch.zeros(C))
        self.positions = Positions(C, T, config.max_layers, config.max_rows)
        self.blocks = Transformer(C, config.num_heads, config.num_layers)
        self.whole = nn.Parameter(0.02 * torch.randn(C))
        self.compress = nn.Linear(C if config.compression == "token" else T * C, D)
        self.gate = nn.Linear(C, D)
        self.outward = nn.Linear(D, latent_dim)
        self.place = nn.Linear(C, latent_dim)

    def forward(self, batch: Batch) -> Embedding:
        """One latent of all tokens, and the latents of the window's.

        Raises:
            ValueError: a network larger than the learned positions.
        """
        positions = self.positions(batch.grid.position)
        latent = torch.tanh(self._compress(self._inward(batch) + positions))
        tokens = latent.new_zeros(len(latent), 0, self.latent_dim)
        if batch.tokens:
            where = F.layer_norm(positions[batch.window], positions.shape[1:])  # which start small
            gated = latent.unsqueeze(1) * self.gate(where)
            tokens = self.outward(gated) + self.place(where)
        return Embedding(tokens=tokens, model=latent)

    def _inward(self, batch: Batch) -> Tensor:
        """All tokens [B, T, C]; what is hidden is marked."""
        tokens = batch.grid.cut(batch.values)
        inner: Tensor = self.inward(tokens)
        if batch.visible is None:
            return inner
        real = batch.grid.mask.to(tokens.device).sum(-1)
        seen = batch.grid.cut(batch.visible.to(tokens)).sum(-1) / real
        return inner + (1 - seen).unsqueeze(-1) * self.hidden

    def _compress(self, inner: Tensor) -> Tensor:
        """[B, T, C] -> [B, D]; a shorter sequence meets the weights of the first places."""
        if self.config.compression == "token":
            whole = self.whole.expand(len(inner), 1, -1)
            compressed: Tensor = self.compress(self.blocks(torch.cat([whole, inner], 1))[:, 0])
            return compressed
        flat = self.blocks(inner).flatten(1)
        return F.linear(flat, self.compress.weight[:, : flat.shape[1]], self.compress.bias)
