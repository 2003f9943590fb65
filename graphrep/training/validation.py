"""Validation: mean losses over networks that are not trained on, with the same views every time.

The parts are shared by all processes and put together in one order, so the numbers do
not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model import WeightModel
from .config import TrainingConfig
from .distributed import Processes
from .draws import generator_of
from .networks import Networks
from .objectives import Objective

Metrics = dict[str, float]
PART_SIZE = 256  # networks at a time


@torch.no_grad()
def evaluate(
    model: WeightModel,
    objective: Objective,
    groups: Sequence[Networks],
    config: TrainingConfig,
    processes: Processes | None = None,
) -> Metrics:
    """Mean losses over all networks, zoos weighted as `config.balance` weighs them in training.

    In the model's own precision, in which it will be used. With several zoos each zoo's
    losses stand beside the whole's, as `<zoo>/<loss>`.
    """
    team = processes or Processes()
    device = next(model.parameters()).device
    model.eval()
    objective.eval()
    parts = [
        (number, part, index)
        for number, networks in enumerate(groups)
        for part, index in enumerate(torch.arange(len(networks)).split(PART_SIZE))
        if len(index)
    ]
    own: list[tuple[int, int, Metrics]] = []  # group, networks, losses
    for number, part, index in parts[team.rank :: team.num]:
        generator = generator_of(config.seed, -1_000_000 - 1000 * number - part)
        rows = groups[number].take(index).to(device)
        values = objective.losses(model, rows, generator)
        own.append((number, len(index), {name: float(v) for name, v in values.items()}))
    shares = team.gather(own)
    found = [shares[i % team.num][i // team.num] for i in range(len(parts))]
    model.train()
    objective.train()
    zoos: dict[str, list[tuple[int, Metrics]]] = {}
    for number, num, losses in found:
        zoos.setdefault(groups[number].zoo, []).append((num, losses))
    means = {zoo: _mean(rows) for zoo, rows in zoos.items()}
    sizes = {zoo: sum(num for num, _ in rows) for zoo, rows in zoos.items()}
    whole = _mean([(sizes[zoo] ** (1 - config.balance), mean) for zoo, mean in means.items()])
    if len(means) > 1:
        whole |= {f"{zoo}/{name}": v for zoo, mean in means.items() for name, v in mean.items()}
    return whole


def _mean(rows: Sequence[tuple[float, Metrics]]) -> Metrics:
    """Weighted means, each over the rows that have the number."""
    totals: Metrics = {}
    weights: Metrics = {}
    for weight, metrics in rows:
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + weight * value
            weights[name] = weights.get(name, 0.0) + weight
    return {name: total / weights[name] for name, total in totals.items()}
