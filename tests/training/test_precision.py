"""Under autocast to bfloat16 every objective stays finite and near its loss in float32."""

from __future__ import annotations

import pytest
import torch

from graphrep.training import ObjectiveConfig, SelfSupervisedConfig
from graphrep.training.objectives import (
    BehaviourConfig,
    PropertyConfig,
    ResponsesConfig,
    TrajectoryConfig,
)
from graphrep.training.targets import networks_of
from graphrep.zoo import Zoo

from .shared import pair


@pytest.mark.parametrize(
    "config",
    [
        PropertyConfig(properties=("test_accuracy", "epoch"), categories=("kind",)),
        BehaviourConfig(num_queries=16),
        TrajectoryConfig(window=32),
        ResponsesConfig(num_queries=8),
        SelfSupervisedConfig(window=32),
    ],
    ids=lambda config: config.name,
)
def test_losses_stand_bfloat16(zoo: Zoo, config: ObjectiveConfig) -> None:
    weights, objective = pair(zoo, config)
    if isinstance(config, ResponsesConfig):  # whose head begins with zeros, which stay exact
        torch.nn.init.normal_(objective.head.weight, std=0.1)  # type: ignore[arg-type,union-attr]
    groups = networks_of(zoo, "train", config)
    weights.scaling.fit((n.architecture, n.theta) for n in groups)
    for networks in groups:
        rows = networks.take(torch.arange(4))
        plain = objective.losses(weights, rows, torch.Generator().manual_seed(0))["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            coarse = objective.losses(weights, rows, torch.Generator().manual_seed(0))["loss"]
        assert coarse.dtype == torch.float32
        coarse.backward()
        assert float(coarse.detach()) == pytest.approx(float(plain.detach()), rel=0.05)
        assert not torch.equal(coarse, plain)  # it was coarse
