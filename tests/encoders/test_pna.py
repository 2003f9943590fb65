"""Laws of the PNA baseline, and the defects of its public code, which it must not have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import graphrep
from graphrep.architecture import Architecture, trace
from graphrep.architecture.nesting import draw
from graphrep.architecture.reorder import block_index, read_block, reorder_theta
from graphrep.architecture.spec import Block, Span, TensorSpec
from graphrep.encoders import Batch, PNAEncoderConfig
from graphrep.encoders.explicit import explicit_edges
from graphrep.encoders.pna_layers import NetworkNorm
from graphrep.tokens import token_grid
from graphrep.training import (
    Networks,
    SelfSupervisedConfig,
    TrainingConfig,
    ViewConfig,
    build_objective,
    train,
)

from ..architectures import CASES, Case
from ..encoding import architecture_of, every_case, model, networks, relative
from ..nested import DESIGNS, Design, without_parents

PNA = PNAEncoderConfig(unit_dim=6, num_layers=3, num_frequencies=4, frequency_scale=0.3)
CONFIGS = [PNA, *(replace(PNA, readout=r, reverse=True) for r in ("mean", "groups"))]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.readout)
every_design = pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.name)


def reordered(architecture: Architecture, theta: torch.Tensor) -> torch.Tensor:
    permutation = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    return reorder_theta(architecture, theta, permutation)


@every_case
@every_config
@torch.no_grad()
def test_the_pna_embedding_ignores_the_order_of_hidden_units(
    case: Case | Design, config: PNAEncoderConfig
) -> None:
    architecture = architecture_of(case)
    theta, built = networks(architecture), model(config)
    before = built.encode(theta, architecture).model
    after = built.encode(reordered(architecture, theta), architecture).model
    assert relative(after - before, before) < 1e-9


@torch.no_grad()
def test_the_pna_embedding_notices_a_bias_that_does_not_move_along() -> None:
    """The control, and the peers' defect: biases permuted apart from their weights."""
    architecture = architecture_of(CASES[0])
    theta, built = networks(architecture), model(PNA)
    moved = reordered(architecture, theta)
    for block in architecture.blocks:
        if block.kind == "diagonal":
            places = block_index(architecture, block).flatten()
            moved[:, places] = theta[:, places]
    before = built.encode(theta, architecture).model
    assert relative(built.encode(moved, architecture).model - before, before) > 1e-3


@every_case
@torch.no_grad()
def test_units_and_predicted_numbers_move_along(case: Case | Design) -> None:
    architecture = architecture_of(case)
    theta, encoder = networks(architecture), model(PNA).encoder
    order = draw(architecture, torch.Generator().manual_seed(4))
    before = encoder(Batch(architecture, theta, 8, predict=True))
    moved = reorder_theta(architecture, theta, order)
    after = encoder(Batch(architecture, moved, 8, predict=True))
    start = 0
    for units in architecture.units:
        group = slice(start, start + units.size)
        start += units.size
        place = order.get(units.name, torch.arange(units.size))
        change = after.units[:, group] - before.units[:, group][:, place]
        assert relative(change, before.units) < 1e-9
    expected = reorder_theta(architecture, before.numbers, order)
    assert before.numbers.isfinite().all()
    assert relative(after.numbers - expected, before.numbers) < 1e-9
    if any(u.size > 1 for u in architecture.units if not u.fixed):
        assert relative(after.numbers - before.numbers, before.numbers) > 1e-6
        assert relative(after.units - before.units, before.units) > 1e-6


@torch.no_grad()
def test_token_latents_move_with_their_units() -> None:
    """Rows of the first layer read inputs alone, so that only their units' order changes."""
    architecture = architecture_of(CASES[0])
    theta, encoder = networks(architecture), model(PNA).encoder
    name = architecture.blocks[0].target
    assert name is not None
    order = torch.arange(architecture.unit[name].size).roll(1)
    before = encoder(Batch(architecture, theta, 8)).tokens
    moved = reorder_theta(architecture, theta, {name: order})
    after = encoder(Batch(architecture, moved, 8)).tokens
    rows = torch.nonzero(token_grid(architecture, 8).position[:, 1] == 0).view(len(order), -1)
    assert relative(after[:, rows] - before[:, rows[order]], before) < 1e-9
    assert relative(after[:, rows] - before[:, rows], before) > 1e-6


@every_case
@torch.no_grad()
def test_a_pna_embedding_does_not_depend_on_the_batch(case: Case | Design) -> None:
    architecture = architecture_of(case)
    theta, built = networks(architecture), model(PNA)
    together = built.encode(theta, architecture)
    for other in (theta[1:2], torch.cat([theta[:1] * 5, theta[1:2]])):
        found = built.encode(other, architecture)
        assert relative(found.model[-1:] - together.model[1:2], together.model) < 1e-9
        assert relative(found.tokens[-1:] - together.tokens[1:2], together.tokens) < 1e-9
    assert relative(found.model[:1] - together.model[:1], together.model) > 1e-6


@torch.no_grad()
def test_a_norm_over_the_whole_batch_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the public code's norm, which makes networks of a batch hear each other."""
    architecture = architecture_of(CASES[0])
    theta, built = networks(architecture), model(PNA)
    own = NetworkNorm.forward
    monkeypatch.setattr(NetworkNorm, "forward", lambda self, x, num: own(self, x, len(x)))
    together = built.encode(theta, architecture).model
    alone = built.encode(theta[1:2], architecture).model
    assert relative(together[1:2] - alone, together) > 1e-3


