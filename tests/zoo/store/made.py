"""Models that cost nothing to make: random values of tiny designs, by number."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from graphrep import to_graph
from graphrep.architecture import Architecture
from graphrep.zoo import Record


@cache
def architecture(hidden: int = 3) -> Architecture:
    """A multi-layer perceptron with batch norm, so that there is a buffer."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))
    return to_graph(module.eval(), torch.zeros(2, 2), name=f"mlp-{hidden}").architecture


def make_record(number: int, *, num_checkpoints: int = 2, **others: object) -> Record:
    """The model of this number: every third one is of another design."""
    design = architecture(5 if number % 3 == 2 else 3)
    generator = torch.Generator().manual_seed(number)
    theta = torch.randn(num_checkpoints, design.num_parameters, generator=generator)
    settings: dict[str, object] = {
        "name": f"model-{number}",
        "architecture": design,
        "theta": theta,
        "buffers": {"1.num_batches_tracked": torch.arange(num_checkpoints) + number},
        "rows": [{"epoch": e, "test_accuracy": number / 1000 + e} for e in range(num_checkpoints)],
        "properties": {"learning_rate": 0.1 * number, "optimiser": "adam"},
    }
    return Record(**{**settings, **others})  # type: ignore[arg-type]
