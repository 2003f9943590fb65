"""Laws of the canonical form: one representative for all rescaled copies of a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.graph import ParameterGraph
from graphrep.symmetry import canonical, derive_rescalings, random_rescaling, rescale

from .rescaling_cases import ALL, Gated, Rescalable
from .test_rescaling import case_named, change, every_case, generator, prepare, some_cases


def distance(a: ParameterGraph, b: ParameterGraph) -> float:
    return float((a.theta - b.theta).norm())


@every_case
def test_the_canonical_form_keeps_the_function_and_itself(case: Rescalable) -> None:
    _, x, graph, rescalings = prepare(case)
    found = canonical(graph, rescalings)
    assert change(case, found, x) < 1e-9
    assert distance(canonical(found, rescalings), found) < 1e-9
    if case.positive:
        assert distance(found, graph) > 1e-3


@some_cases
def test_rescaled_copies_have_one_canonical_form(case: Rescalable) -> None:
    _, _, graph, rescalings = prepare(case)
    found = canonical(graph, rescalings)
    for seed in range(3):
        copy = rescale(graph, random_rescaling(rescalings, generator(seed)))
        assert distance(copy, graph) > 1  # where plain distance sees a stranger
        assert distance(canonical(copy, rescalings), found) < 1e-9


@every_case
def test_other_functions_have_other_canonical_forms(case: Rescalable) -> None:
    module, x, graph, rescalings = prepare(case)
    other = graphrep.to_graph(case.module(torch.float64, seed=1), x)
    with torch.no_grad():
        assert (case.module(torch.float64, seed=1)(x) - module(x)).abs().max() > 1e-3
    assert distance(canonical(other, rescalings), canonical(graph, rescalings)) > 0.1


@every_case
def test_the_canonical_form_commutes_with_permutations(case: Rescalable) -> None:
    _, _, graph, rescalings = prepare(case)
    for seed in range(2):
        permutation = graphrep.random_permutation(graph.architecture, generator(seed))
        one = canonical(graph.permute(permutation), rescalings)
        assert distance(one, canonical(graph, rescalings).permute(permutation)) < 1e-9


@pytest.mark.parametrize("case", [c for c in ALL if c.positive], ids=str)
def test_no_rescaled_copy_is_shorter(case: Rescalable) -> None:
    """Among scales that reach no running variance, which has a norm of its own."""
    _, _, graph, rescalings = prepare(case)
    free = [
        f for f in rescalings.of_kind("positive") if not any(p.offset for p in f.parts)
    ]  # fmt: skip
    shortest = canonical(graph, rescalings)
    for seed in range(5):
        for spread in (0.01, 0.3):
            near = rescale(shortest, random_rescaling(free, generator(seed), spread))
            assert near.theta.norm() >= shortest.theta.norm()
            assert not free or near.theta.norm() > shortest.theta.norm() * (1 + 1e-6)


def test_a_batch_norm_divides_by_one() -> None:
    _, _, graph, rescalings = prepare(case_named("own-batch-norm-large-eps"))
    variance = canonical(graph, rescalings).state_dict()["1.running_var"]
    assert torch.allclose(variance, torch.full_like(variance, 0.9), rtol=1e-12)


def test_incoming_sums_of_cubes_are_positive() -> None:
    _, _, graph, rescalings = prepare(case_named("own-siren"))
    found = canonical(graph, rescalings).state_dict()
    assert (found["0.weight"].pow(3).sum(1) > 0).all()
    assert (found["2.weight"].pow(3).sum(1) > 0).all()


def with_weights(graph: ParameterGraph, **changes: Tensor) -> ParameterGraph:
    values = {**graph.state_dict(), **{k.replace("__", "."): v for k, v in changes.items()}}
    return ParameterGraph.from_state_dict(graph.architecture, values)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_dead_units_do_no_harm(activation: type[nn.Module]) -> None:
    """Units without input, without output, without either, and those that only feed such."""
    model = nn.Sequential(
        nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)
    ).double()
    x = torch.randn(7, 4, generator=generator(), dtype=torch.float64)
    graph = graphrep.to_graph(model, x)
    rescalings = derive_rescalings(graph.architecture, model, x)
    state = graph.state_dict()
    for name in ("0.weight", "0.bias"):
        state[name][:2] = 0
    state["2.weight"][:, 1:3] = 0  # unit 1 has neither, unit 2 no output
    state["4.weight"][:, :2] = 0
    state["2.weight"][2:, 3] = 0  # unit 3 feeds dead units alone
    state["2.weight"][4] = state["2.bias"][4] = 0
    dead = with_weights(graph, **state)
    expected = dead.load_into(model)(x).detach()
    found = canonical(dead, rescalings)
    assert torch.isfinite(found.theta).all()
    assert (found.load_into(model)(x) - expected).abs().max() < 1e-9
    assert distance(canonical(found, rescalings), found) < 1e-9
    copy = rescale(dead, random_rescaling(rescalings, generator(1)))
    assert (copy.load_into(model)(x) - expected).abs().max() < 1e-9
    assert distance(canonical(copy, rescalings), found) < 1e-9
    zero = replace(graph, theta=torch.zeros_like(graph.theta))
    assert torch.equal(canonical(zero, rescalings).theta, zero.theta)


@pytest.mark.parametrize("name", ["own-relu", "own-siren", "own-batch-norm", "own-deep"])
def test_numbers_that_are_not_finite_stay_and_the_rest_is_canonical(name: str) -> None:
    _, _, graph, rescalings = prepare(case_named(name))
    theta = graph.theta.clone()
    theta[3], theta[-2], theta[7] = torch.nan, torch.inf, -torch.inf
    broken = replace(graph, theta=theta)
    found = canonical(broken, rescalings)
    assert torch.equal(found.theta.isnan(), theta.isnan())
    assert torch.equal(found.theta.isinf(), theta.isinf())
    copy = canonical(rescale(broken, random_rescaling(rescalings, generator(2))), rescalings)
    finite = theta.isfinite()
    assert (copy.theta - found.theta)[finite].abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_type_of_the_weights_stays(dtype: torch.dtype) -> None:
    model = Gated(torch.relu).to(dtype)
    x = torch.randn(5, 4, generator=generator()).to(dtype)
    graph = graphrep.to_graph(model, x)
    rescalings = derive_rescalings(graph.architecture, model, x)
    found = canonical(graph, rescalings)
    assert found.theta.dtype == graph.theta.dtype == dtype
    exact = canonical(replace(graph, theta=graph.theta.double()), rescalings)
    assert torch.equal(found.theta, exact.theta.to(dtype))
    eps = torch.finfo(dtype).eps
    assert distance(canonical(found, rescalings), found) < 20 * eps


def test_extreme_scales_are_balanced_too() -> None:
    case = case_named("own-deep")
    _, x, graph, rescalings = prepare(case)
    powers = {f: 10.0 ** torch.linspace(-12, 12, f.size) for f in rescalings}
    extreme = rescale(graph, powers)
    assert extreme.theta.abs().max() > 1e10
    found = canonical(extreme, rescalings)
    assert change(case, found, x) < 1e-9
    assert distance(found, canonical(graph, rescalings)) < 1e-9


def test_the_rescalings_of_another_architecture_are_refused() -> None:
    _, _, _, rescalings = prepare(case_named("own-relu"))
    _, _, graph, _ = prepare(case_named("own-tanh"))
    with pytest.raises(ValueError, match="derive them anew"):
        canonical(graph, rescalings)
