"""Floors: layer statistics s(W) and raw weights W, on the same decoder as the rest.

An encoder that does not beat these has learned nothing that a table of
quantiles would not give. Each has a linear map from what it sees to token
latents, so that it can be decoded and sampled like the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .base import Batch, Embedding, Encoder
from .moments import NUM_MOMENTS, layer_moments, moments


@dataclass(frozen=True, kw_only=True)
class StatisticsEncoderConfig:
    """Settings of `StatisticsEncoder`; see conf/encoder/statistics.yaml."""

    name: str = "statistics"
    num_slots: int = 4  # depths kept apart


@dataclass(frozen=True, kw_only=True)
class RawEncoderConfig:
    """Settings of `RawEncoder`; see conf/encoder/raw.yaml."""

    name: str = "raw"
    embedding_dim: int = 4096  # weights beyond are left out of the model embedding


class StatisticsEncoder(Encoder):
    """s(W) of scaled weights as embedding; a token's latent sees its own statistics and s(W)."""

    invariant = True
    streams = True

    def __init__(self, config: StatisticsEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        self.embedding_dim = config.num_slots * NUM_MOMENTS
        self.own = nn.Linear(NUM_MOMENTS // 2, latent_dim)
        self.whole = nn.Linear(self.embedding_dim, latent_dim)

    def forward(self, batch: Batch) -> Embedding:
        model = layer_moments(batch, self.config.num_slots)
        if not batch.tokens:
            return Embedding(tokens=model.new_zeros(len(model), 0, self.latent_dim), model=model)
        tokens = batch.grid.cut(batch.values)[:, batch.window]
        own = moments([tokens.flatten(0, 1)]).view(*tokens.shape[:2], -1)
        return Embedding(tokens=self.own(own) + self.whole(model).unsqueeze(1), model=model)


class RawEncoder(Encoder):
    """The scaled weights, zero-padded to one length; a token's latent is linear in it."""

    def __init__(self, config: RawEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim, self.embedding_dim = latent_dim, config.embedding_dim
        self.own = nn.Linear(token_size, latent_dim)

    def forward(self, batch: Batch) -> Embedding:
        tokens = batch.grid.cut(batch.values)[:, batch.window]
        seen = batch.values[:, : self.embedding_dim]
        missing = self.embedding_dim - seen.shape[1]
        model = torch.nn.functional.pad(seen, (0, missing))
        return Embedding(tokens=self.own(tokens), model=model)
