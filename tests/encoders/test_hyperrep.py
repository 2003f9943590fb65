"""Laws of the hyper-representations of 2021, and of the losses that they are trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import graphrep
from graphrep.architecture.reorder import reorder_theta
from graphrep.encoders import Batch, HyperRepresentationConfig, TokenEncoderConfig
from graphrep.model import WeightModel
from graphrep.settings import Settings
from graphrep.training import Networks, TrainingConfig, build_objective, train
from graphrep.training.objectives import SelfSupervised, SelfSupervisedConfig
from graphrep.training.objectives.losses import positives

from ..architectures import CASES, Case
from ..encoding import architecture_of, every_case, model, networks, relative
from ..nested import Design

SMALL = HyperRepresentationConfig(embedding_dim=4, model_dim=12, num_heads=2, num_layers=1)
CONFIGS = [
    replace(SMALL, max_tokens=1536, max_layers=32),
    replace(SMALL, max_tokens=1536, max_layers=32, compression="flatten"),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.compression)


@every_case
@every_config
@torch.no_grad()
def test_a_latent_does_not_depend_on_the_batch(
    case: Case | Design, config: HyperRepresentationConfig
) -> None:
    architecture = architecture_of(case)
    theta, built = networks(architecture), model(config)
    together = built.encode(theta, architecture)
    found = built.encode(torch.cat([theta[:1] * 5, theta[1:2]]), architecture)
    assert relative(found.model[1:] - together.model[1:2], together.model) < 1e-9
    assert relative(found.tokens[1:] - together.tokens[1:2], together.tokens) < 1e-9
    assert relative(found.model[:1] - together.model[:1], together.model) > 1e-6
    assert together.model.abs().max() < 1


@every_config
@torch.no_grad()
def test_a_latent_does_not_depend_on_padding(config: HyperRepresentationConfig) -> None:
    """Neither on what would follow the last token, nor on a token's padded entries."""
    architecture = architecture_of(CASES[5])
    values, encoder = networks(architecture), model(config).encoder
    assert not Batch(architecture, values, 8).grid.mask.all()
    before = encoder(Batch(architecture, values, 8)).model
    inward = encoder._inward(Batch(architecture, values, 8))
    weights = encoder.compress.weight
    for position in range(inward.shape[1] * config.model_dim, weights.shape[1]):
        weights[:, position] = 99.0  # places beyond this network's last token
    assert torch.equal(encoder(Batch(architecture, values, 8)).model, before)
    weights[:, 0] += 1.0
    after = encoder(Batch(architecture, values, 8)).model
    assert relative(after - before, before) > 1e-6


@every_config
@torch.no_grad()
def test_the_latent_reads_all_tokens_whatever_the_window(
    config: HyperRepresentationConfig,
) -> None:
    architecture = architecture_of(CASES[5])
    values, encoder = networks(architecture), model(config).encoder
    whole = encoder(Batch(architecture, values, 8))
    part = encoder(Batch(architecture, values, 8, window=slice(2, 6)))
    assert torch.equal(part.model, whole.model)
    assert relative(part.tokens - whole.tokens[:, 2:6], whole.tokens) < 1e-9
    assert relative(whole.tokens[:, :4] - whole.tokens[:, 2:6], whole.tokens) > 1e-6
    none = encoder(Batch(architecture, values, 8, tokens=False))
    assert none.tokens.shape == (4, 0, 8) and torch.equal(none.model, whole.model)


@pytest.mark.parametrize(
    ("config", "rank"),
    [*((c, 4) for c in CONFIGS), (TokenEncoderConfig(model_dim=12, num_heads=2), 11)],
    ids=["token", "flatten", "a latent a token"],
)
@torch.no_grad()
def test_all_that_the_decoder_hears_goes_through_one_latent(
    config: HyperRepresentationConfig, rank: int
) -> None:
    """12 networks span 11 dimensions, their token latents no more than the latent has."""
    architecture = architecture_of(CASES[0])
    tokens = model(config).encode(networks(architecture, 12), architecture).tokens.flatten(1)
    assert torch.linalg.matrix_rank(tokens - tokens.mean(0), rtol=1e-9) == rank


@every_config
@torch.no_grad()
def test_a_latent_sees_the_order_of_units(config: HyperRepresentationConfig) -> None:
    """What permuted views have to teach it; the graph encoder is born with it."""
    architecture = architecture_of(CASES[0])
    theta, built = networks(architecture), model(config)
    order = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    before = built.encode(theta, architecture).model
    after = built.encode(reorder_theta(architecture, theta, order), architecture).model
    assert relative(after - before, before) > 1e-3
    assert not built.encoder.invariant


def test_hidden_numbers_are_told_from_zeros() -> None:
    architecture = architecture_of(CASES[0])
    encoder = model(SMALL).encoder
    torch.nn.init.normal_(encoder.hidden)
    visible = torch.ones(4, architecture.num_parameters, dtype=torch.bool)
    values = networks(architecture)
    assert torch.equal(
        encoder(Batch(architecture, values, 8, visible)).model,
        encoder(Batch(architecture, values, 8)).model,
    )
    visible[:, :5] = False
    zero = encoder(Batch(architecture, values * visible, 8)).model
    hidden = encoder(Batch(architecture, values * visible, 8, visible)).model
    assert relative((hidden - zero).detach(), zero.detach()) > 1e-6


