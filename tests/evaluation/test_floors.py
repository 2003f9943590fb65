"""Laws of floors: what statistics and boosting find, and that many labels beat few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graphrep.evaluation.divisions import divide
from graphrep.evaluation.floors import ANSWERING, FLOORS, Floor, boost
from graphrep.evaluation.judging import Readings, judge_embedding, wanted_properties
from graphrep.evaluation.label_efficiency import LabelConfig, draw_labelled, label_curve
from graphrep.evaluation.properties import Property
from graphrep.evaluation.scores import Score
from graphrep.zoo import Zoo
from tests.evaluation.planted import planted_zoo

ACCURACY, RATE = Property(name="test_accuracy"), Property(name="learning_rate", log=True)
OPTIMISER = Property(name="optimiser", category=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return divide(planted_zoo(tmp_path_factory.mktemp("floors") / "planted", num=120), "zoo")


def readings(zoo: Zoo, kind: str) -> Readings:
    return Readings(zoo, Floor.fit(kind, [zoo], num_slots=3).read(zoo))


@pytest.mark.parametrize("kind", FLOORS)
def test_features_are_in_the_order_of_the_zoo(planted: Zoo, zoo: Zoo, kind: str) -> None:
    population = divide(zoo, "zoo") if kind in ANSWERING else planted  # it has modules to run
    floor = Floor.fit(kind, [population], num_slots=3)
    features = floor.read(population)
    assert features.shape[0] == len(population) and np.isfinite(features).all()
    for row in (0, 7, len(population) - 1):
        alone = floor.read(population.select([row]))
        assert np.allclose(alone[0], features[row], atol=1e-5)
        assert not np.allclose(alone[0], features[row - 3], atol=1e-2)


def test_statistics_find_what_is_planted_and_weights_pad_with_zeros(planted: Zoo) -> None:
    judged = judge_embedding(
        readings(planted, "statistics_asinh"), None, [ACCURACY, OPTIMISER], None
    )
    tau, kind = judged.scores[0]["kendall_tau"], judged.scores[1]["accuracy"]
    assert tau > 0.8 and kind > 0.9
    raw = readings(planted, "raw")
    longest = max(a.num_parameters for a in planted.architectures.values())
    assert raw.values.shape[1] == longest
    row = int(np.argmin([g.theta.numel() for g in planted.graphs]))
    theta = planted.graphs[row].theta.numpy()
    assert np.array_equal(raw.values[row][: len(theta)], theta)
    assert not raw.values[row][len(theta) :].any()


def test_networks_that_diverged_have_finite_statistics(tmp_path: Path) -> None:
    zoo = planted_zoo(tmp_path / "planted", num=20)
    floor = Floor.fit("statistics_plain", [zoo], num_slots=2)
    broken = torch.full((1, next(iter(zoo.architectures.values())).num_parameters), torch.nan)
    broken[0, 0] = torch.inf
    assert torch.isfinite(floor._features(broken, next(iter(zoo.architectures.values())))).all()


def test_boosting_finds_what_is_planted_and_not_what_is_not(planted: Zoo) -> None:
    parts = readings(planted, "statistics_plain")
    found = boost(parts.parts, parts.tables, ACCURACY)
    assert found.kendall_tau is not None and found.kendall_tau > 0.7
    kind = boost(parts.parts, parts.tables, OPTIMISER)
    assert kind.accuracy is not None and kind.majority is not None
    assert kind.accuracy > 0.9 > kind.majority
    noise = boost(parts.parts, parts.tables, Property(name="generalisation_gap"))
    assert noise.r2 is not None and noise.r2 < 0.2


def test_a_class_that_training_lacks_does_not_stop_boosting(planted: Zoo) -> None:
    parts = readings(planted, "statistics_plain")
    tables = dict(parts.tables)
    tables["validation"] = tables["validation"].copy()
    tables["validation"].loc[tables["validation"].index[0], "optimiser"] = "lion"
    found = boost(parts.parts, tables, OPTIMISER)
    assert found.accuracy is not None and found.accuracy > 0.9


def test_logarithms_of_zero_are_not_known(planted: Zoo) -> None:
    values, known = Property(name="weight_decay", log=True).read(planted.properties)
    zero = planted.properties["weight_decay"] == 0
    assert zero.any() and (known == ~zero).all() and np.isfinite(values[known]).all()
    assert Property(name="weight_decay").read(planted.properties)[1].all()


def test_properties_are_those_that_vary_and_are_not_held_out(planted: Zoo) -> None:
    wanted = [ACCURACY, RATE, Property(name="psnr"), OPTIMISER]
    assert wanted_properties([planted], wanted) == [ACCURACY, RATE, OPTIMISER]
    assert wanted_properties([planted], wanted, "optimiser") == [ACCURACY, RATE]
    one = divide(planted, "unseen:optimiser=sgd")
    assert OPTIMISER not in wanted_properties([one], wanted)


def test_more_labels_tell_more(planted: Zoo) -> None:
    config = LabelConfig(counts=(5, 20, 80), num_draws=4)
    judged = judge_embedding(readings(planted, "statistics_asinh"), None, [ACCURACY], config)
    by_count: dict[float, list[float]] = {}
    for row in judged.label_efficiency:
        by_count.setdefault(row["num_labels"], []).append(row["kendall_tau"])
    assert list(by_count) == [5, 20, 80, 144]
    assert [len(taus) for taus in by_count.values()] == [4, 4, 4, 1]
    means = [np.nanmean(taus) for taus in by_count.values()]
    assert means[0] < means[1] < means[2]
    assert by_count[144][0] == judged.scores[0]["kendall_tau"]


def test_labels_are_of_different_models_as_far_as_there_are_so_many() -> None:
    models = np.repeat(np.arange(10), 4)
    few, more, all_of_them = (draw_labelled(models, n, draw=3) for n in (6, 25, 40))
    assert len(set(models[few])) == 6
    assert (np.bincount(models[more], minlength=10) >= 2).all()
    assert sorted(all_of_them) == list(range(40))
    assert list(more[:6]) == list(few)
    assert list(draw_labelled(models, 6, draw=4)) != list(few)


def test_categories_of_few_labels_are_probed_too(planted: Zoo) -> None:
    features = readings(planted, "statistics_asinh")
    config = LabelConfig(counts=(10, 40), num_draws=2)
    curve = label_curve(features.parts, features.tables, OPTIMISER, config, Score("", accuracy=1.0))
    found = {row["num_labels"]: row["accuracy"] for row in curve}
    assert 0.6 < found[10] <= 1 and found[40] > 0.75 and found[144] == 1.0
