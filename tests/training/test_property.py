"""Laws of predicting properties end to end: losses on one scale, units, files, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from graphrep.encoders import EncoderConfig, RawEncoderConfig
from graphrep.model import WeightModel
from graphrep.predictor import PropertyPredictor
from graphrep.representation import Representation
from graphrep.settings import Settings
from graphrep.training import Networks, TrainingConfig, build_objective, train
from graphrep.training.objectives import Context, HeadConfig, PropertyConfig, PropertyPrediction
from graphrep.training.objectives.property_head import (
    PropertyHead,
    Target,
    fit_category,
    fit_target,
)
from graphrep.training.targets import networks_of
from graphrep.zoo import Zoo

from .shared import GRAPH, check_resumed_equals_unbroken, model, pair

CONFIG = PropertyConfig(
    properties=("test_accuracy", "epoch"), log_properties=("learning_rate",), categories=("kind",)
)
FLAT = RawEncoderConfig(embedding_dim=64)
VALUES = np.array([0.1, 0.2, 0.8, 0.9, 0.95])


def built(zoo: Zoo, **changes: object) -> tuple[WeightModel, PropertyPrediction]:
    config = PropertyConfig(**{**vars(CONFIG), **changes})  # type: ignore[arg-type]
    weights, objective = pair(zoo, config)
    assert isinstance(objective, PropertyPrediction)
    return weights, objective


def outputs_saying(target: Target, value: float) -> torch.Tensor:
    """The outputs that mean one value in natural units."""
    match target.kind:
        case "share":
            return torch.tensor([[value]]).logit()
        case "category":
            return 1e3 * torch.eye(len(target.categories))[int(value)].unsqueeze(0)
        case _:
            return torch.tensor([[(value - target.centre) / target.deviation]])


@pytest.mark.parametrize("share_loss", ["squared", "entropy"])
@pytest.mark.parametrize("kind", ["share", "number", "logarithm", "category"])
def test_a_constant_costs_1_and_the_truth_nothing(kind: str, share_loss: str) -> None:
    match kind:
        case "category":
            values = np.array([0.0, 1.0, 1.0, 2.0, 1.0])
            target = fit_category("x", np.array(["a", "b", "b", "c", "b"]))
        case "share":
            values, target = VALUES, fit_target("x", VALUES)
        case "number":
            values, target = 7 * VALUES, fit_target("x", 7 * VALUES)
        case _:
            values, target = np.log10(VALUES), fit_target("x", VALUES, log=True)
    assert target.kind == kind
    truth = torch.from_numpy(values)
    constant = torch.tensor(target.start, dtype=torch.float64).expand(len(truth), -1)
    assert float(target.losses(constant, truth, share_loss).mean()) == pytest.approx(1, abs=1e-6)
    said = torch.cat([outputs_saying(target, float(v)) for v in truth]).double()
    assert target.losses(said, truth, share_loss).abs().max() < 1e-6
    assert target.losses(said.flip(0), truth, share_loss).max() > 0.1
    natural = target.natural(said)
    if kind == "category":
        assert torch.equal(natural.argmax(1), truth.long())
    else:
        shown = 10**truth if kind == "logarithm" else truth
        assert torch.allclose(natural[:, 0], shown.double(), rtol=1e-5)


def test_what_is_not_known_moves_nothing() -> None:
    """A missing target gives no gradient, and the losses of halves average to the whole's."""
    target = fit_target("x", np.array([1.0, 3.0, np.nan, np.nan]))
    head = PropertyHead(HeadConfig(hidden_dim=4), (target,), 3).double()
    embedding = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedding.requires_grad_()
    truth = torch.tensor([[1.0], [3.0], [float("nan")], [2.0]], dtype=torch.float64)
    head.losses(head(embedding), truth)["x"].backward()
    assert embedding.grad is not None
    moved = embedding.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, True, False, True]
    embedding = embedding.detach()
    head.requires_grad_(False)
    whole = head.losses(head(embedding), truth)["x"]
    halves = [head.losses(head(embedding[i]), truth[i])["x"] for i in ([0, 2], [1, 3])]
    assert float((whole - torch.stack(halves).mean()).abs()) < 1e-9


