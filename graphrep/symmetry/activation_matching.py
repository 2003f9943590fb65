"""Activation matching: pair the units of two networks that respond alike to the same inputs.

Both networks run on the same batches. Of each place where a unit group can be seen the
correlation of every pair of units is accumulated (float64, n x n whatever the data), and the
sum over the places is assigned, nested where units sit within units.

Source: Li et al. 2015, arXiv:1511.07543 (correlation of units of two networks); Tatro et al.
2020, arXiv:2009.02439 (one assignment a layer); git re-basin, Ainsworth et al. 2023,
arXiv:2209.04836, section 3.1, which maximises inner products that are neither centred nor
scaled. Residual streams count all places where they are seen.

Letters in shapes: n units of a group, D samples of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..architecture.observe import Observer, Want
from ..architecture.trace import Inputs
from ..graph import ParameterGraph
from .assignment import Nest, rematch
from .permutation import Permutation
from .weight_matching import WeightScore, in_execution_order, require_same_design

CHUNK = 1 << 16  # samples in float64 at a time
TIE = 1e-6  # what weights count for, beside a correlation
ROUNDING = 1e-6  # a spread below this part of the mean is a constant's


def match_activations(
    graph: ParameterGraph,
    reference: ParameterGraph,
    model: nn.Module,
    inputs: Inputs | Iterable[Inputs],
    *,
    want: Want = "read",
) -> Permutation:
    """The permutation after which a graph's units respond as those of the reference do.

    Args:
        model: A module of this design; its values and modes are restored.
        inputs: One batch (a tensor, a tuple of positional or a dict of keyword arguments), or
            a list or other iterable of batches.
        want: Activations that weights take in (after the non-linearity), those that come out
            of weights (before it), or both.

    Raises:
        ValueError: architectures differ, the model is of another, there are no inputs, or
            the model runs other operations from batch to batch.
    """
    correlations = correlate(graph, reference, model, inputs, want=want)
    a = graph.architecture
    nest = Nest.of(a)
    score = _ResponseScore(correlations, WeightScore(a, graph.theta, reference.theta))
    orders = in_execution_order(nest, score)
    for units in nest.names:  # once more, now that weights can speak of all groups
        orders, _ = rematch(nest, score, units, orders, None)
    return Permutation(a, orders)


def correlate(
    graph: ParameterGraph,
    reference: ParameterGraph,
    model: nn.Module,
    inputs: Inputs | Iterable[Inputs],
    *,
    want: Want = "read",
) -> dict[str, Tensor]:
    """Correlations of units, summed over the places where they are seen: {units: [n, n]}.

    Rows are units of the reference, columns those of the graph; float64. A unit whose
    activation never changes correlates with none. A place that gets more samples in one
    network than in the other, such as an expert, is left out.
    """
    require_same_design(graph, reference)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    observer: Observer | None = None
    moments: dict[tuple[str, str], CrossMoments] = {}
    routed: set[tuple[str, str]] = set()  # places that get other samples in the two networks
    try:
        for batch in _batches(inputs):
            if observer is None:
                observer = Observer(model, batch, graph.architecture, want)
            ours, theirs = (
                [(s, v.detach().cpu()) for s, v in observer.run(g.load_into(model), batch)]
                for g in (graph, reference)
            )
            for (site, value), (_, goal) in zip(ours, theirs, strict=True):
                if value.shape != goal.shape:
                    routed.add(site.key)
                elif site.key not in routed:
                    moments.setdefault(site.key, CrossMoments()).add(goal, value)
    finally:
        model.load_state_dict(kept)
    if observer is None:
        raise ValueError("activation matching needs at least one batch of inputs, got none")
    total: dict[str, Tensor] = {}
    for (units, place), found in moments.items():
        if (units, place) in routed:
            continue
        correlation = found.correlation()
        total[units] = total[units] + correlation if units in total else correlation
    return total


class CrossMoments:
    """Means, variances and covariances of two sets of units, batch by batch.

    Source: Chan et al. 1983, updating formulae for sample variances.
    """

    def __init__(self) -> None:
        self.num = 0
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.cross = torch.zeros(())

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add samples [n, D] of both."""
        for part_a, part_b in zip(a.split(CHUNK, 1), b.split(CHUNK, 1), strict=True):
            self._add(part_a.double(), part_b.double())

    def correlation(self) -> Tensor:
        """Of each unit of the first with each of the second, [n, n]; 0 where one is constant."""
        a, b = (
            torch.where(square > ROUNDING**2 * self.num * mean.square(), square, 0.0).sqrt()
            for square, mean in zip(self.squares, self.means, strict=True)
        )
        scale = a.unsqueeze(1) * b
        return torch.where(scale > 0, self.cross / scale, 0.0)

    def _add(self, a: Tensor, b: Tensor) -> None:
        num = a.shape[1]
        means = [a.mean(1), b.mean(1)]
        a, b = a - means[0].unsqueeze(1), b - means[1].unsqueeze(1)
        squares, cross = [a.square().sum(1), b.square().sum(1)], a @ b.T
        if self.num:
            weight = self.num * num / (self.num + num)
            steps = [new - old for new, old in zip(means, self.means, strict=True)]
            squares = [
                old + new + weight * step.square()
                for old, new, step in zip(self.squares, squares, steps, strict=True)
            ]
            cross = self.cross + cross + weight * torch.outer(*steps)
            share = num / (self.num + num)
            means = [old + share * step for old, step in zip(self.means, steps, strict=True)]
        self.num, self.means, self.squares, self.cross = self.num + num, means, squares, cross


class _ResponseScore:
    """Correlations as worth of assignments, and where they do not tell, weights.

    Weights count so little that they decide ties alone: dead units, inputs too few to tell
    units apart, groups that are seen nowhere. See `assignment.Score`.
    """

    def __init__(self, correlations: Mapping[str, Tensor], weights: WeightScore) -> None:
        self.correlations, self.weights = correlations, weights
        num_units = sum(u.size for u in weights.architecture.units if not u.fixed)
        self.share = TIE * num_units / max(weights.scale, 1e-300)

    def similarity(
        self, units: str, members: Tensor, orders: Mapping[str, Tensor], known: set[str] | None
    ) -> Tensor | None:
        total = self.weights.similarity(units, members, orders, known)
        total = None if total is None else self.share * total
        if units in self.correlations:
            old = orders[units][members]
            found = self.correlations[units][members.unsqueeze(2), old.unsqueeze(1)]
            total = found if total is None else found + total
        return total

    def worth(
        self, names: set[str], orders: Mapping[str, Tensor], known: set[str] | None
    ) -> dict[str, Tensor]:
        total = self.weights.worth(names, orders, known)
        total = {units: self.share * value for units, value in total.items()}
        for units in names & set(self.correlations):
            order = orders[units]
            found = self.correlations[units][torch.arange(len(order)), order]
            total[units] = total[units] + found if units in total else found
        return total


def _batches(inputs: Any) -> Iterable[Inputs]:
    """One batch, or each of many: a list or an iterator holds batches, a tuple arguments."""
    match inputs:
        case Tensor() | tuple() | Mapping():
            return [inputs]
        case Iterable():
            return inputs
        case _:
            raise ValueError(
                f"inputs must be a batch or an iterable of batches, got {type(inputs).__name__}"
            )
