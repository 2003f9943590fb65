"""Laws of rescalings: what is derived, and that it keeps the function."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.graph import ParameterGraph
from graphrep.symmetry import (
    Rescaling,
    Rescalings,
    derive_rescalings,
    random_rescaling,
    rescale,
    rescaling_derivation,
)
from graphrep.symmetry.rehearsal import Rehearsal

from .rescaling_cases import ALL, SOME, Rescalable

every_case = pytest.mark.parametrize("case", ALL, ids=str)
some_cases = pytest.mark.parametrize("case", SOME, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepare(case: Rescalable) -> tuple[nn.Module, Tensor, ParameterGraph, Rescalings]:
    """A float64 module, its input, its graph and its rescalings."""
    module, x = case.module(torch.float64), case.example(torch.float64)
    graph = graphrep.to_graph(module, x)
    return module, x, graph, derive_rescalings(graph.architecture, module, x)


@torch.no_grad()
def change(case: Rescalable, graph: ParameterGraph, x: Tensor) -> float:
    """How far a graph's outputs are from those of the case's module, relative to their size."""
    expected = case.module(torch.float64)(x)
    found = graph.load_into(case.module(torch.float64))(x)
    return float((found - expected).abs().max() / expected.abs().max())


@every_case
def test_as_many_scales_are_free_as_theory_says(case: Rescalable) -> None:
    _, _, _, rescalings = prepare(case)
    assert sum(f.size for f in rescalings.of_kind("positive")) == case.positive, list(rescalings)
    assert sum(f.size for f in rescalings.of_kind("sign")) == case.sign, list(rescalings)
    assert not rescalings.notes


@some_cases
def test_a_rescaled_network_computes_the_same(case: Rescalable) -> None:
    _, x, graph, rescalings = prepare(case)
    for seed in range(3):
        scales = random_rescaling(rescalings, generator(seed))
        rescaled = rescale(graph, scales)
        assert change(case, rescaled, x) < 1e-9
        assert (rescaled.theta - graph.theta).abs().max() > 1e-3
        scales = {f: s.clamp(0.5) if f.kind == "positive" else s for f, s in scales.items()}
        there_and_back = rescale(rescale(graph, scales), {f: 1 / s for f, s in scales.items()})
        assert torch.allclose(there_and_back.theta, graph.theta, rtol=1e-9, atol=1e-12)


@some_cases
def test_leaving_out_a_part_changes_the_function(case: Rescalable) -> None:
    _, x, graph, rescalings = prepare(case)
    for factor in rescalings:
        for number, part in enumerate(factor.parts):
            if part.block == "k.bias" or (part.block.startswith("qkv.bias") and part.slot == 1):
                continue  # adds the same to all scores of a query: it has no effect
            parts = factor.parts[:number] + factor.parts[number + 1 :]
            scale = torch.full((factor.size,), -1.0 if factor.kind == "sign" else 3.0)
            torn = replace(factor, parts=parts)
            assert change(case, rescale(graph, {torn: scale}), x) > 1e-6, part


@some_cases
def test_rescalings_commute_with_permutations(case: Rescalable) -> None:
    _, _, graph, rescalings = prepare(case)
    permutation = graphrep.random_permutation(graph.architecture, generator(1))
    scales = random_rescaling(rescalings, generator(2))
    moved = {f: s[permutation[f.units]] if f.units in permutation else s for f, s in scales.items()}
    one = rescale(graph, scales).permute(permutation)
    assert torch.equal(one.theta, rescale(graph.permute(permutation), moved).theta)


@every_case
def test_rescalings_come_back_from_json(case: Rescalable) -> None:
    _, _, _, rescalings = prepare(case)
    again = Rescalings.from_json(rescalings.to_json())
    assert again == rescalings and list(again) == list(rescalings)


def case_named(name: str) -> Rescalable:
    return next(c for c in ALL if c.name == name)


def test_a_variance_never_becomes_negative() -> None:
    case = case_named("own-batch-norm-large-eps")
    _, x, graph, rescalings = prepare(case)
    tiny = {f: torch.full((f.size,), 1e-3) for f in rescalings.of_kind("positive")}
    rescaled = rescale(graph, tiny)
    assert (rescaled.state_dict()["1.running_var"] >= 0).all()
    assert change(case, rescaled, x) < 1e-9
    without_eps = [
        replace(f, parts=tuple(replace(p, offset=0.0) for p in f.parts)) for f in rescalings
    ]
    halved = {f: torch.full((f.size,), 0.5) for f in without_eps if f.kind == "positive"}
    assert change(case, rescale(graph, halved), x) > 1e-6


def test_one_scale_serves_all_that_share_it() -> None:
    """The scale before a norm takes row, bias, mean and variance; the one after it the rest."""
    _, _, _, rescalings = prepare(case_named("own-batch-norm"))
    before, after = rescalings.of_kind("positive")
    assert {p.block: p.exponent for p in before.parts} == {
        "0.weight": 1, "0.bias": 1, "1.running_mean": 1, "1.running_var": 2,
    }  # fmt: skip
    assert {p.block: p.exponent for p in after.parts} == {
        "1.weight": 1, "1.bias": 1, "3.weight": -1,
    }  # fmt: skip
    _, _, _, squared = prepare(case_named("own-squared-relu"))
    assert [p.exponent for p in squared[0].parts] == [1, 1, -2]


def test_deriving_leaves_the_module_and_the_random_state_alone() -> None:
    case = case_named("own-batch-norm")
    module = case.module().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    torch.manual_seed(3)
    graph = graphrep.to_graph(module, case.example())
    first = derive_rescalings(graph.architecture, module, case.example())
    assert torch.rand(()) == torch.rand((), generator=generator(3))
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert derive_rescalings(graph.architecture, module, case.example()) is first


def test_bad_input_is_told_in_a_line() -> None:
    _, _, graph, rescalings = prepare(case_named("own-batch-norm"))
    factor = rescalings[0]
    wrong: list[tuple[dict[Rescaling, Tensor], str]] = [
        ({factor: torch.ones(5)}, "takes 6 scales"),
        ({factor: -torch.ones(6)}, "finite and above 0"),
        ({factor: torch.full((6,), torch.inf)}, "finite and above 0"),
        ({rescalings.of_kind("sign")[0]: torch.full((6,), 2.0)}, "-1 or 1"),
        ({replace(factor, units="other"): torch.ones(6)}, "no rescaling of architecture"),
    ]
    for scales, words in wrong:
        with pytest.raises(ValueError, match=words):
            rescale(graph, scales)
    for text in ("[", "[]", '{"format": 7}', '{"format": 1}'):
        with pytest.raises(ValueError, match="not rescalings"):
            Rescalings.from_json(text)
    other = graphrep.to_graph(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="derive them anew"):
        rescalings.check(other.architecture)
    empty = nn.Linear(3, 2, device="meta")
    meta = graphrep.to_graph(empty, torch.ones(1, 3))
    with pytest.raises(ValueError, match="meta"):
        derive_rescalings(meta.architecture, empty, torch.ones(1, 3))


def test_a_false_candidate_is_dropped_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_named("own-relu")
    module, x, graph, rescalings = prepare(case)
    rehearsal = Rehearsal(graph.architecture, module, x, torch.float64)
    (factor,) = rescalings
    assert rehearsal.holds([factor]) and rehearsal.parting(factor) is None
    for false in (replace(factor, parts=factor.parts[1:]), replace(factor, kind="sign")):
        assert not rehearsal.holds([false]) and rehearsal.parting(false) is not None
    monkeypatch.setattr(Rehearsal, "holds", lambda self, factors: not factors)
    monkeypatch.setattr(rescaling_derivation, "_derived", {})
    dropped = derive_rescalings(graph.architecture, module, x)
    assert not list(dropped)
    assert "changed the outputs" in str(dropped.notes[0])