def test_a_network_beyond_the_learned_places_is_refused() -> None:
    architecture = architecture_of(CASES[0])
    with pytest.raises(ValueError, match="max_tokens=4"):
        model(replace(SMALL, max_tokens=4)).encode(networks(architecture), architecture)


def test_wrong_settings_are_named() -> None:
    for field, value in (("compression", "mean"), ("num_layers", 0), ("model_dim", 13)):
        with pytest.raises(ValueError, match=field):
            HyperRepresentationConfig(**{field: value})


def test_positives_are_pulled_together() -> None:
    """The control: the public code's square of cosine / tau pushes them towards a right angle."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 16, 8, generator=generator, dtype=torch.float64)
    start[1] += start[0]  # views of one network are alike

    def cosine_after_a_step(peers: bool) -> float:
        one, other = start.clone().requires_grad_()
        found = torch.cosine_similarity(one, other)
        loss = (found / 0.1).square().mean() if peers else positives(one, other)
        step = torch.autograd.grad(loss, [one, other])
        moved = [x - 0.01 * g / g.norm() for x, g in zip((one, other), step, strict=True)]
        return float((torch.cosine_similarity(*moved) - found).mean().detach())

    assert cosine_after_a_step(peers=False) > 1e-6
    assert cosine_after_a_step(peers=True) < -1e-6


def objective_of(name: str, built: WeightModel) -> SelfSupervised:
    found = build_objective(Settings.load([f"objective={name}"]).objective, built)
    assert isinstance(found, SelfSupervised)
    return found.double()


@pytest.mark.parametrize("name", ["e_d", "e_c", "e_cd", "e_c_plus_d", "sane"])
def test_every_objective_of_the_line_reaches_encoder_and_decoder(name: str) -> None:
    architecture = architecture_of(CASES[0])
    built = model(SMALL)
    objective = objective_of(name, built)
    rows = Networks(architecture, networks(architecture)).take(torch.arange(4))
    losses = objective.losses(built, rows, torch.Generator().manual_seed(0))
    terms = {"sane": {"contrast"}, "e_c": {"contrast"}, "e_cd": {"contrast"}}
    terms["e_c_plus_d"] = {"positives"}
    expected = terms.get(name, set()) | (set() if name == "e_c" else {"seen", "hidden"})
    assert set(losses) == expected | {"loss"}
    losses["loss"].backward()
    assert built.encoder.inward.weight.grad.abs().max() > 0
    decoded = built.decoder.outward.weight.grad
    assert (decoded is None) == (name == "e_c")


def test_the_first_view_of_sane_is_as_the_zoo_has_it() -> None:
    architecture, views = architecture_of(CASES[0]), []
    built = model(SMALL)
    rows = Networks(architecture, networks(architecture)).take(torch.arange(4))
    clean = built.scaling(rows.theta, architecture)
    for name in ("sane", "e_cd"):
        objective = objective_of(name, built)
        drawn = torch.Generator().manual_seed(0)
        first = objective._view(built, rows, drawn, permute=objective.config.permute_first)
        second = objective._view(built, rows, drawn)
        views.append([torch.equal(view.target, clean) for view in (first, second)])
    assert views == [[True, False], [False, False]]


def test_both_views_are_reconstructed_where_asked() -> None:
    architecture, built = architecture_of(CASES[0]), model(SMALL)
    rows = Networks(architecture, networks(architecture)).take(torch.arange(4))
    config = objective_of("e_cd", built).config

    def seen(**changes: bool) -> float:
        objective = build_objective(replace(config, **changes), built).double()
        losses = objective.losses(built, rows, torch.Generator().manual_seed(0))
        return float(losses["seen"].detach())

    assert seen() != seen(reconstruct_both=False)
    assert seen(reconstruct_both=False) == pytest.approx(seen(reconstruct_both=False), abs=0)


@every_config
def test_a_latent_learns_to_reconstruct_networks_of_two_architectures(
    config: HyperRepresentationConfig, tmp_path: Path
) -> None:
    """Networks on a line, which one number tells."""
    generator, found = torch.Generator().manual_seed(0), []
    for case in (CASES[0], CASES[5]):
        architecture = architecture_of(case)
        line = torch.randn(1, architecture.num_parameters, generator=generator)
        theta = torch.randn(32, 1, generator=generator) * line / 5
        found.append(Networks(architecture, theta))
    built = model(replace(config, embedding_dim=16)).float()
    settings = TrainingConfig(
        num_steps=120, batch_size=16, validate_every=120, learning_rate=5e-3, num_threads=1
    )
    views = replace(SelfSupervisedConfig().views, permute=False, noise=0.0, mask_ratio=0.0)
    objective = build_objective(SelfSupervisedConfig(window=512, views=views), built)
    result = train(built, objective, found, found, settings, tmp_path)
    nothing = sum(built.scaling(n.theta, n.architecture).square().mean() for n in found) / 2
    assert result.best_loss < 0.5 * nothing
