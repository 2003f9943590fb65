"""Laws of what networks answer, beside what an encoder reads: probe features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphrep import ParameterGraph, Representation, to_graph
from graphrep.answers import AnswerReader, Questions
from graphrep.embedding import embed_to_parquet
from graphrep.evaluation.floors import Floor
from graphrep.evaluation.readers import embed_zoo
from graphrep.model import ModelConfig, WeightModel
from graphrep.predictor import PropertyPredictor
from graphrep.symmetry import random_permutation, random_rescaling, rescale
from graphrep.training import SelfSupervisedConfig, TrainingConfig, build_objective, train
from graphrep.training.answers import know_modules, learn_answers, with_answers
from graphrep.training.objectives import PropertyConfig, PropertyPrediction
from graphrep.training.rescalings import learn_rescalings
from graphrep.training.targets import context_of, networks_of
from graphrep.zoo import Zoo
from graphrep.zoo.classifiers.train import single_thread
from tests.evaluation.planted import planted_zoo

from .shared import model

Q = 12
CONFIG = PropertyConfig(properties=("test_accuracy",))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The bits of matrix products follow from how torch's threads were set, also from 1 to 1."""
    with single_thread():
        yield


def asking(zoo: Zoo, **more: int) -> WeightModel:
    config = replace(model().config, num_queries=Q, **more)
    torch.manual_seed(0)
    built = WeightModel(config)
    learn_answers(built.answers, zoo)
    return built.eval()


def reader(weights: WeightModel) -> AnswerReader:
    assert weights.answers is not None
    return weights.answers


def permuted(graph: ParameterGraph, seed: int = 0) -> ParameterGraph:
    order = random_permutation(graph.architecture, torch.Generator().manual_seed(seed))
    return graph.permute(order)


def numbers_by_hand(own: Questions, outputs: Tensor) -> Tensor:
    """Of outputs [B, Q, O]: components first, then what classifiers say besides."""
    shares = outputs.softmax(2)
    parts = [(shares.flatten(1) - own.mean) @ own.axes]
    parts += [shares.sort(2, descending=True).values.mean(1), shares.mean(1).sort(1).values]
    doubt = -(shares * shares.clamp(min=1e-9).log()).sum(2)
    for each in (doubt, shares.max(2).values):
        parts += [each.mean(1, keepdim=True), each.std(1, correction=0, keepdim=True)]
    return (torch.cat(parts, 1) - own.centre) / own.deviation


def test_answers_are_those_of_the_network_in_its_own_module(zoo: Zoo) -> None:
    weights = asking(zoo)
    (own,) = reader(weights)
    assert len(own.queries) == Q and bool(own.classifies)
    D = weights.learned_dim
    embedding = torch.from_numpy(embed_zoo(weights, zoo))
    assert embedding.shape[1] == D + own.num_numbers == weights.embedding_dim
    for row in (0, 5, 11):
        module = zoo.graphs[row].load_into(zoo.network(row)).eval()
        with torch.no_grad():
            expected = numbers_by_hand(own, module(own.queries).unsqueeze(0))[0]
        assert torch.allclose(embedding[row, D:], expected, atol=2e-3)
        assert not torch.allclose(embedding[row + 1, D:], expected, atol=0.1)


def test_numbers_are_centred_and_scaled_by_the_training_split(zoo: Zoo) -> None:
    weights = asking(zoo)
    found = embed_zoo(weights, zoo.split("train"))[:, weights.learned_dim :]
    assert np.abs(found.mean(0)).max() < 1e-2
    assert found.std(0) == pytest.approx(1, abs=0.05)
    other = embed_zoo(weights, zoo.split("test"))[:, weights.learned_dim :]
    assert np.abs(other.mean(0)).max() > 0.1


def test_networks_that_compute_the_same_answer_the_same(zoo: Zoo) -> None:
    """Exact in float64; a network that computes something else is told apart."""
    weights = asking(zoo).double()
    for row in (0, 13):
        graph = zoo.graphs[row]
        double = ParameterGraph(graph.architecture, graph.theta.double())
        twin = permuted(double)
        assert not torch.equal(twin.theta, double.theta)
        other = double.theta * 1.01
        rows = torch.stack([double.theta, twin.theta, other])
        found = weights.encode(rows, graph.architecture, tokens=False).model
        assert torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
        D = weights.learned_dim
        assert (found[0, D:] - found[2, D:]).abs().max() > 1e-3


