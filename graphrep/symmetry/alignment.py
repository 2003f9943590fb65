"""Bring networks of one design into the same order of units: one to another, or many.

Weight matching needs values alone, activation matching a module and real inputs. Of many
networks each is aligned to a reference, to the mean of all others until nothing moves, or, in
one pass that holds two networks at a time, to the mean of those before it.

Source: git re-basin, Ainsworth et al. 2023, arXiv:2209.04836; algorithm 3 for many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..architecture.trace import Inputs
from ..graph import ParameterGraph
from .activation_matching import match_activations as match_activations
from .permutation import Permutation, identity
from .weight_matching import match_weights as match_weights, require_same_design

Method = Literal["weights", "activations"]
MAX_ROUNDS = 20


def align(
    graph: ParameterGraph,
    reference: ParameterGraph,
    method: Method = "weights",
    *,
    model: nn.Module | None = None,
    inputs: Inputs | Iterable[Inputs] | None = None,
    statistics: bool = True,
) -> ParameterGraph:
    """The graph with its hidden units reordered towards the reference.

    A permuted copy of the reference is recovered. By weights, the Euclidean distance of the
    two thetas never increases.

    Args:
        method: `weights` matches by values, `activations` by responses to inputs.
        model: For activations: a module of this design.
        inputs: For activations: a batch, or a list of batches, as the module takes them.
        statistics: For weights: whether running statistics count; see `match_weights`.

    Raises:
        ValueError: the two have different architectures, or what the method needs is missing.
    """
    match method:
        case "weights":
            if model is not None or inputs is not None:
                raise ValueError("model and inputs are for method='activations', not 'weights'")
            return graph.permute(match_weights(graph, reference, statistics=statistics))
        case "activations":
            if model is None or inputs is None:
                raise ValueError("method='activations' needs model= and inputs=")
            return graph.permute(match_activations(graph, reference, model, inputs))
        case _:
            raise ValueError(f"method must be 'weights' or 'activations', got {method!r}")


def align_many(
    graphs: Sequence[ParameterGraph],
    reference: ParameterGraph | None = None,
    *,
    seed: int = 0,
    statistics: bool = True,
    max_rounds: int = MAX_ROUNDS,
) -> list[ParameterGraph]:
    """Networks of one design in a common order of units, by weights.

    With a reference each is aligned to it. Without, each is aligned to the mean of the others,
    in random order by `seed`, until nothing moves; the sum of squared distances between them
    never increases, and the first comes back as it was, the rest in its order. `statistics`
    is that of `match_weights`.

    Raises:
        ValueError: there are no graphs, or their architectures differ.

    Source: git re-basin, algorithm 3 (MergeMany), up to the order that all share.
    """
    if not graphs:
        raise ValueError("align_many needs at least one graph, got none")
    for graph in graphs:
        require_same_design(graph, graphs[0] if reference is None else reference)
    if reference is not None:
        return [align(graph, reference, statistics=statistics) for graph in graphs]
    placed = [replace(g, theta=g.theta.double()) for g in graphs]
    orders = [identity(g.architecture) for g in graphs]
    generator = torch.Generator().manual_seed(seed)
    total = torch.stack([g.theta for g in placed]).sum(0)
    for _ in range(max_rounds if len(graphs) > 1 else 0):
        moved = False
        for i in torch.randperm(len(graphs), generator=generator).tolist():
            mean = replace(placed[i], theta=(total - placed[i].theta) / (len(graphs) - 1))
            step = match_weights(placed[i], mean, statistics=statistics)
            if _moves(step):
                found = placed[i].permute(step)
                total = total + found.theta - placed[i].theta
                placed[i], orders[i], moved = found, step.compose(orders[i]), True
        if not moved:
            break
    back = orders[0].inverse()
    return [g.permute(back.compose(p)) for g, p in zip(graphs, orders, strict=True)]


def align_running(
    graphs: Iterable[ParameterGraph], *, statistics: bool = True
) -> Iterator[ParameterGraph]:
    """Align each network to the mean of those before it, in one pass; the first stays.

    For zoos: only the mean and one network are held. The result depends on the order in which
    they come; `align_many` goes over all of them again.

    Raises:
        ValueError: the architectures differ.
    """
    mean: Tensor | None = None
    for number, graph in enumerate(graphs):
        if mean is None:
            first, mean = graph, graph.theta.double()
        else:
            graph = align(graph, replace(first, theta=mean), statistics=statistics)
            mean = mean + (graph.theta.double() - mean) / (number + 1)
        yield graph


def _moves(permutation: Permutation) -> bool:
    return any(not torch.equal(p, torch.arange(len(p))) for p in permutation.values())