@every_case
def test_explicit_edges_are_the_unit_pairs_of_the_pyg_view(case: Case | Design) -> None:
    """And hold the same numbers: kernels as read, an edge after the other."""
    architecture = architecture_of(case)
    theta = networks(architecture, 1)
    graph = explicit_edges(architecture, False, torch.device("cpu"))
    data = graphrep.ParameterGraph(architecture, theta[0]).to_pyg()
    blocks = [number for number, b in enumerate(architecture.blocks) if b.source is not None]
    ends = graph.unsort(graph.index.T.unsqueeze(0))[0].T
    start = 0
    for number in blocks:
        block, chosen = architecture.blocks[number], data.edge_block == number
        num = block.num_edges // block.num_features
        own = ends[:, start : start + num].repeat_interleave(block.num_features, 1)
        assert torch.equal(own, data.edge_index[:, chosen])
        numbers = read_block(architecture, block, theta).flatten()
        assert torch.equal(numbers, data.edge_attr[chosen, 0].to(numbers))
        start += num
    assert start == graph.num_forward
    assert (graph.index[1].diff() >= 0).all()
    kin = sum(u.size * len(u.parents) for u in architecture.units)
    assert ends.shape[1] == start + 2 * kin


@every_case
def test_both_ways_of_aggregating_agree(case: Case | Design) -> None:
    """Segments where a gradient is wanted, a scatter where none is."""
    architecture = architecture_of(case)
    theta, built = networks(architecture), model(replace(PNA, reverse=True))
    with torch.no_grad():
        scattered = built.encode(theta, architecture).model
    found = built.encode(theta, architecture).model
    assert relative((found - scattered).detach(), scattered) < 1e-9


@pytest.mark.parametrize(
    ("design", "number"), [(d, n) for d in DESIGNS for n in range(len(d.broken))]
)
@torch.no_grad()
def test_the_pna_embedding_notices_what_leaves_its_parents(design: Design, number: int) -> None:
    architecture = design.architecture()
    theta = networks(architecture)
    orders = {name: torch.tensor(order) for name, order in design.broken[number].items()}
    changed = reorder_theta(without_parents(architecture), theta, orders)
    built = model(replace(PNA, num_layers=4, reverse=True))
    before = built.encode(theta, architecture).model
    assert relative(built.encode(changed, architecture).model - before, before) > 1e-6


@every_case
@torch.no_grad()
def test_hidden_numbers_are_told_from_zeros(case: Case | Design) -> None:
    architecture = architecture_of(case)
    theta, encoder = networks(architecture), model(PNA).encoder
    for block in {(b.kind, b.role): b for b in architecture.blocks}.values():
        visible = torch.ones_like(theta, dtype=torch.bool)
        visible[:, block_index(architecture, block).flatten()[:1]] = False
        zero = encoder(Batch(architecture, theta * visible, 8))
        hidden = encoder(Batch(architecture, theta * visible, 8, visible))
        assert relative(hidden.units - zero.units, zero.units) > 1e-6
        seen = encoder(Batch(architecture, theta, 8, torch.ones_like(visible)))
        assert (
            relative(seen.units - encoder(Batch(architecture, theta, 8)).units, seen.units) < 1e-9
        )


@every_design
@torch.no_grad()
def test_the_tokens_of_a_window_are_those_of_the_whole(design: Design) -> None:
    architecture = design.architecture()
    values, encoder = networks(architecture, 2), model(PNA).encoder
    whole = encoder(Batch(architecture, values, 8)).tokens
    part = encoder(Batch(architecture, values, 8, window=slice(1, 6))).tokens
    assert relative(part - whole[:, 1:6], whole) < 1e-9
    assert encoder(Batch(architecture, values, 8, tokens=False)).tokens.shape[1] == 0


@every_config
@torch.no_grad()
def test_a_network_without_units_has_an_embedding(config: PNAEncoderConfig) -> None:
    """Its tensors are nodes without edges."""
    spec = TensorSpec(name="w", shape=(3, 4), dtype="float32", role="parameter", offset=0)
    axes = tuple(Span(units=None, size=1, slots=size) for size in spec.shape)
    block = Block(name="w", tensor="w", kind="opaque", role="opaque", axes=axes)
    architecture = Architecture(name="opaque", units=(), blocks=(block,), tensors=(spec,))
    found = model(config).encoder(Batch(architecture, networks(architecture), 8, predict=True))
    assert relative(found.model[1:] - found.model[:-1], found.model) > 1e-6
    assert found.units.shape[1] == 0 and found.numbers.isfinite().all()


def test_pna_learns_what_is_hidden(tmp_path: Path) -> None:
    """All numbers of a network are alike, so what is hidden is known from what is seen."""
    architecture = trace(CASES[0].module(), CASES[0].example())
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(64, 1, generator=generator).expand(-1, architecture.num_parameters)
    theta = theta / 10
    built = model(replace(PNA, unit_dim=16)).float()
    views = ViewConfig(permute=False, mask_unit="number")
    config = SelfSupervisedConfig(numbers_weight=1, seen_weight=0, hidden_weight=0, views=views)
    objective = build_objective(config, built)
    settings = TrainingConfig(
        num_steps=60, batch_size=16, validate_every=60, learning_rate=1e-2, num_threads=1
    )
    found = Networks(architecture, theta)
    result = train(built, objective, [found], [found], settings, tmp_path)
    nothing = built.scaling(theta, architecture).square().mean()  # what predicting 0 costs
    assert result.best_loss < 0.3 * nothing


def test_wrong_settings_are_named() -> None:
    for field, value in (("readout", "sum"), ("num_layers", 0), ("frequency_scale", 0.0)):
        with pytest.raises(ValueError, match=field):
            PNAEncoderConfig(**{field: value})
