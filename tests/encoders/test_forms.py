"""Embeddings of forms: one for all rescaled copies, one for all networks with copied units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.graph import ParameterGraph
from graphrep.model import WeightModel
from graphrep.representation import Representation
from graphrep.symmetry import (
    canonical_rows,
    derive_rescalings,
    random_rescaling,
    rescale,
    split_units,
)
from graphrep.symmetry.copies import can_merge
from graphrep.training import (
    Networks,
    SelfSupervisedConfig,
    TrainingConfig,
    build_objective,
    train,
)

from ..architectures import CASES, Case
from ..encoding import GRAPH, TOKEN, model, networks, relative
from ..symmetry.rescaling_cases import ALL, SOME, Rescalable

FEW = ("mlp", "mlp-tanh-flat-image", "cnn-flatten-2x2", "cnn-batch-norm", "functional")
RESCALED = [c for c in SOME if c.name in (*FEW, "own-siren", "own-reglu", "own-attention")]
SPLIT = [c for c in CASES if c.name in (*FEW, "resnet-projection", "depthwise")]
rescaled_cases = pytest.mark.parametrize("case", RESCALED, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_forms(config=GRAPH, **forms: bool) -> WeightModel:
    built = model(config)
    built.config = replace(built.config, **forms)
    return built


def prepare(case: Case) -> tuple[nn.Module, Tensor, list[ParameterGraph]]:
    """A module, its input, and graphs of four networks of its design."""
    module, x = case.module(torch.float64), case.example(torch.float64)
    graphs = [graphrep.to_graph(case.module(torch.float64, seed), x) for seed in range(4)]
    return module, x, graphs


def embed(built: WeightModel, graphs: list[ParameterGraph], dtype=torch.float64) -> Tensor:
    theta = torch.stack([g.theta for g in graphs]).to(dtype)
    with torch.no_grad():
        return built.to(dtype).encode(theta, graphs[0].architecture, tokens=False).model


def rescaling_effects(case: Case, config, dtype=torch.float64) -> tuple[float, float]:
    """How much embeddings change when networks are rescaled: of the form, and without it."""
    module, x, graphs = prepare(case)
    a = graphs[0].architecture
    rescalings = derive_rescalings(a, module, x)
    graphs = [replace(g, theta=g.theta.to(dtype)) for g in graphs]
    copies = [rescale(g, random_rescaling(rescalings, generator(i))) for i, g in enumerate(graphs)]
    effects = []
    for built in (with_forms(config, canonical=True), model(config)):
        built.learn_rescalings([rescalings])
        before = embed(built, graphs, dtype)
        effects.append(relative(embed(built, copies, dtype) - before, before))
    return effects[0], effects[1]


@rescaled_cases
@pytest.mark.parametrize("config", [GRAPH, TOKEN], ids=lambda c: c.name)
def test_a_canonical_embedding_is_one_for_all_rescaled_copies(case: Rescalable, config) -> None:
    canonical, plain = rescaling_effects(case, config)
    assert canonical < 1e-9
    assert plain > 1e-3


@rescaled_cases
def test_a_canonical_embedding_is_one_for_all_copies_in_single_precision(case: Rescalable) -> None:
    canonical, plain = rescaling_effects(case, GRAPH, torch.float32)
    assert canonical < 1e-4
    assert plain > 1e-3


def test_a_canonical_form_does_not_depend_on_its_company() -> None:
    for name in ("cnn-batch-norm", "own-deep", "own-siren"):
        case = next(c for c in ALL if c.name == name)
        module, x, graphs = prepare(case)
        a = graphs[0].architecture
        rescalings = derive_rescalings(a, module, x)
        theta = torch.stack([g.theta for g in graphs])
        theta[2] *= 100
        theta[3, ::5] = 0
        together = canonical_rows(theta, a, rescalings)
        alone = torch.cat([canonical_rows(row.unsqueeze(0), a, rescalings) for row in theta])
        assert (together - alone).abs().max() < 1e-12 * theta.abs().max()
        assert (together - theta).abs().max() > 1e-3


def test_training_and_decoding_see_canonical_forms(tmp_path: Path) -> None:
    case = next(c for c in ALL if c.name == "mlp")
    module, x, graphs = prepare(case)
    a = graphs[0].architecture
    rescalings = derive_rescalings(a, module, x)
    theta = torch.stack([g.theta for g in graphs]).float()
    copies = torch.stack(
        [rescale(g, random_rescaling(rescalings, generator(5))).theta for g in graphs]
    ).float()
    settings = TrainingConfig(num_steps=4, batch_size=4, validate_every=4, num_threads=1)
    results: dict[bool, list[float]] = {}
    for canonical in (True, False):
        losses = []
        for number, rows in enumerate((theta, copies)):
            built = with_forms(canonical=canonical).float().learn_rescalings([rescalings])
            objective = build_objective(SelfSupervisedConfig(), built)
            folder = tmp_path / f"{canonical} {number}"
            groups = [Networks(a, rows)]
            losses.append(train(built, objective, groups, groups, settings, folder).best_loss)
        results[canonical] = losses
    assert results[True][0] == pytest.approx(results[True][1], rel=1e-4)
    assert results[False][0] != pytest.approx(results[False][1], rel=1e-2)


def test_a_saved_model_brings_its_rescalings(tmp_path: Path) -> None:
    case = next(c for c in ALL if c.name == "cnn-batch-norm")
    module, x, graphs = prepare(case)
    a = graphs[0].architecture
    built = with_forms(canonical=True).float()
    with pytest.raises(ValueError, match=r"model.canonical needs the rescalings of 'Sequential'"):
        Representation(built, [a]).encode(graphs)
    fresh = Representation(with_forms(canonical=True).float())
    by_module = fresh.encode(module, example_inputs=x)  # finds them by trial
    built.learn_rescalings([derive_rescalings(a, module, x)])
    Representation(built, [a]).save_pretrained(tmp_path / "model")
    loaded = Representation.from_pretrained(tmp_path / "model")
    expected = Representation(built, [a]).encode(graphs)
    assert (loaded.encode(graphs) == expected).all()
    assert abs(by_module - expected[0]).max() < 1e-4 * abs(expected).max()


@pytest.mark.parametrize("forms", [{"canonical": True}, {"merge_duplicates": True}], ids=str)
def test_a_form_is_not_streamed(forms: dict[str, bool]) -> None:
    built = with_forms(**forms)
    assert model().streams and not built.streams
    with pytest.raises(ValueError, match=r"need all of a network's numbers at once"):
        built.encode_streamed(lambda name: torch.zeros(()), graphrep.Architecture)  # type: ignore


def split(graph: ParameterGraph, seed: int) -> ParameterGraph:
    """Two units of every group copied, one of them twice, in another order."""
    a, drawn = graph.architecture, generator(seed)
    copies = {n: torch.randint(a.unit[n].size, (2,), generator=drawn) for n in can_merge(a)}
    copies = {n: torch.cat([m, m[:1]]) for n, m in copies.items()}
    wider = split_units(graph, copies, drawn)
    return wider.permute(graphrep.random_permutation(wider.architecture, drawn))


def splitting_effects(case: Case, *models: WeightModel) -> list[float]:
    """How much each model's embeddings change when units are split."""
    _, _, graphs = prepare(case)
    wider = [split(g, number) for number, g in enumerate(graphs)]
    found = [(embed(built, graphs), embed(built, wider)) for built in models]
    return [relative(after - before, before) for before, after in found]


