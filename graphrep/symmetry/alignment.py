"""Alignment by weight matching: reorder a network's units to lie close to a reference.

Source: git re-basin, Ainsworth et al. 2023, arXiv:2209.04836, algorithm 1 (coordinate
descent over linear assignments). Here groups come from the traced architecture, biases
and statistics count too, and a first pass in execution order, matching each group by
what is settled before it, gives a second start; the closer result is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import read_block, reorder_theta
from ..graph import ParameterGraph
from .permutation import Permutation, identity

MAX_SWEEPS = 50


def align(graph: ParameterGraph, reference: ParameterGraph) -> ParameterGraph:
    """The graph with its hidden units reordered towards the reference.

    The Euclidean distance between the two thetas never increases; a permuted
    copy of the reference is recovered.

    Raises:
        ValueError: the two have different architectures.
    """
    return graph.permute(match_weights(graph, reference))


def match_weights(graph: ParameterGraph, reference: ParameterGraph) -> Permutation:
    """The permutation that `align` applies."""
    a = graph.architecture
    if a.fingerprint != reference.architecture.fingerprint:
        raise ValueError(
            f"cannot align '{a.name}' ({a.fingerprint}) with "
            f"'{reference.architecture.name}' ({reference.architecture.fingerprint}): "
            "the two architectures differ"
        )
    theta = torch.nan_to_num(graph.theta.double())
    goal = torch.nan_to_num(reference.theta.double())
    starts = [identity(a), _in_execution_order(a, theta, goal)]
    found = [_descend(a, theta, goal, start) for start in starts]
    distances = [_distance(a, theta, goal, p) for p in [*found, starts[0]]]
    return [*found, starts[0]][distances.index(min(distances))]


def _distance(a: Architecture, theta: Tensor, goal: Tensor, p: Permutation) -> float:
    return float((reorder_theta(a, theta, p) - goal).norm())


def _descend(a: Architecture, theta: Tensor, goal: Tensor, start: Permutation) -> Permutation:
    """Match one group at a time, the others held, until nothing moves."""
    current, distance = start, _distance(a, theta, goal, start)
    for _ in range(MAX_SWEEPS):
        moved = False
        for units in start:
            placed = reorder_theta(a, theta, current)
            order = _assign(_similarity(a, units, placed, goal, None))
            if torch.equal(order, torch.arange(len(order))):
                continue
            candidate = Permutation(a, {units: order}).compose(current)
            closer = _distance(a, theta, goal, candidate)
            if closer < distance * (1 - 1e-12):
                current, distance, moved = candidate, closer, True
        if not moved:
            break
    return current


def _in_execution_order(a: Architecture, theta: Tensor, goal: Tensor) -> Permutation:
    """Match each group by the blocks whose other end is settled already."""
    settled = {u.name for u in a.units if u.fixed}
    current = identity(a)
    for units in a.units:
        if units.fixed:
            continue
        placed = reorder_theta(a, theta, current)
        order = _assign(_similarity(a, units.name, placed, goal, settled))
        current = Permutation(a, {units.name: order}).compose(current)
        settled.add(units.name)
    return current


def _similarity(
    a: Architecture, units: str, placed: Tensor, goal: Tensor, settled: set[str] | None
) -> Tensor:
    """How well each old unit would stand in each new place: [new, old]."""
    size = a.unit[units].size
    total = torch.zeros(size, size, dtype=torch.float64)
    for block in a.blocks_of(units):
        ends = [end for end in (block.target, block.source) if end is not None]
        others = [end for end in ends if end != units]
        if settled is not None and not all(end in settled for end in others):
            continue
        for dim, end in enumerate(ends):
            if end == units:
                rows = read_block(a, block, goal).movedim(dim, 0).reshape(size, -1)
                columns = read_block(a, block, placed).movedim(dim, 0).reshape(size, -1)
                total += rows @ columns.T
    return total


def _assign(similarity: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    _, order = linear_sum_assignment(similarity.numpy(), maximize=True)
    return torch.as_tensor(order)
