"""Laws of alignment by activations, over the same families as alignment by weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.symmetry import match_activations, match_weights
from graphrep.symmetry.activation_matching import CrossMoments, correlate
from tests.architectures import CASES, IDS, Case
from tests.families import FAMILIES, Family

from .nested import NESTED, NestedCase
from .test_alignment import generator, shuffled


def batches(case: Case | NestedCase, dtype: torch.dtype, num: int = 2) -> list[Tensor]:
    shape = (num, 16, *case.shape[1:])
    return list(torch.randn(shape, generator=generator(7), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_planted_permutation_is_recovered(case: Case) -> None:
    module = case.module()
    graph = graphrep.to_graph(module, case.example())
    inputs = batches(case, torch.float32)
    planted = shuffled(graph, 5)
    found = graphrep.align(planted, graph, "activations", model=module, inputs=inputs)
    assert torch.equal(found.theta, graph.theta)
    assert all(torch.equal(v, graph.state_dict()[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("case", NESTED, ids=lambda case: case.name)
def test_planted_nested_permutations_are_recovered(case: NestedCase) -> None:
    graph, module = case.graph(), case.module()
    inputs = batches(case, torch.float64)
    for seed in range(3):
        found = match_activations(shuffled(graph, seed), graph, module, inputs)
        assert torch.equal(shuffled(graph, seed).permute(found).theta, graph.theta)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_planted_permutation_is_recovered_on_every_family(family: Family) -> None:
    """Inputs are few, so that units respond alike here and there: their weights decide then."""
    if family.needs:
        pytest.importorskip(family.needs)
    module, inputs = family.module(family.law_dtype), family.inputs(family.law_dtype)
    graph = graphrep.to_graph(module, inputs)
    found = graphrep.align(shuffled(graph, 3), graph, "activations", model=module, inputs=inputs)
    assert torch.equal(found.theta, graph.theta)


def test_activations_see_through_scales_that_mislead_weights() -> None:
    """ReLU units may be scaled up before and down after; the weights are then far apart."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2)).double()
    other = copy.deepcopy(module)
    x = torch.randn(64, 3, generator=generator(), dtype=torch.float64)
    graph = graphrep.to_graph(module, x[:2])
    order = graphrep.random_permutation(graph.architecture, generator(1))
    graph.permute(order).load_into(other)
    scale = 10 ** torch.linspace(-2, 2, 24, dtype=torch.float64)
    with torch.no_grad():
        other[0].weight.mul_(scale[:, None])
        other[0].bias.mul_(scale)
        other[2].weight.div_(scale)
    rescaled = graphrep.to_graph(other, x[:2])
    found = match_activations(rescaled, graph, module, x, want="read")
    assert torch.equal(found.compose(order)["0"], torch.arange(24))
    assert not torch.equal(match_weights(rescaled, graph).compose(order)["0"], torch.arange(24))


def test_a_dead_unit_is_matched_by_its_weights() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        module[0].bias[:3] = -100.0  # never active: three units that respond alike
    x = torch.randn(64, 4, generator=generator())
    graph = graphrep.to_graph(module, x)
    for want in ("read", "written", "both"):
        found = match_activations(shuffled(graph, 2), graph, module, x, want=want)
        assert torch.equal(shuffled(graph, 2).permute(found).theta, graph.theta)
    assert correlate(graph, graph, module, x, want="read")["0"][:3].abs().max() == 0


def test_correlations_do_not_depend_on_how_samples_are_batched() -> None:
    a, b = torch.randn(2, 5, 40, generator=generator(), dtype=torch.float64) + 3
    whole, parts = CrossMoments(), CrossMoments()
    whole.add(a, b)
    for piece_a, piece_b in zip(a.split(7, 1), b.split(7, 1), strict=True):
        parts.add(piece_a, piece_b)
    expected = torch.corrcoef(torch.cat([a, b]))[:5, 5:]
    assert (whole.correlation() - expected).abs().max() < 1e-12
    assert (parts.correlation() - expected).abs().max() < 1e-12


def test_an_iterator_of_batches_is_read_once() -> None:
    case = CASES[0]
    module = case.module()
    graph = graphrep.to_graph(module, case.example())
    inputs = batches(case, torch.float32, num=3)
    once = match_activations(shuffled(graph, 1), graph, module, iter(inputs))
    again = match_activations(shuffled(graph, 1), graph, module, inputs)
    assert all(torch.equal(order, again[units]) for units, order in once.items())


def test_errors_name_what_is_wrong() -> None:
    case = CASES[0]
    module = case.module()
    graph = graphrep.to_graph(module, case.example())
    with pytest.raises(ValueError, match="at least one batch"):
        match_activations(graph, graph, module, [])
    with pytest.raises(ValueError, match="must be a batch or an iterable"):
        match_activations(graph, graph, module, 3)
    with pytest.raises(ValueError, match="other tensors than architecture"):
        match_activations(graph, graph, CASES[1].module(), case.example())
    with pytest.raises(ValueError, match="does not run on these inputs"):
        match_activations(graph, graph, module, torch.randn(2, 5))
    assert all(torch.equal(v, graph.state_dict()[k]) for k, v in module.state_dict().items())
