"""The shared decoder: token latents back to tokens, the same for every encoder.

Source: SANE, arXiv:2406.09997: mirrors the encoder and adds the same kind of
positions again. No final norm, so that what a latent says linearly arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..transformer import Positions, Transformer


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Settings of `TokenDecoder`; see conf/training/*.yaml."""

    model_dim: int = 96
    num_heads: int = 4
    num_layers: int = 2
    max_tokens: int = 4096
    max_layers: int = 256
    max_rows: int = 1024


class TokenDecoder(nn.Module):
    """latents [B, T, Z] and positions [T, 3] -> scaled tokens [B, T, S]."""

    def __init__(self, config: DecoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        limits = (config.max_tokens, config.max_layers, config.max_rows)
        self.inward = nn.Linear(latent_dim, config.model_dim)
        self.positions = Positions(config.model_dim, *limits)
        self.blocks = Transformer(config.model_dim, config.num_heads, config.num_layers)
        self.outward = nn.Linear(config.model_dim, token_size)

    def forward(self, latents: Tensor, position: Tensor) -> Tensor:
        inner = self.inward(latents) + self.positions(position)
        found: Tensor = self.outward(self.blocks(inner))
        return found
