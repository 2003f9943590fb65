"""Laws of predicting answers: what is measured is what the network says, and it can be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graphrep.encoders import StatisticsEncoderConfig, TokenEncoderConfig
from graphrep.evaluation.divisions import DividedZoo, Division
from graphrep.model import ModelConfig, WeightModel
from graphrep.representation import Representation
from graphrep.settings import Settings
from graphrep.symmetry import random_permutation
from graphrep.training import TrainingConfig, build_objective, train
from graphrep.training.networks import Networks
from graphrep.training.objectives import ResponsesConfig
from graphrep.training.responses import Responses
from graphrep.training.targets import context_of, networks_of
from graphrep.zoo import Zoo

from .shared import GRAPH, check_resumed_equals_unbroken, model, pair

CONFIG = ResponsesConfig(num_queries=12)


def with_readout(num: int = 8) -> WeightModel:
    torch.manual_seed(0)
    return WeightModel(replace(model().config, readout_dim=num))


def test_answers_are_the_shares_that_a_network_gives_its_classes(zoo: Zoo) -> None:
    asked = Responses.fit(zoo, 12)
    part = zoo.split("train")
    for group in part.groups():
        found = asked.read(group.theta, group.architecture) * asked.scale + asked.centre
        queries = asked.behaviours[group.architecture.fingerprint].queries
        for i in (0, 3):
            row = int(group.rows[i])
            module = part.graphs[row].load_into(part.network(row)).eval()
            expected = module(queries).softmax(1).detach().flatten()
            assert torch.allclose(found[i], expected, atol=1e-5)
            assert not torch.allclose(found[i + 1], expected, atol=1e-3)


def test_answers_are_centred_and_scaled_by_the_training_split(zoo: Zoo) -> None:
    answers = torch.cat([n.targets for n in networks_of(zoo, "train", CONFIG)])
    assert float(answers.square().mean()) == pytest.approx(1, rel=1e-4)
    assert float(answers.mean(0).abs().max()) < 1e-4
    other = torch.cat([n.targets for n in networks_of(zoo, "test", CONFIG)])
    assert float(other.mean(0).abs().max()) > 1e-2


def test_a_network_without_finite_answers_counts_in_nothing(zoo: Zoo) -> None:
    asked = Responses.fit(zoo, 12)
    group = next(iter(zoo.split("train").groups()))
    theta = group.theta[torch.arange(3)]
    theta[1] = float("nan")
    found = asked.read(theta, group.architecture)
    assert found.isnan().all(1).tolist() == [False, True, False]
    weights, objective = pair(zoo, CONFIG)
    rows = networks_of(zoo, "train", CONFIG)[0].take(torch.arange(3))
    kept = replace(rows, targets=found)
    losses = objective.losses(weights, kept, torch.Generator())
    head = torch.where(found.isfinite(), found, 0).square().sum() / (2 * found.shape[1])
    assert float(losses["loss"].detach()) == pytest.approx(2 / 3 * float(head), rel=1e-5)


def test_the_zoos_of_a_joint_training_have_columns_of_their_own(zoo: Zoo) -> None:
    both = networks_of([zoo, zoo], "train", CONFIG)
    (alone, *_) = networks_of(zoo, "train", CONFIG)
    assert alone.targets is not None
    K = alone.targets.shape[1]
    assert context_of([zoo, zoo], CONFIG).num_responses == 2 * K
    first, second = both[0].targets, both[len(both) // 2].targets
    assert first is not None and second is not None
    assert torch.equal(first[:, :K], alone.targets) and first[:, K:].isnan().all()
    assert torch.equal(second[:, K:], alone.targets) and second[:, :K].isnan().all()


def test_architectures_that_training_lacks_are_asked_as_well(zoo: Zoo) -> None:
    kinds = zoo.properties["kind"]
    split = np.where(kinds == "cnn", "train", np.where(kinds == "mlp", "validation", ""))
    divided = DividedZoo(zoo, Division("by kind", split))
    (trained,) = {n.architecture.fingerprint for n in networks_of(divided, "train", CONFIG)}
    held = networks_of(divided, "validation", CONFIG)
    assert held and all(n.architecture.fingerprint != trained for n in held)
    for networks in held:
        assert networks.targets is not None and networks.targets.isfinite().all()
        assert float(networks.targets.std(0).mean()) > 0.01


@pytest.mark.parametrize("truthful", [True, False])
def test_answers_of_unseen_networks_are_foreseen(zoo: Zoo, tmp_path: Path, truthful: bool) -> None:
    """And with answers dealt out at random they are not."""
    weights = with_readout(16)
    objective = build_objective(CONFIG, weights, context_of(zoo, CONFIG))
    groups = networks_of(zoo, "train", CONFIG)
    generator = torch.Generator().manual_seed(0)

    def dealt(networks: Networks) -> Networks:
        order = torch.randperm(len(networks), generator=generator)
        assert networks.targets is not None
        return networks if truthful else replace(networks, targets=networks.targets[order])

    held = networks_of(zoo, "validation", CONFIG)
    config = TrainingConfig(num_steps=150, batch_size=8, validate_every=150, num_threads=1)
    found: dict[str, float] = {}
    train(
        weights,
        objective,
        list(map(dealt, groups)),
        held,
        config,
        tmp_path,
        on_metrics=lambda metrics, step: found.update(metrics),
    )
    assert (found["validation/loss"] < 0.9) == truthful, found


@torch.no_grad()
def test_the_readout_keeps_the_laws_of_the_embedding(zoo: Zoo, tmp_path: Path) -> None:
    """Last in the embedding, blind to the order of units, the same after saving."""
    weights = with_readout().eval()
    groups = networks_of(zoo, "train", CONFIG)
    weights.scaling.fit((n.architecture, n.theta) for n in groups)
    D = weights.encoder.embedding_dim
    assert weights.embedding_dim == D + 8
    generator = torch.Generator().manual_seed(0)
    graphs = [zoo.graphs[0], zoo.graphs[1]]
    representation = Representation(weights, [g.architecture for g in graphs])
    plain = torch.as_tensor(representation.encode(graphs))
    permuted = [g.permute(random_permutation(g.architecture, generator)) for g in graphs]
    assert any(not torch.equal(p.theta, g.theta) for p, g in zip(permuted, graphs, strict=True))
    spread = (plain[0] - plain[1]).abs().max()
    assert (torch.as_tensor(representation.encode(permuted)) - plain).abs().max() < 1e-5 * spread
    assert (plain[0, D:] - plain[1, D:]).abs().max() > 1e-4
    representation.save_pretrained(tmp_path / "model")
    again = Representation.from_pretrained(tmp_path / "model")
    assert torch.equal(torch.as_tensor(again.encode(graphs)), plain)


@pytest.mark.parametrize("encoder", [GRAPH, TokenEncoderConfig(), StatisticsEncoderConfig()])
def test_any_encoder_learns_answers_with_and_without_a_readout(zoo: Zoo, encoder) -> None:
    for num in (0, 8):
        torch.manual_seed(0)
        weights = WeightModel(ModelConfig(encoder=encoder, readout_dim=num))
        objective = build_objective(CONFIG, weights, context_of(zoo, CONFIG))
        rows = networks_of(zoo, "train", CONFIG)[0].take(torch.arange(3))
        weights.scaling.fit([(rows.architecture, rows.theta)])
        objective.head.weight.data.normal_()  # at 0 no gradient would pass it
        objective.losses(weights, rows, torch.Generator().manual_seed(0))["loss"].backward()
        part = weights.readout if num else weights.encoder
        assert part is not None
        gradients: list[Tensor | None] = [p.grad for p in part.parameters()]
        moved = [g is not None and bool(g.abs().max() > 0) for g in gradients]
        assert any(moved) or isinstance(encoder, StatisticsEncoderConfig)


def test_a_resumed_run_equals_an_unbroken_one(zoo: Zoo, tmp_path: Path) -> None:
    check_resumed_equals_unbroken(zoo, replace(CONFIG, noise=0.1), tmp_path)


def test_what_is_missing_or_out_of_range_is_named(zoo: Zoo) -> None:
    settings = Settings.load(["objective=responses"])
    assert settings.objective == ResponsesConfig() and settings.model.readout_dim == 128
    assert Settings.load(["objective=responses", "model.readout_dim=4"]).model.readout_dim == 4
    assert Settings.load([]).model.readout_dim == 0
    with pytest.raises(ValueError, match="num_queries must be at least 1"):
        ResponsesConfig(num_queries=0)
    with pytest.raises(ValueError, match="readout_dim must be 0 or more"):
        Settings.load(["model.readout_dim=-1"])
    with pytest.raises(ValueError, match=r"answers of a population.*context_of"):
        build_objective(CONFIG, model())
    _, objective = pair(zoo, CONFIG)
    rows = networks_of(zoo, "train", CONFIG)[0].take(torch.arange(2))
    with pytest.raises(ValueError, match=r"answers.*networks_of"):
        objective.losses(model(), replace(rows, targets=None), torch.Generator())
