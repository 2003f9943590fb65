"""Laws of divisions: models stay in their stored split, sides differ in what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graphrep.evaluation.divisions import divide, find_division, first_models, with_sizes
from graphrep.zoo import Zoo
from tests.evaluation.planted import planted_zoo
from tests.zoo.populations import classifiers

NAMES = (
    *("zoo", "models:10", "labels:10", "unseen:learning_rate", "unseen:optimiser"),
    *("unseen:optimiser=adam", "unseen:width", "unseen:depth"),
)
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return planted_zoo(tmp_path_factory.mktemp("divisions") / "planted")


def moved(stored: np.ndarray, divided: np.ndarray) -> bool:
    """Whether a row is in another split than the stored one; left out is not moved."""
    return bool(((divided != stored) & (divided != "")).any())


@pytest.mark.parametrize("name", NAMES)
def test_a_division_moves_no_model_and_is_the_same_every_time(planted: Zoo, name: str) -> None:
    stored = planted.properties["split"].to_numpy().astype(str)
    divided = divide(planted, name)
    split = divided.properties["split"].to_numpy().astype(str)
    assert not moved(stored, split)
    assert moved(stored, np.roll(split, 7))  # a division that did would be noticed
    assert all(len(divided.split(s)) for s in SPLITS)
    assert (divide(Zoo.open(planted.url), name).properties["split"].to_numpy() == split).all()
    assert (planted.properties["split"].to_numpy() == stored).all()


def test_unseen_values_are_seen_in_testing_alone(planted: Zoo) -> None:
    rates = divide(planted, "unseen:learning_rate")
    lower = [rates.split(s).properties["learning_rate"].max() for s in ("train", "validation")]
    assert max(lower) < rates.split("test").properties["learning_rate"].min()
    plain = [planted.split(s).properties["learning_rate"] for s in ("train", "test")]
    assert plain[0].max() > plain[1].min()  # the zoo's own split is not one
    kinds = divide(planted, "unseen:optimiser=sgd")
    assert set(kinds.split("test").properties["optimiser"]) == {"sgd"}
    assert set(kinds.split("train").properties["optimiser"]) == {"adam"}
    assert kinds.division.held_out == "optimiser"


@pytest.mark.parametrize("size", ["width", "depth"])
def test_larger_networks_are_seen_in_testing_alone(planted: Zoo, size: str) -> None:
    sizes = with_sizes(planted)[size]
    split = divide(planted, f"unseen:{size}").properties["split"]
    assert sizes[split.isin(["train", "validation"])].max() < sizes[split == "test"].min()


def test_few_models_and_labels_are_as_many_as_asked_for(planted: Zoo) -> None:
    few, labels = divide(planted, "models:20"), divide(planted, "labels:20")
    for zoo, checkpoints in ((few, 2), (labels, 1)):
        counts = {s: zoo.split(s).properties["model"].nunique() for s in SPLITS}
        assert counts == {"train": 16, "validation": 4, "test": 12}
        assert len(zoo.split("train")) == 16 * checkpoints
        assert len(zoo.split("test")) == len(planted.split("test"))
    smaller = divide(planted, "models:10").split("train").properties["model"]
    assert set(smaller) < set(few.split("train").properties["model"])


def test_few_different_values_are_cut_between() -> None:
    table = classifiers(60)
    table["learning_rate"] = np.where(table["model"] % 3 == 0, 1e-3, 1e-2)
    split = find_division(table, "unseen:learning_rate").split
    assert set(table["learning_rate"][split == "test"]) == {1e-2}
    assert set(table["learning_rate"][split == "train"]) == {1e-3}


def test_models_of_a_quick_look_keep_their_shares(planted: Zoo) -> None:
    some = first_models(planted, 30)
    assert some.properties["model"].nunique() == 30
    assert some.split("train").properties["model"].nunique() == 18
    assert len(first_models(planted, 1000)) == len(planted)


def test_what_cannot_be_divided_is_refused(tmp_path: Path, planted: Zoo) -> None:
    with pytest.raises(ValueError, match="no division 'other'"):
        divide(planted, "other")
    with pytest.raises(ValueError, match="no property 'speed'"):
        divide(planted, "unseen:speed")
    with pytest.raises(ValueError, match="wants 20 models of the validation split, which has 12"):
        divide(planted, "models:100")
    one = planted_zoo(tmp_path / "one", num=10, designs=1)
    with pytest.raises(ValueError, match="the same value"):
        divide(one, "unseen:width")
    with pytest.raises(ValueError, match="leaves no models for test"):
        divide(planted, "unseen:optimiser=lion")


def test_rows_without_a_value_are_left_out() -> None:
    table = classifiers(60)
    table["optimiser"] = np.where(table["model"] % 2 == 0, "adam", "sgd")
    table["optimiser"] = table["optimiser"].where(table["model"] > 5, pd.NA)
    split = find_division(table, "unseen:optimiser=sgd").split
    assert (split[table["model"] <= 5] == "").all()