@pytest.mark.parametrize("case", SPLIT, ids=lambda c: c.name)
def test_an_embedding_ignores_copies_of_units(case: Case) -> None:
    effects = splitting_effects(case, with_forms(merge_duplicates=True), model())
    assert effects[0] < 1e-9
    assert effects[1] > 1e-3


def test_without_copies_merging_changes_no_bit() -> None:
    for case in CASES[:8]:
        _, _, graphs = prepare(case)
        merged, plain = (embed(b, graphs) for b in (with_forms(merge_duplicates=True), model()))
        assert torch.equal(merged, plain)
        theta = networks(graphs[0].architecture, 2)
        found = with_forms(merge_duplicates=True).encode(theta, graphs[0].architecture)
        assert torch.equal(found.tokens, model().encode(theta, graphs[0].architecture).tokens)


def test_networks_with_copies_and_without_share_a_batch() -> None:
    _, _, graphs = prepare(CASES[0])
    wider = [split(g, 0) for g in graphs]
    drawn = networks(wider[0].architecture, 1)[0]
    built = with_forms(merge_duplicates=True)
    mixed = [wider[0], replace(wider[0], theta=drawn), *wider[1:]]
    found, before = embed(built, mixed), embed(built, graphs)
    assert relative(found[[0, 2, 3, 4]] - before, before) < 1e-9
    alone = embed(model(), [mixed[1]])
    assert relative(found[1:2] - alone, before) < 1e-9


def test_copies_of_rescaled_networks_are_merged_and_brought_to_one_form() -> None:
    case = next(c for c in ALL if c.name == "cnn-batch-norm")
    module, x, graphs = prepare(case)
    rescalings = derive_rescalings(graphs[0].architecture, module, x)
    copies = [
        split(rescale(g, random_rescaling(rescalings, generator(i))), i)
        for i, g in enumerate(graphs)
    ]
    built = with_forms(canonical=True, merge_duplicates=True).learn_rescalings([rescalings])
    built.learn_rescalings([rescalings.resized(copies[0].architecture)])
    before = embed(built, graphs)
    assert relative(embed(built, copies) - before, before) < 1e-9