def test_rescaled_networks_answer_the_same(zoo: Zoo) -> None:
    """Though their weights, and what is read off these, are others."""
    weights = asking(zoo).double()
    known = learn_rescalings(WeightModel(ModelConfig(canonical=True)), zoo).rescalings
    num_checked = 0
    for row in (0, 13):
        graph = zoo.graphs[row]
        double = ParameterGraph(graph.architecture, graph.theta.double())
        scales = random_rescaling(
            known[graph.architecture.fingerprint], torch.Generator().manual_seed(1)
        )
        if not scales:
            continue
        twin = rescale(double, scales)
        rows = torch.stack([double.theta, twin.theta])
        found = weights.encode(rows, graph.architecture, tokens=False).model
        D = weights.learned_dim
        assert torch.allclose(found[0, D:], found[1, D:], rtol=1e-9, atol=1e-9)
        assert (found[0, :D] - found[1, :D]).abs().max() > 1e-3
        num_checked += 1
    assert num_checked


def test_networks_that_answer_no_finite_numbers_have_zeros(zoo: Zoo) -> None:
    weights = asking(zoo)
    group = next(iter(zoo.groups()))
    theta = group.theta[torch.arange(3)]
    theta[1] = float("nan")
    found = reader(weights).read(theta, group.architecture)
    assert (found == 0).all(1).tolist() == [False, True, False]
    assert found.isfinite().all()


def test_asking_changes_nothing_that_is_read_off_weights(zoo: Zoo) -> None:
    """The same draws of the encoder, the same numbers; answers stand behind them."""
    plain, more = model().eval(), asking(zoo)
    found = embed_zoo(more, zoo)
    assert np.array_equal(found[:, : plain.embedding_dim], embed_zoo(plain, zoo))
    assert more.learned_dim == plain.embedding_dim < more.embedding_dim
    assert not more.streams and plain.streams
    objective = build_objective(SelfSupervisedConfig(), more)
    networks = networks_of(zoo, "train", SelfSupervisedConfig())[0]
    losses = objective.losses(more, networks.take(torch.arange(4)), torch.Generator())
    assert losses["loss"].isfinite()


def test_layer_moments_stand_beside_any_encoder(zoo: Zoo) -> None:
    torch.manual_seed(0)
    weights = WeightModel(replace(model().config, moment_slots=2)).eval()
    weights.fit_scaling((g.architecture, g.theta) for g in zoo.groups())
    D = weights.encoder.embedding_dim
    assert weights.embedding_dim == D + 28
    floor = replace(Floor.fit("statistics_asinh", [zoo], 2), scaling=weights.scaling)
    assert embed_zoo(weights, zoo)[:, D:] == pytest.approx(floor.read(zoo), abs=1e-5)


def test_answers_taken_once_are_those_of_every_step(zoo: Zoo) -> None:
    weights = asking(zoo)
    told: list[str] = []
    groups = with_answers(weights.answers, networks_of(zoo, "train", CONFIG), told.append)
    assert told and told[0].startswith("answers of tiny: 0 of")
    objective = build_objective(CONFIG, weights, context_of(zoo, CONFIG)).eval()
    for networks in groups:
        rows = networks.take(torch.tensor([2, 0]))
        assert rows.answers is not None and rows.answers.shape[0] == 2
        asked_anew = replace(rows, answers=None)
        both = [objective.losses(weights, r, torch.Generator()) for r in (rows, asked_anew)]
        assert torch.allclose(both[0]["loss"], both[1]["loss"], atol=1e-5)
        wrong = replace(rows, answers=rows.answers.flip(0))
        assert objective.losses(weights, wrong, torch.Generator())["loss"] != both[0]["loss"]
    bare = model()
    plain = networks_of(zoo, "train", CONFIG)
    assert with_answers(bare.answers, plain) == plain


