"""Between networks: interpolation, means, the loss barrier, and statistics made anew.

Knows no images and no losses: an evaluation is handed in.

Sources: barrier, Frankle et al. 2020, arXiv:1912.05671, and Entezari et al. 2022,
arXiv:2110.06296, equation 1; merging, git re-basin, Ainsworth et al. 2023, arXiv:2209.04836;
statistics, Jordan et al. 2023 (REPAIR), arXiv:2211.08403, section 4, for batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..architecture.trace import as_arguments
from ..graph import ParameterGraph
from .alignment import align_many
from .weight_matching import require_same_design

Evaluate = Callable[[ParameterGraph], float | Mapping[str, float]]


@dataclass(frozen=True)
class Barrier:
    """Metrics along the straight line between two networks.

    Attributes:
        weights: Shares of the second network, float64 [num_points], from 0 to 1.
        metrics: Each metric along the line, float64 [num_points].
    """

    weights: Tensor
    metrics: Mapping[str, Tensor]

    def height(self, metric: str = "loss") -> float:
        """How much worse the worst point is than the line between the ends; at least 0.

        max over t of f(t) - ((1 - t) f(0) + t f(1)); with the other sign for metrics whose
        name ends in `accuracy`, of which more is better.
        """
        if metric not in self.metrics:
            raise ValueError(f"no metric '{metric}'; there are {', '.join(self.metrics)}")
        values = self.metrics[metric]
        excess = values - torch.lerp(values[0], values[-1], self.weights)
        return float((-excess if metric.endswith("accuracy") else excess).max())

    def middle(self, metric: str = "loss") -> float:
        """The metric half way, from the nearest point."""
        return float(self.metrics[metric][len(self.weights) // 2])


def loss_barrier(
    evaluate: Evaluate, a: ParameterGraph, b: ParameterGraph, num_points: int = 11
) -> Barrier:
    """Evaluate networks on the line from a to b; `.height("loss")` is the barrier.

    Args:
        evaluate: Gives a network's loss, or several metrics by name.
        num_points: Evenly spaced, both ends included.

    Raises:
        ValueError: architectures differ, or fewer than three points.
    """
    if num_points < 3:
        raise ValueError(f"a barrier needs at least 3 points, got {num_points}")
    weights = torch.linspace(0, 1, num_points, dtype=torch.float64)
    found: dict[str, list[float]] = {}
    for weight in weights.tolist():
        value = evaluate(interpolate(a, b, weight))
        for name, number in (value if isinstance(value, Mapping) else {"loss": value}).items():
            found.setdefault(name, []).append(float(number))
    return Barrier(weights, {n: torch.tensor(v, dtype=torch.float64) for n, v in found.items()})


def interpolate(a: ParameterGraph, b: ParameterGraph, weight: float) -> ParameterGraph:
    """(1 - weight) a + weight b, normalisation statistics included; exact at 0 and 1.

    Other buffers (counters, tables) come from the nearer one, `a` at a half.

    Raises:
        ValueError: the two have different architectures.
    """
    require_same_design(a, b)
    theta = torch.lerp(a.theta.double(), b.theta.double(), weight).to(a.theta.dtype)
    theta = a.theta.clone() if weight == 0 else b.theta.clone() if weight == 1 else theta
    return replace(a if weight <= 0.5 else b, theta=theta)


def merge(graphs: Sequence[ParameterGraph], *, seed: int = 0) -> ParameterGraph:
    """The mean of networks after `align_many`, in the order of the first one's units.

    Running statistics play no part in the alignment. Other buffers are those of the first.
    Networks with batch norm want `reset_statistics` afterwards.

    Raises:
        ValueError: there are no graphs, or their architectures differ.
    """
    aligned = align_many(graphs, seed=seed, statistics=False)
    mean = torch.stack([g.theta.double() for g in aligned]).mean(0)
    return replace(aligned[0], theta=mean.to(aligned[0].theta.dtype))


@torch.no_grad()
def reset_statistics(module: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Estimate the running statistics of batch norm anew, as means over batches.

    A mean of two networks has statistics that neither mean describes: its activations vary
    less than those of the two, and the running variance does not know. Momentum and modes of
    all modules are restored; a module without batch norm stays as it is.

    Args:
        batches: What the module takes: tensors, tuples of positional or dicts of keyword
            arguments. Each counts the same.

    Raises:
        ValueError: there are no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return module
    training = {m: m.training for m in module.modules()}
    momentum = {m: m.momentum for m in norms}
    num = 0
    try:
        module.eval()  # dropout stays off
        for batch in batches:
            args, kwargs = as_arguments(batch, module)
            for norm in norms if num == 0 else ():
                norm.reset_running_stats()
                norm.momentum = None  # a mean over all batches
                norm.training = True
            module(*args, **kwargs)
            num += 1
    finally:
        for norm in norms:
            norm.momentum = momentum[norm]
        for m, mode in training.items():
            m.training = mode
    if not num:
        raise ValueError("reset_statistics needs at least one batch, got none")
    return module
