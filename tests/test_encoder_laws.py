"""Laws of encoders: what an embedding may depend on, and what it must notice; laws 4, 5, 6."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphrep
from graphrep.architecture import Architecture, trace
from graphrep.architecture.nesting import above, draw
from graphrep.architecture.reorder import reorder_theta, tensor_of
from graphrep.architecture.spec import Block, Span, TensorSpec
from graphrep.encoders import (
    Batch,
    EncoderConfig,
    RawEncoderConfig,
    StatisticsEncoderConfig,
)
from graphrep.encoders.base import depth_weights
from graphrep.encoders.token_head import source_means
from graphrep.tokens import token_grid
from graphrep.training import (
    Networks,
    SelfSupervisedConfig,
    TrainingConfig,
    build_objective,
    train,
)

from .architectures import CASES, Case
from .encoding import (
    ENCODERS,
    GRAPH,
    TOKEN,
    architecture_of,
    every_case,
    model,
    networks,
    relative,
)
from .nested import DESIGNS, Design, without_parents
from .references import explicit_units

every_break = pytest.mark.parametrize(
    ("design", "number"),
    [(d, n) for d in DESIGNS for n in range(len(d.broken))],
    ids=lambda value: value.name if isinstance(value, Design) else str(value),
)


@torch.no_grad()
def order_effect(encoder: EncoderConfig, architecture: Architecture) -> float:
    """How much model embeddings change when hidden units are reordered."""
    theta, built = networks(architecture), model(encoder)
    permutation = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    before = built.encode(theta, architecture).model
    after = built.encode(reorder_theta(architecture, theta, permutation), architecture).model
    return relative(after - before, before)


@every_case
def test_the_graph_embedding_ignores_the_order_of_hidden_units(case: Case | Design) -> None:
    assert order_effect(GRAPH, architecture_of(case)) < 1e-9


def test_layer_statistics_ignore_the_order_too() -> None:
    assert (
        order_effect(StatisticsEncoderConfig(), trace(CASES[5].module(), CASES[5].example())) < 1e-9
    )


@pytest.mark.parametrize("encoder", [TOKEN, RawEncoderConfig()], ids=["token", "raw"])
def test_flat_encoders_see_the_order(encoder: EncoderConfig) -> None:
    assert order_effect(encoder, trace(CASES[0].module(), CASES[0].example())) > 1e-3


@every_case
@torch.no_grad()
def test_unit_embeddings_move_along(case: Case | Design) -> None:
    architecture = architecture_of(case)
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
    if any(u.size > 1 for u in architecture.units if not u.fixed):
        assert moved > 1e-6  # units that are all alike would move along as well


@every_case
@torch.no_grad()
def test_token_latents_read_only_their_own_numbers_and_their_units(case: Case | Design) -> None:
    """A row whose own numbers do not move, at a unit that does, takes its latent along."""
    architecture = architecture_of(case)
    grid = token_grid(architecture, 8)
    block = next(
        b for b in architecture.blocks
        if b.target is not None and not architecture.unit[b.target].fixed
        and (b.source is None or architecture.unit[b.source].fixed)
        and all(c.source != b.target for c in architecture.blocks if c.target == b.target)
        and b.tensor in grid.layers
    )  # fmt: skip
    assert block.target is not None and block.target_axis is not None
    units = architecture.unit[block.target]
    theta, built = networks(architecture), model()
    orders = draw(architecture, names=above(architecture, {units.name}), shift=True)
    before = built.encode(theta, architecture).tokens
    after = built.encode(reorder_theta(architecture, theta, orders), architecture).tokens
    here = torch.nonzero(grid.position[:, 1] == grid.layers.index(block.tensor)).flatten()
    rows = here.view(int(grid.position[here, 2].max()) + 1, -1)
    index = rows[block.axes[block.target_axis].index()].flatten(1)  # a row a unit
    moved = after[:, index] - before[:, index[orders[units.name]]]
    assert relative(moved, before) < 1e-9
    if units.size > 1:
        assert (after[:, index] - before[:, index]).abs().max() > 1e-6


@torch.no_grad()
def test_token_latents_read_the_sources_of_their_own_group_only() -> None:
    """Input 0 reaches the channels of group 0 alone, and with them the rows that read these."""
    design = next(d for d in DESIGNS if d.name == "grouped-convolution")
    architecture = design.architecture()
    grid = token_grid(architecture, 8)
    state = torch.cat([torch.arange(float(u.size)) for u in architecture.units]).view(1, -1, 1)
    batch = Batch(architecture, networks(architecture, 1), 8)
    found = source_means(batch, state, torch.zeros(1, 1, 1))[0, :, 0]
    here = grid.position[:, 1] == grid.layers.index("conv2.weight")
    group = grid.position[here, 2] // 3
    assert torch.equal(found[here], group * 2 + 0.5)  # channels 2g and 2g + 1
    assert (found[grid.position[:, 1] == grid.layers.index("head.weight")] == 5.5).all()


@every_break
@torch.no_grad()
def test_the_graph_embedding_notices_what_leaves_its_parents(design: Design, number: int) -> None:
    """A dim leaves its head, heads leave their values: test_nested.py has the outputs."""
    architecture = design.architecture()
    theta, built = networks(architecture), model()
    orders = {name: torch.tensor(order) for name, order in design.broken[number].items()}
    changed = reorder_theta(without_parents(architecture), theta, orders)
    before = built.encode(theta, architecture).model
    assert relative(built.encode(changed, architecture).model - before, before) > 1e-4


@torch.no_grad()
def test_without_parents_an_embedding_misses_what_leaves_its_head() -> None:
    """The control of the controls: it is the parents that tell."""
    design = DESIGNS[0]
    flat = without_parents(design.architecture())
    theta, built = networks(flat), model()
    orders = {name: torch.tensor(order) for name, order in design.broken[0].items()}
    before = built.encode(theta, flat).model
    after = built.encode(reorder_theta(flat, theta, orders), flat).model
    assert relative(after - before, before) < 1e-9


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
def test_an_embedding_does_not_depend_on_the_batch(
    case: Case | Design, config: EncoderConfig
) -> None:
    architecture = architecture_of(case)
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


@every_case
@torch.no_grad()
def test_padding_is_neither_read_nor_written(case: Case | Design) -> None:
    """Padded places hold 0 when theta is cut, and whatever stands there is lost on joining."""
    architecture = architecture_of(case)
    theta = networks(architecture) + 1  # no number is 0 by itself
    grid = token_grid(architecture, 8)
    tokens = grid.cut(theta)
    assert (tokens[:, ~grid.mask] == 0).all() and (tokens[:, grid.mask] != 0).all()
    garbage = torch.where(grid.mask, tokens, 99.0)
    assert torch.equal(grid.join(garbage), theta)
    assert not torch.equal(grid.join(torch.where(grid.mask, 99.0, tokens)), theta)


@every_case
@torch.no_grad()
def test_the_dense_path_equals_explicit_edges(case: Case | Design) -> None:
    architecture = architecture_of(case)
    values, encoder = networks(architecture, 2), model().encoder
    found = encoder(Batch(architecture, values, 8)).units
    expected = explicit_units(encoder, architecture, values[0])
    assert relative(found[0] - expected, found) < 1e-9
    assert relative(found[1] - expected, found) > 1e-6


@every_case
@torch.no_grad()
def test_the_tokens_of_a_window_are_those_of_the_whole(case: Case | Design) -> None:
    architecture = architecture_of(case)
    values, encoder = networks(architecture, 2), model().encoder
    window = slice(1, 6)
    whole = encoder(Batch(architecture, values, 8)).tokens
    part = encoder(Batch(architecture, values, 8, window=window)).tokens
    assert relative(part - whole[:, window], whole) < 1e-9
    moved = encoder(Batch(architecture, values, 8, window=slice(0, 5))).tokens
    if len(whole[0]) > 5:
        assert relative(moved - whole[:, window], whole) > 1e-6


def test_encoder_and_decoder_learn_on_units_within_units(tmp_path: Path) -> None:
    """Views, masks, windows and losses work on these designs; what reads parents learns too."""
    found = []
    for number, design in enumerate(DESIGNS):
        architecture = design.architecture()
        generator = torch.Generator().manual_seed(number)
        theta = torch.randn(6, architecture.num_parameters, generator=generator)
        found.append(Networks(architecture, theta))
    built = model().float()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    settings = TrainingConfig(num_steps=12, batch_size=4, validate_every=12, num_threads=1)
    objective = build_objective(SelfSupervisedConfig(contrast_weight=0.1, window=16), built)
    train(built, objective, found, found, settings, tmp_path)
    after = built.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    for number in range(GRAPH.num_rounds):
        name = f"encoder.rounds.{number}.kin"
        assert not torch.equal(after[name], before[name])
    with torch.no_grad():
        for networks_ in found:
            architecture, theta = networks_.architecture, networks_.theta
            decoded = built.decode(built.encode(theta, architecture).tokens, architecture)
            assert decoded.shape == theta.shape and decoded.isfinite().all()


@pytest.mark.parametrize("config", ENCODERS, ids=lambda c: c.name)
def test_encoders_run_where_their_values_are(config: EncoderConfig) -> None:
    """`meta` stands for any other device: mixing it with the CPU is an error."""
    encoder = model(config).encoder.to("meta")
    for design in DESIGNS:
        architecture = design.architecture()
        values = torch.zeros(2, architecture.num_parameters, device="meta", dtype=torch.float64)
        found = encoder(Batch(architecture, values, 8, values > 0))
        assert found.model.is_meta and found.tokens.is_meta


@torch.no_grad()
def test_extreme_and_broken_weights_stay_finite() -> None:
    architecture = trace(CASES[0].module(), CASES[0].example())
    theta, built = networks(architecture), model()
    theta[0] *= 1e8
    theta[1, 3], theta[2, 4] = float("nan"), float("inf")
    assert built.encode(theta, architecture).model.isfinite().all()


@torch.no_grad()
def test_a_network_without_units_has_an_embedding() -> None:
    """All its tensors are opaque; their moments are what is known."""
    spec = TensorSpec(name="w", shape=(3, 4), dtype="float32", role="parameter", offset=0)
    axes = tuple(Span(units=None, size=1, slots=size) for size in spec.shape)
    block = Block(name="w", tensor="w", kind="opaque", role="opaque", axes=axes)
    architecture = Architecture(name="opaque", units=(), blocks=(block,), tensors=(spec,))
    found = model().encode(networks(architecture), architecture)
    assert relative(found.model[1:] - found.model[:-1], found.model) > 1e-6
    assert relative(found.tokens[1:] - found.tokens[:-1], found.tokens) > 1e-6


def test_depths_keep_first_and_last_apart() -> None:
    like = torch.zeros(1)
    assert torch.equal(depth_weights(3, 3, like), torch.eye(3))
    assert torch.equal(depth_weights(2, 3, like)[[0, 2]], torch.eye(2))
    assert torch.allclose(depth_weights(5, 3, like).sum(1), torch.ones(3))
