"""One weight model: scaling, an encoder, the shared decoder.

Knows how theta becomes latents and latents become theta; knows no zoo, no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .decoders import DecoderConfig, TokenDecoder
from .encoders import Batch, Embedding, EncoderConfig, GraphEncoderConfig, build_encoder
from .encoders.streaming import stream
from .scaling import Scaling
from .tokens import token_grid


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of `WeightModel`. Equal for all encoders of a comparison but for `encoder`."""

    encoder: EncoderConfig = field(default_factory=GraphEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    token_size: int = 32  # numbers a token at most
    latent_dim: int = 32  # of a token
    window: int = 128  # tokens decoded at a time
    halo: int = 32  # tokens of context either side of a decoded window, dropped on stitching

    def __post_init__(self) -> None:
        if self.window <= 2 * self.halo:
            raise ValueError(f"window must exceed twice the halo ({self.halo}), got {self.window}")


class WeightModel(nn.Module):
    """theta [B, P] <-> latents [B, T, Z], for any architecture."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.scaling = Scaling()
        self.encoder = build_encoder(config.encoder, config.token_size, config.latent_dim)
        self.decoder = TokenDecoder(config.decoder, config.token_size, config.latent_dim)

    def encode(
        self, theta: Tensor, architecture: Architecture, *, tokens: bool = True
    ) -> Embedding:
        """Networks in rows, theta [B, P], to their embedding; nothing hidden.

        Without `tokens` an encoder whose model embedding does not need them makes none.
        """
        values = self.scaling(theta, architecture)
        return self.encoder(Batch(architecture, values, self.config.token_size, tokens=tokens))

    def encode_streamed(
        self, tensor: Callable[[str], Tensor], architecture: Architecture
    ) -> Embedding:
        """One network as above, without tokens, its tensors asked for by name as they are needed.

        Raises:
            ValueError: an encoder that needs all numbers at once.
        """
        if not self.encoder.streams:
            raise ValueError(
                f"{type(self.encoder).__name__} needs all of a network's numbers at once; "
                "take encoder=graph or encoder=statistics for networks of this size"
            )
        return self.encoder(stream(architecture, tensor, self.scaling, self.config.token_size))

    def decode(self, latents: Tensor, architecture: Architecture) -> Tensor:
        """Token latents [B, T, Z] to theta [B, P], in windows with a halo of context."""
        grid = token_grid(architecture, self.config.token_size)
        window, halo = self.config.window, self.config.halo
        position = grid.position
        if grid.num_tokens <= window:
            tokens = self.decoder(latents, position)
        else:
            kept, core = [], window - 2 * halo
            for start in range(0, grid.num_tokens, core):
                low, high = max(0, start - halo), min(grid.num_tokens, start + core + halo)
                part = self.decoder(latents[:, low:high], position[low:high])
                kept.append(part[:, start - low : start - low + core])
            tokens = torch.cat(kept, 1)
        return self.scaling.inverse(grid.join(tokens), architecture)

    @property
    def num_parameters(self) -> int:
        """Trainable numbers of encoder and decoder."""
        trained = [*self.encoder.parameters(), *self.decoder.parameters()]
        return sum(p.numel() for p in trained)
