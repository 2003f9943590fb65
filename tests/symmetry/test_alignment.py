"""Laws of alignment by weights: law 9, nested units, many networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import graphrep
from graphrep import ParameterGraph
from graphrep.architecture import Architecture
from graphrep.architecture.reorder import reorder_theta
from graphrep.symmetry import align_many, align_running, match_weights
from graphrep.symmetry.assignment import Nest, assign
from tests.architectures import CASES, IDS, Case
from tests.nested import DESIGNS, Design

from .nested import NESTED, NestedCase

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
every_nested = pytest.mark.parametrize("case", NESTED, ids=lambda case: case.name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(a: ParameterGraph, b: ParameterGraph) -> float:
    return float((a.theta.double() - b.theta.double()).norm())


def shuffled(graph: ParameterGraph, seed: int) -> ParameterGraph:
    return graph.permute(graphrep.random_permutation(graph.architecture, generator(seed)))


@every_nested
def test_the_fixtures_permutations_keep_the_function(case: NestedCase) -> None:
    graph, module, x = case.graph(), case.module(), case.example()
    with torch.no_grad():
        expected = module(x)
        found = shuffled(graph, 1).load_into(module)(x)
        assert (found - expected).abs().max() < 1e-9
        name = {"attention": "v", "grouped-queries": "k", "grouped-convolution": "out"}[case.name]
        orders = {name: torch.arange(graph.architecture.unit[name].size).roll(1)}
        apart = reorder_theta(without_parents(graph.architecture), graph.theta, orders)
        found = replace(graph, theta=apart).load_into(module)(x)
        assert (found - expected).abs().max() > 1e-6


def without_parents(architecture: Architecture) -> Architecture:
    units = tuple(replace(u, parents=()) for u in architecture.units)
    return replace(architecture, units=units)


@every_nested
def test_planted_nested_permutations_are_recovered(case: NestedCase) -> None:
    graph = case.graph()
    for seed in range(5):
        planted = shuffled(graph, seed)
        assert not torch.equal(planted.theta, graph.theta)
        assert torch.equal(graphrep.align(planted, graph).theta, graph.theta)


@every_nested
def test_a_planted_permutation_is_recovered_through_noise(case: NestedCase) -> None:
    graph = case.graph()
    noise = torch.randn(len(graph.theta), generator=generator(9), dtype=torch.float64)
    noisy = replace(graph, theta=graph.theta + 0.1 * graph.theta.std() * noise)
    order = graphrep.random_permutation(graph.architecture, generator(4))
    found = match_weights(noisy.permute(order), graph).compose(order)
    assert all(torch.equal(p, torch.arange(len(p))) for p in found.values())


@every_nested
def test_nested_alignment_never_increases_the_distance(case: NestedCase) -> None:
    reference = case.graph()
    for seed in range(1, 5):
        other = case.graph(seed)
        assert distance(graphrep.align(other, reference), reference) < distance(other, reference)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_designs_by_hand_are_recovered_and_brought_closer(design: Design) -> None:
    """Grouped queries, grouped convolutions, stacks of experts, parts of unlike size."""
    a = design.architecture()
    for seed in range(3):
        drawn = torch.randn(2, a.num_parameters, generator=generator(seed), dtype=torch.float64)
        graph, other = ParameterGraph(a, drawn[0]), ParameterGraph(a, drawn[1])
        assert torch.equal(graphrep.align(shuffled(graph, seed), graph).theta, graph.theta)
        assert distance(graphrep.align(other, graph), graph) < distance(other, graph)


def test_large_variances_decide_unless_statistics_are_left_out() -> None:
    case = CASES[IDS.index("cnn-batch-norm")]
    graph = graphrep.to_graph(case.module(), case.example())
    planted = shuffled(graph, 1)
    misled = replace(planted, theta=planted.theta.clone())
    spec = graph.architecture.tensor["1.running_var"]
    assert spec.offset is not None
    variances = 1000 * torch.rand(spec.numel, generator=generator(2))
    misled.theta[spec.offset : spec.offset + spec.numel] = variances
    right = match_weights(planted, graph)
    assert any(not torch.equal(p, right[n]) for n, p in match_weights(misled, graph).items())
    found = match_weights(misled, graph, statistics=False)
    assert all(torch.equal(p, right[n]) for n, p in found.items())


def test_heads_are_matched_by_what_is_inside_them() -> None:
    """Heads alone, their dims held in place, would be matched otherwise: the control."""
    case = NESTED[0]
    graph = case.graph()
    planted = shuffled(graph, 2)
    found = match_weights(planted, graph)
    held = graphrep.Permutation(graph.architecture, {"heads": found["heads"]})
    assert not torch.equal(planted.permute(held).theta, graph.theta)
    assert torch.equal(planted.permute(found).theta, graph.theta)


def test_the_best_assignment_is_found_for_each_family() -> None:
    similarity = torch.rand(3, 4, 4, generator=generator(), dtype=torch.float64)
    found = assign(similarity)
    for matrix, order in zip(similarity, found, strict=True):
        best = max(_worth(matrix, torch.tensor(p)) for p in _permutations(4))
        assert abs(_worth(matrix, order) - best) < 1e-12


def _worth(matrix: Tensor, order: Tensor) -> float:
    return float(matrix[torch.arange(len(order)), order].sum())


def _permutations(size: int) -> list[list[int]]:
    if size == 0:
        return [[]]
    return [[*p[:i], size - 1, *p[i:]] for p in _permutations(size - 1) for i in range(size)]


def test_what_sits_within_is_known() -> None:
    nest = Nest.of(NESTED[1].architecture())  # grouped queries
    assert nest.below["kv-heads"] == ("q-heads", "k", "q", "v", "y")
    assert {lanes.units for lanes in nest.lanes["q-heads"]} == {"q", "y"}
    assert {lanes.members.shape for lanes in nest.lanes["k"]} == {(6, 4)}  # a lane a query head
    assert nest.families["q"] == ()


def test_a_batch_of_statistics_that_are_not_numbers_does_no_harm() -> None:
    case = CASES[IDS.index("cnn-batch-norm")]
    graph = graphrep.to_graph(case.module(), case.example())
    broken = replace(graph, theta=graph.theta.clone())
    broken.theta[::7] = float("nan")
    assert graphrep.align(broken, graph).theta.isnan().sum() == broken.theta.isnan().sum()


def test_networks_that_differ_in_operations_alone_can_be_aligned() -> None:
    """Values may choose what runs, as of experts; units and blocks are the same."""
    case = CASES[0]
    graph = graphrep.to_graph(case.module(), case.example())
    other = replace(graph, architecture=replace(graph.architecture, operations=()))
    assert other.architecture.fingerprint != graph.architecture.fingerprint
    assert torch.equal(graphrep.align(shuffled(other, 1), graph).theta, graph.theta)


def test_errors_name_what_is_wrong() -> None:
    first, second = (graphrep.to_graph(c.module(), c.example()) for c in CASES[:2])
    with pytest.raises(ValueError, match="architectures differ"):
        graphrep.align(first, second)
    with pytest.raises(ValueError, match="needs model= and inputs="):
        graphrep.align(first, first, "activations")
    with pytest.raises(ValueError, match="are for method='activations'"):
        graphrep.align(first, first, inputs=torch.randn(2, 12))
    with pytest.raises(ValueError, match="must be 'weights' or 'activations'"):
        graphrep.align(first, first, "gradients")
    with pytest.raises(ValueError, match="at least one graph"):
        align_many([])
    with pytest.raises(ValueError, match="architectures differ"):
        align_many([first, second])
    with torch.device("meta"):
        module = CASES[0].build()
    empty = graphrep.to_graph(module, CASES[0].example())
    with pytest.raises(ValueError, match="needs values"):
        graphrep.align(empty, first)


# Many networks ---------------------------------------------------------------------------


def population(case: Case, num: int = 4) -> list[ParameterGraph]:
    modules = [case.module(torch.float64, seed=seed) for seed in range(num)]
    return [graphrep.to_graph(m, case.example(torch.float64)) for m in modules]


def spread(graphs: list[ParameterGraph]) -> float:
    thetas = torch.stack([g.theta for g in graphs])
    return float((thetas - thetas.mean(0)).square().sum())


@every_case
def test_permuted_copies_become_one(case: Case) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    copies = [graph, *(shuffled(graph, seed) for seed in range(3))]
    for aligned in (align_many(copies), list(align_running(copies)), align_many(copies, graph)):
        assert all(torch.equal(g.theta, graph.theta) for g in aligned)


@every_case
def test_aligning_many_never_spreads_them(case: Case) -> None:
    graphs = population(case)
    aligned = align_many(graphs)
    assert spread(aligned) <= spread(graphs) * (1 + 1e-12)
    assert torch.equal(aligned[0].theta, graphs[0].theta)
    if max(case.hidden) > 3:
        assert spread(aligned) < 0.99 * spread(graphs)
    for before, after in zip(graphs, aligned, strict=True):
        assert torch.equal(before.theta.sort().values, after.theta.sort().values)


def test_one_seed_gives_one_result_and_the_mean_beats_one_reference() -> None:
    graphs = population(CASES[0], num=6)
    first, again = align_many(graphs, seed=3), align_many(graphs, seed=3)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.theta, b.theta)
    assert spread(first) < spread(align_many(graphs, graphs[0]))
    assert spread(list(align_running(graphs))) < spread(graphs)


def test_the_running_mean_takes_a_stream() -> None:
    graphs = population(CASES[0])
    found = align_running(iter(graphs))
    assert torch.equal(next(found).theta, graphs[0].theta)
    assert torch.equal(next(found).theta, graphrep.align(graphs[1], graphs[0]).theta)
