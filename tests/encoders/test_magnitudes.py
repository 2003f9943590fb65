"""Magnitudes of layers: what they say, and that every form of a network says the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.architecture.reorder import tensor_of
from graphrep.encoders.magnitudes import NUM_MAGNITUDES, SMALLEST_MEAN, magnitudes
from graphrep.model import WeightModel
from graphrep.symmetry import derive_rescalings, random_rescaling, rescale

from ..encoding import GRAPH, architecture_of, every_case, model, networks, relative
from .test_forms import RESCALED, SPLIT, embed, generator, prepare, splitting_effects, with_forms


def with_magnitudes(**forms: bool | int) -> WeightModel:
    return with_forms(GRAPH, magnitude_slots=3, **forms)


def told(built: WeightModel, theta: Tensor, architecture: graphrep.Architecture) -> Tensor:
    """The magnitudes alone: the last numbers of an embedding."""
    with torch.no_grad():
        found = built.encode(theta, architecture, tokens=False).model
    assert found.shape[1] == built.embedding_dim == model(GRAPH).embedding_dim + 3 * NUM_MAGNITUDES
    return found[:, -3 * NUM_MAGNITUDES :]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_mean_of_zero_is_told_from_a_small_one(dtype: torch.dtype) -> None:
    x = torch.randn(4, 301, generator=generator(), dtype=torch.float64)
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    x[1] += 0.1
    x[2] -= 0.1
    x[3] *= 100
    found = magnitudes([x[:, :100].to(dtype), x[:, 100:].to(dtype)])
    expected = torch.tensor([SMALLEST_MEAN, SMALLEST_MEAN + 0.1]).log10()[[0, 1, 1, 0]]
    assert torch.allclose(found[:, 0].float(), expected, atol=1e-4)
    assert torch.allclose(found[:, 1].float(), torch.tensor([0.0, 0, 0, 2]), atol=1e-4)


def test_numbers_that_are_not_finite_or_all_equal_have_magnitudes() -> None:
    x = torch.ones(5, 8)
    x[0, 0], x[1, 0], x[2, 0] = torch.nan, torch.inf, -3e38
    x[3, 0] = 0
    x[4] = 0
    found = magnitudes([x])
    assert found.isfinite().all()
    assert torch.equal(found[0], found[3])  # NaN is 0
    assert found[1:3, 1].tolist() == pytest.approx([17.52, 17.52], abs=0.01)  # 1e18 * sqrt(7) / 8
    assert found[4].tolist() == pytest.approx([-2, -6])


@every_case
def test_magnitudes_ignore_the_order_of_units(case) -> None:
    architecture = architecture_of(case)
    theta = networks(architecture)
    order = graphrep.random_permutation(architecture, generator())
    moved = torch.stack(
        [graphrep.ParameterGraph(architecture, row).permute(order).theta for row in theta]
    )
    built = with_magnitudes()
    before = told(built, theta, architecture)
    assert relative(told(built, moved, architecture) - before, before) < 1e-9
    assert relative(told(built, theta + 1, architecture) - before, before) > 1e-2
    single = told(with_magnitudes().float(), theta.float(), architecture)
    assert relative(single.double() - before, before) < 1e-4


@pytest.mark.parametrize("case", RESCALED, ids=str)
def test_magnitudes_of_a_canonical_form_are_those_of_all_rescaled_copies(case) -> None:
    module, x, graphs = prepare(case)
    rescalings = derive_rescalings(graphs[0].architecture, module, x)
    copies = [rescale(g, random_rescaling(rescalings, generator(i))) for i, g in enumerate(graphs)]
    effects = []
    for built in (with_magnitudes(canonical=True), with_magnitudes()):
        built.learn_rescalings([rescalings])
        before = embed(built, graphs)
        effects.append(relative(embed(built, copies) - before, before))
    assert effects[0] < 1e-9
    assert effects[1] > 1e-3


@pytest.mark.parametrize("case", SPLIT, ids=lambda c: c.name)
def test_magnitudes_ignore_copies_of_units(case) -> None:
    effects = splitting_effects(case, with_magnitudes(merge_duplicates=True), with_magnitudes())
    assert effects[0] < 1e-9
    assert effects[1] > 1e-3


def test_a_streamed_network_has_the_same_magnitudes() -> None:
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    graph = graphrep.to_graph(net, torch.zeros(1, 6))
    a = graph.architecture
    built = with_magnitudes().float()
    whole = told(built, graph.theta.unsqueeze(0), a)
    with torch.no_grad():
        streamed = built.encode_streamed(lambda n: tensor_of(a.tensor[n], graph.theta), a).model
    assert torch.allclose(streamed[:, -3 * NUM_MAGNITUDES :], whole, atol=1e-5)
    other = told(built, graph.theta.unsqueeze(0) * 2, a)
    assert not torch.allclose(other, whole, atol=1e-5)
