"""Laws of encoders: what an embedding may depend on, and what it must notice; laws 4, 5, 6."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graphrep
from graphrep.architecture import Architecture, trace
from graphrep.architecture.reorder import reorder_theta, tensor_of
from graphrep.decoders import DecoderConfig
from graphrep.encoders import (
    Batch,
    EncoderConfig,
    GraphEncoderConfig,
    RawEncoderConfig,
    StatisticsEncoderConfig,
    TokenEncoderConfig,
)
from graphrep.encoders.base import depth_weights
from graphrep.model import ModelConfig, WeightModel
from graphrep.tokens import token_grid

from .architectures import CASES, IDS, Case
from .references import explicit_units

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
GRAPH = GraphEncoderConfig(unit_dim=12, edge_dim=4, value_dim=3, num_rounds=2)
TOKEN = TokenEncoderConfig(model_dim=16, num_heads=2, num_layers=1)
ENCODERS = [GRAPH, TOKEN, StatisticsEncoderConfig(), RawEncoderConfig()]


def model(config: EncoderConfig = GRAPH) -> WeightModel:
    torch.manual_seed(0)
    decoder = DecoderConfig(model_dim=16, num_heads=2, num_layers=1)
    built = WeightModel(ModelConfig(encoder=config, decoder=decoder, token_size=8, latent_dim=8))
    return built.double().eval()


def networks(architecture: Architecture, num: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, architecture.num_parameters, generator=generator, dtype=torch.float64)


def relative(change: Tensor, embeddings: Tensor) -> float:
    """Largest change, relative to the spread between networks."""
    spread = (embeddings - embeddings.mean(0)).abs().max()
    assert spread > 1e-6  # an encoder that ignores its input is invariant too
    return float(change.abs().max() / spread)


@torch.no_grad()
def order_effect(encoder: EncoderConfig, architecture: Architecture) -> float:
    """How much model embeddings change when hidden units are reordered."""
    theta, built = networks(architecture), model(encoder)
    permutation = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    before = built.encode(theta, architecture).model
    after = built.encode(reorder_theta(architecture, theta, permutation), architecture).model
    return relative(after - before, before)


@every_case
def test_the_graph_embedding_ignores_the_order_of_hidden_units(case: Case) -> None:
    assert order_effect(GRAPH, trace(case.module(), case.example())) < 1e-9


def test_layer_statistics_ignore_the_order_too() -> None:
    assert (
        order_effect(StatisticsEncoderConfig(), trace(CASES[5].module(), CASES[5].example())) < 1e-9
    )


@pytest.mark.parametrize("encoder", [TOKEN, RawEncoderConfig()], ids=["token", "raw"])
def test_flat_encoders_see_the_order(encoder: EncoderConfig) -> None:
    assert order_effect(encoder, trace(CASES[0].module(), CASES[0].example())) > 1e-3


@every_case
@torch.no_grad()
def test_unit_embeddings_move_along(case: Case) -> None:
    architecture = trace(case.module(), case.example())
    theta, built = networks(architecture), model()
    permutation = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    before = built.encode(theta, architecture).units
    after = built.encode(reorder_theta(architecture, theta, permutation), architecture).units
    assert before is not None and after is not None
    start = 0
    moved = 0.0
    for units in architecture.units:
        group = slice(start, start + units.size)
        order = permutation.get(units.name, torch.arange(units.size))
        assert relative(after[:, group] - before[:, group][:, order], before) < 1e-9
        moved += float((after[:, group] - before[:, group]).abs().max())
        start += units.size
    if max(case.hidden) > 1:
        assert moved > 1e-6  # units that are all alike would move along as well


@every_case
@torch.no_grad()
def test_token_latents_read_only_their_own_numbers_and_their_units(case: Case) -> None:
    """A row whose own numbers do not move, at a unit that does, takes its latent along."""
    architecture = trace(case.module(), case.example())
    first = next(
        u for u in architecture.units
        if not u.fixed
        and all(b.source != u.name for b in architecture.blocks if b.target == u.name)
    )  # fmt: skip
    grid = token_grid(architecture, 8)
    leader = next(
        b for b in architecture.blocks
        if b.target == first.name and b.tensor in grid.layers
        and (b.source is None or architecture.unit[b.source].fixed)
        and architecture.tensor[b.tensor].shape[b.target_axis or 0] == first.size
    )  # fmt: skip
    theta, built = networks(architecture), model()
    order = torch.randperm(first.size, generator=torch.Generator().manual_seed(1))
    before = built.encode(theta, architecture).tokens
    after = built.encode(
        reorder_theta(architecture, theta, {first.name: order}), architecture
    ).tokens
    rows = torch.nonzero(grid.position[:, 1] == grid.layers.index(leader.tensor)).flatten()
    pieces = len(rows) // first.size
    index = rows.view(first.size, pieces)
    moved = after[:, index] - before[:, index[order]]
    assert relative(moved, before) < 1e-9
    if first.size > 1:
        assert (after[:, index] - before[:, index]).abs().max() > 1e-6


@pytest.mark.parametrize("side", ["input", "output"])
@torch.no_grad()
def test_the_graph_embedding_notices_a_reordering_that_changes_the_function(side: str) -> None:
    """Swapping inputs or outputs with identities is another network."""
    architecture = trace(CASES[0].module(), CASES[0].example())
    theta, built = networks(architecture), model()
    changed = theta.clone()
    for block in architecture.blocks:
        for axis, span in enumerate(block.axes):
            if span.units is not None and architecture.unit[span.units].kind == side:
                part = tensor_of(architecture.tensor[block.tensor], changed)
                part.copy_(part.flip(1 + axis).clone())
    before = built.encode(theta, architecture).model
    assert relative(built.encode(changed, architecture).model - before, before) > 1e-4


@every_case
@pytest.mark.parametrize("config", ENCODERS, ids=lambda c: c.name)
@torch.no_grad()
def test_an_embedding_does_not_depend_on_the_batch(case: Case, config: EncoderConfig) -> None:
    architecture = trace(case.module(), case.example())
    theta, built = networks(architecture), model(config)
    together = built.encode(theta, architecture)
    alone = built.encode(theta[1:2], architecture)
    assert relative(together.model[1:2] - alone.model, together.model) < 1e-9
    other = theta.clone()
    other[0] *= 5
    changed = built.encode(other, architecture)
    assert relative(changed.model[1:] - together.model[1:], together.model) < 1e-9
    assert relative(changed.model[:1] - together.model[:1], together.model) > 1e-6
    assert relative(changed.tokens[1:] - together.tokens[1:], together.tokens) < 1e-9


@pytest.mark.parametrize("config", ENCODERS, ids=lambda c: c.name)
@torch.no_grad()
def test_an_embedding_does_not_depend_on_padding(config: EncoderConfig) -> None:
    """Nothing stands where a token is padded, whatever the padded places would have held."""
    case = CASES[5]
    architecture = trace(case.module(), case.example())
    theta, built = networks(architecture), model(config)
    grid = token_grid(architecture, 8)
    assert not grid.mask.all()
    assert (grid.cut(theta)[:, ~grid.mask] == 0).all()
    before = built.encode(theta, architecture)
    garbage = before.tokens.new_full((4, *grid.index.shape), 99.0)
    garbage[:, grid.mask] = grid.cut(theta)[:, grid.mask]
    assert torch.equal(grid.join(garbage), theta)
    assert torch.equal(built.encode(grid.join(garbage), architecture).model, before.model)


@every_case
@torch.no_grad()
def test_the_dense_path_equals_explicit_edges(case: Case) -> None:
    architecture = trace(case.module(), case.example())
    values, encoder = networks(architecture, 2), model().encoder
    found = encoder(Batch(architecture, values, 8)).units
    expected = explicit_units(encoder, architecture, values[0])
    assert relative(found[0] - expected, found) < 1e-9
    assert relative(found[1] - expected, found) > 1e-6


@torch.no_grad()
def test_extreme_and_broken_weights_stay_finite() -> None:
    architecture = trace(CASES[0].module(), CASES[0].example())
    theta, built = networks(architecture), model()
    theta[0] *= 1e8
    theta[1, 3], theta[2, 4] = float("nan"), float("inf")
    assert built.encode(theta, architecture).model.isfinite().all()


def test_depths_keep_first_and_last_apart() -> None:
    like = torch.zeros(1)
    assert torch.equal(depth_weights(3, 3, like), torch.eye(3))
    assert torch.equal(depth_weights(2, 3, like)[[0, 2]], torch.eye(2))
    assert torch.allclose(depth_weights(5, 3, like).sum(1), torch.ones(3))
