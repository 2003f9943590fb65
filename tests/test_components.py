"""Components of learned numbers: what they keep, when they are fitted, that they are saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import graphrep
from graphrep.components import Components
from graphrep.encoders.moments import NUM_MOMENTS
from graphrep.model import ModelConfig, WeightModel
from graphrep.representation import Representation
from graphrep.training import (
    Networks,
    SelfSupervisedConfig,
    TrainingConfig,
    build_objective,
    train,
)
from graphrep.training.components import fit_components
from graphrep.training.objectives import Context, PropertyConfig
from graphrep.training.objectives.property_head import Target

from .architectures import CASES
from .encoding import GRAPH, architecture_of, networks, relative

SETTINGS = TrainingConfig(num_steps=4, batch_size=4, validate_every=4, num_threads=1)


def condensing(num: int = 5, **changes: int) -> WeightModel:
    torch.manual_seed(0)
    return WeightModel(ModelConfig(encoder=GRAPH, num_components=num, **changes))


def test_all_components_keep_all_distances() -> None:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7)
    found = Components(6, 6).fit(rows)(rows)
    standard = (rows - rows.mean(0)) / rows.std(0, correction=0)
    assert torch.allclose(torch.pdist(found), torch.pdist(standard), atol=1e-4)
    two = Components(6, 2).fit(rows)(rows)
    assert torch.allclose(two.abs(), found[:, :2].abs(), atol=1e-5)  # the widest come first
    assert found.var(0).argsort(descending=True).tolist() == list(range(6))


def test_numbers_that_never_change_and_missing_networks_are_no_trouble() -> None:
    rows = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    rows[:, 2] = 7.0
    components = Components(6, 5).fit(rows)
    found = components(rows)
    assert found.isfinite().all() and (found[:, 3:] == 0).all() and (found[:, :2] != 0).any()
    rows[:, 2] = 1000.0
    assert torch.equal(components(rows), found)


def test_far_networks_stay_within_reach() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    components = Components(3, 3).fit(rows)
    assert torch.allclose(components(rows[:1] + 1e3), components(rows[:1] + 1e6))


def test_components_are_fitted_after_training_and_leave_moments_alone(tmp_path: Path) -> None:
    a = architecture_of(CASES[0])
    theta = networks(a, 12).float()
    groups = [Networks(a, theta)]
    plain, built = condensing(0), condensing(5)
    for number, weights in enumerate((plain, built)):
        torch.manual_seed(1)
        objective = build_objective(SelfSupervisedConfig(), weights)
        train(weights, objective, groups, groups, SETTINGS, tmp_path / str(number))
    assert built.is_condensed and not plain.is_condensed
    with torch.no_grad():
        whole, found = (w.encode(theta, a, tokens=False).model for w in (plain, built))
    moments = GRAPH.num_slots * NUM_MOMENTS
    assert found.shape == (12, 5 + moments) and built.embedding_dim == 5 + moments
    assert torch.equal(found[:, 5:], whole[:, -moments:])
    learned = whole[:, :-moments]
    assert torch.equal(found[:, :5], Components(learned.shape[1], 5).fit(learned)(learned))


def test_a_saved_model_brings_its_components(tmp_path: Path) -> None:
    a = architecture_of(CASES[0])
    theta = networks(a, 12).float()
    built = condensing(5, magnitude_slots=3).eval()
    built.fit_scaling([(a, theta)])
    fit_components(built, [(a, theta)])
    graphs = [graphrep.ParameterGraph(a, row) for row in theta]
    expected = Representation(built, [a]).encode(graphs)
    Representation(built, [a]).save_pretrained(tmp_path / "model")
    loaded = Representation.from_pretrained(tmp_path / "model")
    assert np.array_equal(loaded.encode(graphs), expected)
    before = expected.copy()
    fit_components(loaded.model, [(a, theta[:6] * 3)])  # fitted once, it stays
    assert np.array_equal(loaded.encode(graphs), before)


def test_condensed_embeddings_ignore_the_order_of_units() -> None:
    a = architecture_of(CASES[0])
    theta = networks(a, 12)
    built = condensing(5).double().eval()
    built.fit_scaling([(a, theta)])
    fit_components(built, [(a, theta)])
    built.double()
    order = graphrep.random_permutation(a, torch.Generator().manual_seed(0))
    moved = torch.stack([graphrep.ParameterGraph(a, row).permute(order).theta for row in theta])
    with torch.no_grad():
        before = built.encode(theta, a, tokens=False).model
        after = built.encode(moved, a, tokens=False).model
        other = built.encode(theta.flip(1), a, tokens=False).model
    assert relative(after - before, before) < 1e-9
    assert relative(other - before, before) > 1e-3


def test_a_head_reads_all_numbers(tmp_path: Path) -> None:
    a = architecture_of(CASES[0])
    theta = networks(a, 12).float()
    groups = [Networks(a, theta, targets=torch.randn(12, 1))]
    built = condensing(5, magnitude_slots=2)
    config, known = (
        PropertyConfig(properties=("score",)),
        Context((Target(name="score", kind="number"),)),
    )
    objective = build_objective(config, built, known)
    train(built, objective, groups, groups, replace(SETTINGS, num_steps=2), tmp_path)
    assert not built.is_condensed and built.embedding_dim > 5 + GRAPH.num_slots * NUM_MOMENTS


@pytest.mark.parametrize("name", ["num_components", "magnitude_slots"])
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 0 or more, got -1"):
        ModelConfig(**{name: -1})
