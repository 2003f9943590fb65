"""Rows chosen by conditions, splits and epochs."""

from __future__ import annotations

import numpy as np
import pytest

from graphrep.zoo import Zoo
from graphrep.zoo.selection import select_rows
from tests.zoo.populations import zoo_of


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    splits = ["train", "train", "test", "validation", "test", "train"]
    return zoo_of(tmp_path_factory.mktemp("zoos") / "zoo", splits)


def test_rows_that_meet_all_conditions_are_chosen_in_order(zoo: Zoo) -> None:
    table = zoo.properties
    assert select_rows(zoo).tolist() == list(range(len(zoo)))
    rows = select_rows(zoo, "test_accuracy > 0.5 and optimiser == 'adam'")
    assert rows.tolist() == np.flatnonzero(table["test_accuracy"] > 0.5).tolist() != []
    rows = select_rows(zoo, "learning_rate >= 0.2", split="test", epoch=1)
    expected = (table["learning_rate"] >= 0.2) & (table["split"] == "test") & (table["epoch"] == 1)
    assert rows.tolist() == np.flatnonzero(expected).tolist()
    assert 0 < len(rows) < len(zoo)
    assert zoo.select(rows).properties["split"].unique().tolist() == ["test"]


def test_last_and_best_are_one_row_a_model(zoo: Zoo) -> None:
    table = zoo.properties
    assert select_rows(zoo, epoch="last").tolist() == np.flatnonzero(table["epoch"] == 1).tolist()
    assert select_rows(zoo, epoch="best").tolist() == select_rows(zoo, epoch="last").tolist()
    assert (
        select_rows(zoo, "epoch < 1", epoch="last").tolist() == select_rows(zoo, epoch="0").tolist()
    )  # the last of the rows that are left
    falling = zoo.select(list(range(len(zoo))))
    falling.properties["test_accuracy"] = -falling.properties["test_accuracy"]
    assert select_rows(falling, epoch="best").tolist() == select_rows(zoo, epoch=0).tolist()


def test_missing_values_meet_no_condition(zoo: Zoo) -> None:
    view = zoo.select(list(range(len(zoo))))
    view.properties.loc[3, "test_accuracy"] = np.nan
    assert 3 not in select_rows(view, "test_accuracy < 100")
    assert 3 in select_rows(zoo, "test_accuracy < 100")


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"where": "test_acuracy > 0.5"}, "names 'test_acuracy', which is no column. Did you mean "
                                          "test_accuracy"),
        ({"where": "lr > 0"}, "'lr', which is no column. .*There are model, name"),
        ({"where": "test_accuracy >"}, "cannot be read: SyntaxError"),
        ({"where": "test_accuracy + 1"}, "is not true or false for each row"),
        ({"where": "@secret > 1"}, "names 'secret'|cannot be read"),
        ({"split": "val"}, "split must be one of train, validation, test, got 'val'"),
        ({"epoch": 7}, "no checkpoint is of epoch 7; there are 0, 1"),
        ({"epoch": "first"}, "epoch must be last, best or a whole number, got 'first'"),
        ({"where": "test_accuracy > 99", "split": "train"},
         "none of its 12 checkpoints has where test_accuracy > 99, split train"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_what_is_near(
    zoo: Zoo, conditions: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select_rows(zoo, **conditions)  # type: ignore[arg-type]


def test_names_with_other_characters_are_suggested_between_backticks(zoo: Zoo) -> None:
    view = zoo.select(list(range(len(zoo))))
    view.properties["optim::momentum"] = 0.5
    assert len(select_rows(view, "`optim::momentum` == 0.5")) == len(zoo)
    with pytest.raises(ValueError, match="Did you mean `optim::momentum`"):
        select_rows(view, "momentum == 0.5")
