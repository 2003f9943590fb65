"""A step of training reads nothing back from the device: no GPU is waited for inside it.

`meta` stands for any other device: its tensors have no values, so whatever reads one (`.item()`,
`bool`, a boolean index, a copy to the CPU) fails, and so does mixing it with the CPU.
"""

from __future__ import annotations

import pytest
from torch import Tensor

from graphrep.encoders import EncoderConfig, TokenEncoderConfig
from graphrep.training import (
    BatchOrder,
    ObjectiveConfig,
    Processes,
    SelfSupervisedConfig,
    ViewConfig,
)
from graphrep.training.objectives import Objective, PropertyConfig, ResponsesConfig
from graphrep.training.step import Step
from graphrep.training.targets import networks_of
from graphrep.zoo import Zoo

from .shared import GRAPH, TRAINING, pair

BLOCKS = SelfSupervisedConfig(
    numbers_weight=1.0,
    seen_weight=0.0,
    hidden_weight=0.0,
    contrast_weight=0.0,
    views=ViewConfig(permute=False, noise=0.0, mask_ratio=0.5, mask_unit="edge"),
)
CASES = [
    pytest.param(GRAPH, PropertyConfig(properties=("epoch",), categories=("kind",)), id="property"),
    pytest.param(GRAPH, ResponsesConfig(num_queries=8), id="responses"),
    pytest.param(GRAPH, BLOCKS, id="blocks"),
    pytest.param(TokenEncoderConfig(model_dim=16, num_layers=1), SelfSupervisedConfig(), id="sane"),
]


class Reads(Objective):
    """The control: the same losses, looked at."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner = inner

    def losses(self, *args: object) -> dict[str, Tensor]:
        found = self.inner.losses(*args)  # type: ignore[arg-type]
        assert float(found["loss"].detach()) > 0
        return found


@pytest.mark.parametrize(("encoder", "config"), CASES)
def test_a_step_reads_nothing_back(
    zoo: Zoo, encoder: EncoderConfig, config: ObjectiveConfig
) -> None:
    weights, objective = pair(zoo, config, encoder)
    groups = networks_of(zoo, "train", config)
    weights.fit_scaling((n.architecture, n.theta) for n in groups)
    weights.to("meta")
    objective.to("meta")
    order = BatchOrder(groups, TRAINING.batch_size, TRAINING.seed)
    step = Step(weights, objective, order, TRAINING, Processes())
    losses, norm = step.gradients(order.step(0, 1))
    assert norm.is_meta and all(loss["loss"].is_meta for loss in losses)
    assert any(p.grad is not None and p.grad.is_meta for p in step.parameters)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        Step(weights, Reads(objective), order, TRAINING, Processes()).gradients(order.step(0, 1))