def predictor(zoo: Zoo, folder: Path, stop: int | None = None) -> PropertyPredictor | None:
    def interrupt(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    weights = asking(zoo)
    objective = build_objective(CONFIG, weights, context_of(zoo, CONFIG))
    groups = [
        with_answers(weights.answers, networks_of(zoo, s, CONFIG)) for s in ("train", "validation")
    ]
    settings = TrainingConfig(num_steps=12, batch_size=4, validate_every=4, num_threads=1)
    try:
        train(weights, objective, *groups, settings, folder, on_step=interrupt)
    except KeyboardInterrupt:
        return None
    assert isinstance(objective, PropertyPrediction)
    listed = list(zoo.architectures.values())
    return PropertyPredictor(Representation(weights, listed), objective.head)


def test_a_resumed_training_equals_an_unbroken_one(zoo: Zoo, tmp_path: Path) -> None:
    assert predictor(zoo, tmp_path / "broken", stop=6) is None
    resumed, unbroken = predictor(zoo, tmp_path / "broken"), predictor(zoo, tmp_path / "unbroken")
    assert resumed is not None and unbroken is not None
    know_modules(resumed.representation.model.answers, zoo)
    states = [p.representation.model.state_dict() for p in (resumed, unbroken)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    graphs = zoo.split("test").graphs
    first, second = (p.predict(graphs).to_numpy() for p in (resumed, unbroken))
    assert np.array_equal(first, second)


def test_a_saved_model_brings_its_queries_and_asks_for_modules(zoo: Zoo, tmp_path: Path) -> None:
    made = predictor(zoo, tmp_path / "training")
    assert made is not None
    made.save_pretrained(tmp_path / "model")
    graphs = zoo.split("test").graphs
    before = made.predict(graphs)

    loaded = PropertyPredictor.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"knows no module of .* Encode the module itself"):
        loaded.predict(list(graphs))
    assert loaded.predict(graphs).equals(before)

    alone = Representation.from_pretrained(tmp_path / "model")
    row = int(np.flatnonzero(zoo.properties["split"] == "test")[0])
    module = zoo.graphs[row].load_into(zoo.network(row)).train()
    found = alone.encode(module)
    assert np.allclose(found, made.representation.encode(graphs[:1])[0], atol=1e-5)
    assert module.training  # what is kept is a copy
    table = embed_to_parquet(alone, [zoo.path], tmp_path / "all.parquet", progress=False)
    columns = [c for c in table if c.startswith("e") and c[1:].isdigit()]
    assert np.allclose(table[columns].to_numpy()[row], found, atol=1e-5)


def test_what_does_not_suit_the_queries_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    asked = reader(asking(zoo))
    images = torch.zeros(2, 1, 8, 8)
    for net, inputs, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images, r"puts out 3 numbers, .* 10"),
        (nn.Linear(5, 10), torch.zeros(2, 5), r"inputs are \[5\].*queries of \[\[1, 8, 8\]\]"),
    ):
        with pytest.raises(ValueError, match=message):
            asked.know(to_graph(net, inputs).architecture, net, inputs)
    good = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    architecture = to_graph(good, images).architecture
    assert not asked.knows(architecture)
    asked.know(architecture, good, images)
    assert asked.read(torch.randn(2, 650), architecture).shape == (2, asked.num_numbers)
    weights = WeightModel(replace(model().config, num_queries=Q))
    with pytest.raises(ValueError, match="module"):
        learn_answers(weights.answers, planted_zoo(tmp_path / "bare", num=10))
    with pytest.raises(ValueError, match="num_queries must be 0 or more"):
        replace(model().config, num_queries=-1)


def test_queries_of_two_kinds_stand_side_by_side() -> None:
    """Networks with other inputs have numbers of their own, 0 in the others' place."""
    generator = torch.Generator().manual_seed(0)
    asked = AnswerReader(6)
    nets = [nn.Linear(3, 2), nn.Sequential(nn.Flatten(), nn.Linear(8, 1))]
    inputs = [torch.randn(6, 3, generator=generator), torch.randn(6, 2, 4, generator=generator)]
    for net, own in zip(nets, inputs, strict=True):
        outputs = torch.randn(40, net(own).numel(), generator=generator)
        asked.add(Questions.fit(own, False, outputs))
    first, second = (questions.num_numbers for questions in asked)
    for number, (net, own) in enumerate(zip(nets, inputs, strict=True)):
        architecture = to_graph(net, own).architecture
        asked.know(architecture, net, own)
        theta = torch.randn(3, architecture.num_parameters, generator=generator)
        found = asked.read(theta, architecture).split([first, second], 1)
        assert (found[number] != 0).all() and (found[1 - number] == 0).all()
    copied = AnswerReader(6)
    copied.load_state_dict(asked.state_dict())
    assert copied.num_numbers == first + second
    with pytest.raises(ValueError, match="no inputs were given"):
        copied.know(to_graph(nets[0], inputs[0]).architecture, nets[0])
    with pytest.raises(ValueError, match="0 networks answer finite numbers"):
        Questions.fit(inputs[0], False, torch.full((4, 12), float("nan")))