def test_an_untrained_head_starts_near_the_best_constant(zoo: Zoo) -> None:
    weights, objective = built(zoo)
    (first, *_) = networks_of(zoo, "train", CONFIG)
    torch.nn.init.zeros_(objective.head.out.weight)
    found = objective.predict(weights, first.take(torch.arange(3)))
    means = zoo.split("train").properties[["test_accuracy", "epoch"]].mean().to_list()
    assert found[0, :2].tolist() == pytest.approx(means, rel=1e-4)
    assert objective.head.columns[-2:] == ("kind=cnn", "kind=mlp")
    assert found[:, -2:].sum(1).tolist() == pytest.approx([1, 1, 1])


def test_training_learns_what_weights_tell(tmp_path: Path) -> None:
    """The mean of a layer's weights, of networks never seen; a constant would cost 1."""
    from graphrep.architecture import trace
    from tests.architectures import CASES

    architecture = trace(CASES[0].module(), CASES[0].example())
    generator = torch.Generator().manual_seed(0)

    def population(num: int) -> Networks:
        level = torch.rand(num, 1, generator=generator)
        noise = torch.randn(num, architecture.num_parameters, generator=generator)
        return Networks(architecture, noise * 0.3 + level, level)

    training, validation = population(200), population(60)
    assert training.targets is not None
    target = fit_target("level", training.targets[:, 0].numpy())
    weights = model()
    objective = build_objective(PropertyConfig(properties=("level",)), weights, Context((target,)))
    config = TrainingConfig(num_steps=60, validate_every=20, num_threads=1)
    result = train(weights, objective, [training], [validation], config, tmp_path)
    assert result.best_loss < 0.3


