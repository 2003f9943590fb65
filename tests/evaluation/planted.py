"""Zoos of random weights whose properties follow from the weights, so that a reader can be
right: accuracy from the spread of a network's weights, the optimiser from their sign."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from graphrep import to_graph
from graphrep.architecture import Architecture
from graphrep.zoo import Record, Zoo, append_to

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
DESIGNS = ((4,), (6,), (4, 4))  # sizes of hidden layers
NUM_CHECKPOINTS = 2


def architecture(hidden: tuple[int, ...]) -> Architecture:
    sizes = (3, *hidden, 2)
    layers: list[nn.Module] = []
    for inward, outward in pairwise(sizes):
        layers += [nn.Linear(inward, outward), nn.ReLU()]
    torch.manual_seed(0)
    name = "mlp-" + "-".join(map(str, hidden))
    return to_graph(nn.Sequential(*layers[:-1]), torch.zeros(2, 3), name=name).architecture


def planted_zoo(path: Path, num: int = 60, seed: int = 0, designs: int = 3) -> Zoo:
    """So many models of two checkpoints each; the folder's name is the zoo's."""
    kinds = [architecture(hidden) for hidden in DESIGNS[:designs]]
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    splits = np.repeat(list(SPLITS), [round(share * num) for share in SPLITS.values()])
    records = []
    for number, split in enumerate(random.permutation(splits)):
        kind = kinds[number % len(kinds)]
        spread, sign = 10 ** random.uniform(-1, 0), random.choice([-1, 1])
        noise = torch.randn(NUM_CHECKPOINTS, kind.num_parameters, generator=generator)
        scale = spread * torch.tensor([[0.8], [1.0]])
        rows = [
            {
                "epoch": epoch,
                "test_accuracy": float(1 / (1 + spread * (0.8 + 0.2 * epoch))),
                "generalisation_gap": float(random.normal()),
            }
            for epoch in range(NUM_CHECKPOINTS)
        ]
        records.append(
            Record(
                name=f"{path.name}-{number}",
                architecture=kind,
                theta=scale * (noise + 0.7 * sign),
                rows=rows,
                properties={
                    "learning_rate": float(spread),
                    "weight_decay": 0.0 if number % 4 == 0 else float(spread**2),
                    "optimiser": "adam" if sign > 0 else "sgd",
                },
                split=str(split),
            )
        )
    with append_to(path, name=path.name) as writer:
        writer.add(records)
    return Zoo.open(path)
