"""What tests of encoders share: cases, small models, random networks, relative changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphrep.architecture import Architecture, trace
from graphrep.decoders import DecoderConfig
from graphrep.encoders import (
    EncoderConfig,
    GraphEncoderConfig,
    RawEncoderConfig,
    StatisticsEncoderConfig,
    TokenEncoderConfig,
)
from graphrep.model import ModelConfig, WeightModel

from .architectures import CASES, Case
from .nested import DESIGNS, Design

every_case = pytest.mark.parametrize("case", [*CASES, *DESIGNS], ids=lambda case: case.name)
GRAPH = GraphEncoderConfig(unit_dim=12, linear_dim=2, curved_dim=3, value_dim=3, num_rounds=2)
TOKEN = TokenEncoderConfig(model_dim=16, num_heads=2, num_layers=1)
ENCODERS = [GRAPH, TOKEN, StatisticsEncoderConfig(), RawEncoderConfig()]


def architecture_of(case: Case | Design) -> Architecture:
    if isinstance(case, Design):
        return case.architecture()
    return trace(case.module(), case.example())


def model(config: EncoderConfig = GRAPH) -> WeightModel:
    torch.manual_seed(0)
    decoder = DecoderConfig(model_dim=16, num_heads=2, num_layers=1)
    built = WeightModel(ModelConfig(encoder=config, decoder=decoder, token_size=8, latent_dim=8))
    return built.double().eval()


def networks(architecture: Architecture, num: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, architecture.num_parameters, generator=generator, dtype=torch.float64)


def relative(change: Tensor, embeddings: Tensor) -> float:
    """Largest change, relative to the spread between networks."""
    spread = (embeddings - embeddings.mean(0)).abs().max()
    assert spread > 1e-6  # an encoder that ignores its input is invariant too
    return float(change.abs().max() / spread)
