"""SIRENs: their values at the start, the images that they are, their symmetries."""

from __future__ import annotations

import math

import pytest
import torch

import graphrep
from graphrep.zoo.implicit.siren import Siren, build_siren, places, render

DESIGN = {"kind": "siren", "hidden": [6, 5], "omega": 20.0, "image_shape": [3, 4, 7]}


def drawn(seed: int) -> Siren:
    return build_siren(DESIGN).initialise(torch.Generator().manual_seed(seed))


def test_values_start_within_the_bounds_of_the_paper() -> None:
    siren = Siren((400, 300), omega=20.0).initialise(torch.Generator().manual_seed(0))
    first, second, last = siren.layers
    bounds = [(first, 1 / 2), (second, math.sqrt(6 / 400) / 20), (last, math.sqrt(6 / 300) / 20)]
    for layer, bound in bounds:
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.bias.detach().abs().max()) <= 1 / math.sqrt(layer.in_features)


def test_hidden_units_vary_as_widely_in_every_layer() -> None:
    """What the paper's bounds are for; torch's own start in the second layer is the control."""
    siren = Siren((256, 256)).initialise(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def spread() -> float:
        first = torch.sin(siren.omega * siren.layers[0](places(20, 20)))
        return float((siren.omega * siren.layers[1](first)).std(0).mean())

    assert spread() == pytest.approx(1, abs=0.1)
    siren.layers[1].reset_parameters()
    assert spread() > 5


def test_a_seed_decides_the_start() -> None:
    a, b, c = (drawn(seed).layers[0].weight for seed in (1, 1, 2))
    assert a.equal(b)
    assert not a.equal(c)


def test_rendering_puts_each_place_where_it_belongs() -> None:
    """A SIREN of one near-linear unit: brightness grows with the row alone."""
    siren = Siren((1,), omega=1.0)
    with torch.no_grad():
        siren.layers[0].weight[:] = torch.tensor([[1e-3, 0.0]])
        siren.layers[0].bias.zero_()
        siren.layers[1].weight[:] = 1e3
        siren.layers[1].bias.zero_()
    image = render(siren, 3, 5)
    assert image.shape == (1, 3, 5)
    torch.testing.assert_close(image[0], torch.tensor([-1.0, 0.0, 1.0])[:, None].expand(3, 5))


def test_an_image_can_be_rendered_at_any_resolution() -> None:
    siren = drawn(0).double()
    coarse, fine = render(siren, 4, 7), render(siren, 7, 13)
    assert coarse.shape == (3, 4, 7)
    torch.testing.assert_close(fine[:, ::2, ::2], coarse)
    assert not fine[:, 1::2, 1::2].allclose(coarse[:, 1:, 1:])


def test_a_graph_finds_the_hidden_units_and_the_sine_s_signs() -> None:
    siren = drawn(0)
    graph = graphrep.to_graph(siren, places(2, 2))
    free = {units.name: units.size for units in graph.architecture.units if not units.fixed}
    assert sorted(free.values()) == [5, 6]
    rescalings = graphrep.derive_rescalings(graph.architecture, siren, places(2, 2))
    assert {(factor.units, factor.kind) for factor in rescalings} == {(u, "sign") for u in free}

    before = render(siren.double(), 4, 7)
    other = graphrep.canonical(graph, rescalings)
    other = other.permute(graphrep.random_permutation(graph.architecture, torch.Generator()))
    assert not other.theta.equal(graph.theta)
    torch.testing.assert_close(render(other.load_into(build_siren(DESIGN)).double(), 4, 7), before)
