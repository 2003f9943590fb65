"""Scaling: fan-in counts what an output unit reads, in groups and in stacks."""

from __future__ import annotations

import pytest
import torch

from graphrep.architecture.reorder import tensor_of
from graphrep.scaling import Scaling, segments

from .nested import DESIGNS, Design

FAN_IN = {
    "attention": {"q.weight": 5, "q.bias": 5, "o.weight": 6},
    "grouped-query-attention": {"qkv.weight": 5, "qkv.bias": 5, "o.weight": 12},
    "grouped-convolution": {
        "conv1.weight": 27, "conv2.weight": 18, "norm.weight": 1, "head.weight": 48,
    },
    "experts": {
        "router.weight": 5, "up.weight": 5, "up.bias": 5, "middle.weight": 4, "middle.bias": 4,
        "down.weight": 6, "down.bias": 6,
    },
}  # fmt: skip
every_design = pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)


@every_design
def test_the_gain_is_the_root_of_the_fan_in(design: Design) -> None:
    architecture = design.architecture()
    gain = torch.zeros(architecture.num_parameters)
    for part, measure in segments(architecture):
        gain[part] = measure.gain
    assert (gain >= 1).all()  # every number of theta is in a segment
    for name, expected in FAN_IN.get(design.name, {}).items():
        found = tensor_of(architecture.tensor[name], gain)
        assert torch.allclose(found, torch.full_like(found, expected**0.5)), name


@every_design
def test_scaling_comes_back(design: Design) -> None:
    architecture = design.architecture()
    theta = torch.randn(5, architecture.num_parameters, dtype=torch.float64)
    scaling = Scaling().fit([(architecture, theta)]).double()
    again = scaling.inverse(scaling(theta, architecture), architecture)
    assert (again - theta).abs().max() < 1e-9