def test_the_best_head_comes_back_with_the_best_encoder(zoo: Zoo, tmp_path: Path) -> None:
    from graphrep.training import evaluate

    config = TrainingConfig(
        num_steps=30, batch_size=4, validate_every=2, num_threads=1, learning_rate=0.03
    )
    weights, objective = built(zoo)
    groups = [networks_of(zoo, split, CONFIG) for split in ("train", "validation")]
    result = train(weights, objective, *groups, config, tmp_path)
    assert result.best_step < 30  # later heads were worse, so the last one would not do
    again = evaluate(weights, objective, groups[1], config)["loss"]
    assert again == pytest.approx(result.best_loss, rel=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_equals_an_unbroken_one(zoo: Zoo, tmp_path: Path, dropout: float) -> None:
    config = PropertyConfig(
        head=HeadConfig(hidden_dim=8, dropout=dropout), noise=0.1, mask_ratio=0.1, permute=True
    )
    check_resumed_equals_unbroken(zoo, config, tmp_path)


def test_only_encoders_that_see_orders_are_shown_others(zoo: Zoo) -> None:

    def losses(encoder: EncoderConfig, permute: bool | None, seed: int) -> float:
        config = PropertyConfig(permute=permute)
        weights, objective = pair(zoo, config, encoder)
        rows = networks_of(zoo, "train", config)[0].take(torch.arange(3))
        generator = torch.Generator().manual_seed(seed)
        return float(objective.losses(weights, rows, generator)["loss"].detach())

    assert losses(FLAT, None, 0) != losses(FLAT, None, 1)
    assert losses(FLAT, False, 0) == losses(FLAT, False, 1)
    assert losses(GRAPH, None, 0) == losses(GRAPH, None, 1)
    assert losses(GRAPH, True, 0) == pytest.approx(losses(GRAPH, True, 1), rel=1e-4)


def test_networks_without_targets_are_refused(zoo: Zoo) -> None:
    weights, objective = built(zoo)
    bare = networks_of(zoo, "train", CONFIG)[0]
    rows = Networks(bare.architecture, bare.theta).take(torch.arange(2))
    with pytest.raises(ValueError, match="networks_of"):
        objective.losses(weights, rows, torch.Generator())
    with pytest.raises(ValueError, match="needs properties"):
        build_objective(CONFIG, weights)


def predictor(zoo: Zoo) -> tuple[PropertyPredictor, PropertyPrediction]:
    weights, objective = built(zoo)
    weights.scaling.fit((g.architecture, g.theta) for g in zoo.groups())
    torch.nn.init.normal_(objective.head.out.weight)
    representation = Representation(weights, list(zoo.architectures.values()))
    return PropertyPredictor(representation, objective.head), objective


def test_a_predictor_says_what_the_objective_does(zoo: Zoo) -> None:
    found, objective = predictor(zoo)
    graphs = list(zoo.split("train").graphs)
    table = found.predict(graphs)
    names = ["test_accuracy", "epoch", "learning_rate", "kind", "kind=cnn", "kind=mlp"]
    assert list(table.columns) == names and len(table) == len(graphs)
    numbers = table.drop(columns="kind").to_numpy()
    rows = {g.architecture.fingerprint: [] for g in graphs}
    for i, graph in enumerate(graphs):
        rows[graph.architecture.fingerprint].append(i)
    for networks in networks_of(zoo, "train", CONFIG):
        every = networks.take(torch.arange(len(networks)))
        expected = objective.predict(found.representation.model, every).numpy()
        mine = numbers[rows[networks.architecture.fingerprint]]
        assert np.allclose(mine, expected, rtol=1e-4)
    likeliest = np.where(table["kind=cnn"] > 0.5, "cnn", "mlp")
    assert (table["kind"] == likeliest).all() and table["test_accuracy"].nunique() > 5
    assert len(found.predict(graphs[0])) == 1


def test_a_saved_predictor_comes_back_bit_for_bit(zoo: Zoo, tmp_path: Path) -> None:
    found, _ = predictor(zoo)
    graphs = list(zoo.graphs)[:6]
    found.save_pretrained(tmp_path / "model")
    again = PropertyPredictor.from_pretrained(tmp_path / "model")
    assert again.predict(graphs).equals(found.predict(graphs))
    plain = Representation.from_pretrained(tmp_path / "model")
    assert np.array_equal(plain.encode(graphs), found.representation.encode(graphs))
    with torch.no_grad():
        again.head.out.weight[0, 0] += 0.1
    assert not again.predict(graphs).equals(found.predict(graphs))


def test_files_that_do_not_belong_together_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    found, _ = predictor(zoo)
    found.representation.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no predictor\.json.*objective=property"):
        PropertyPredictor.from_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="no such folder"):
        PropertyPredictor.from_pretrained(tmp_path / "nowhere")
    found.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "predictor.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "head": {"depth": 3}}))
    with pytest.raises(ValueError, match="no key depth"):
        PropertyPredictor.from_pretrained(tmp_path / "model")
    path.write_text(json.dumps(content))
    (tmp_path / "model" / "predictor.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"predictor\.safetensors is not the one"):
        PropertyPredictor.from_pretrained(tmp_path / "model")


def test_the_command_line_chooses_properties() -> None:
    chosen = Settings.load(
        ["objective=property", "objective.properties=[test_accuracy,epoch]", "encoder=graph"]
    ).objective
    assert isinstance(chosen, PropertyConfig)
    assert chosen.properties == ("test_accuracy", "epoch") and chosen.permute is None
    with pytest.raises(ValueError, match=r"objective\.head: .*share_loss must be one of"):
        Settings.load(["objective=property", "objective.head.share_loss=absolute"])


def test_the_command_trains_a_predictor(zoo: Zoo, tmp_path: Path) -> None:
    from graphrep.workflows import train_one

    settings = Settings.load(
        [
            *(f"zoo_path={zoo.url}", f"output={tmp_path}", "tracking.enabled=false"),
            *("objective=property", "objective.properties=[test_accuracy,generalisation_gap]"),
            *("training.num_steps=4", "training.validate_every=2"),
        ]
    )
    folder, _ = train_one(settings)
    table = PropertyPredictor.from_pretrained(folder).predict(list(zoo.graphs))
    assert list(table.columns) == ["test_accuracy", "generalisation_gap"]
    assert len(table) == len(zoo) and table.notna().all(axis=None)
