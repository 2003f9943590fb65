"""Tables, histograms and copies of a population, and the page that the terminal shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from graphrep.zoo.columns import Histogram, describe_column, describe_columns, histogram
from graphrep.zoo.population import (
    associate,
    best_rows,
    count_architectures,
    count_splits,
    find_duplicates,
    last_rows,
    main_metric,
    metrics,
    settings,
)
from graphrep.zoo.show import PopulationText, describe, population_text
from graphrep.zoo.terminal_tables import bars, count_text, number_text, size_text
from tests.zoo.populations import TABLES, classifiers, foreign, images, policies, zoo_of

GENERATOR = np.random.default_rng(0)
NUMBERS = {
    "normal": GENERATOR.normal(size=500),
    "decades": 10 ** GENERATOR.uniform(-5, 2, 500),
    "decades and zeros": np.append(10 ** GENERATOR.uniform(-5, 2, 500), np.zeros(80)),
    "few values": GENERATOR.choice([16.0, 32.0, 64.0], 500),
    "one far out": np.append(GENERATOR.normal(size=499), 1e30),
    "largest there are": np.append(GENERATOR.normal(size=499), [1.7e308, -1.7e308]),
    "one": np.array([3.0]),
    "two": np.array([3.0, 4.0]),
    "alike": np.full(50, -2.5),
    "nearly alike": 1 + np.arange(50) * 2e-16,
    "whole": np.arange(1000.0),
}


@pytest.mark.parametrize("values", NUMBERS.values(), ids=NUMBERS.keys())
@pytest.mark.parametrize("bins", [1, 7, 20])
def test_every_number_is_in_one_bin_of_its_histogram(values: np.ndarray, bins: int) -> None:
    found = histogram(values, bins)
    assert found.counts.sum() + found.num_zero == len(values)
    assert len(found.counts) <= bins
    shown = values[values > 0] if found.logarithmic else values
    counted = np.zeros(len(found.counts), dtype=int)
    for value in shown:  # one by one
        counted[found.bin_of(value)] += 1
    assert abs(counted - found.counts).max() <= (2 if found.logarithmic else 0)  # rounded edges


def test_a_scale_is_logarithmic_where_that_reads_better() -> None:
    assert histogram(NUMBERS["decades"]).logarithmic
    zeros = histogram(NUMBERS["decades and zeros"])
    assert zeros.logarithmic and zeros.num_zero == 80
    for name in ("normal", "few values", "whole", "one"):
        assert not histogram(NUMBERS[name]).logarithmic, name
    accuracies = np.random.default_rng(0).uniform(0.005, 0.99, 1000)  # from a two-hundredth
    assert not histogram(accuracies).logarithmic


def test_one_wild_value_does_not_squeeze_the_others() -> None:
    found = histogram(NUMBERS["one far out"])
    assert found.open_above and not found.open_below
    assert (found.counts > 0).sum() > 5
    assert not histogram(NUMBERS["normal"]).open_above
    plain = np.histogram(NUMBERS["one far out"], bins=20)[0]
    assert (plain > 0).sum() == 2  # the control: equal bins over the whole range


def test_few_values_have_a_bar_each() -> None:
    found = histogram(NUMBERS["few values"])
    assert found.values is not None and found.values.tolist() == [16, 32, 64]
    expected = [(NUMBERS["few values"] == value).sum() for value in (16, 32, 64)]
    assert found.counts.tolist() == expected
    assert histogram(NUMBERS["normal"]).values is None


def test_bars_are_as_high_as_their_counts() -> None:
    edges = np.linspace(0, 1, 21)
    rising = Histogram(counts=np.arange(20), edges=edges)
    text = bars(rising)
    assert len(text) == 20 and text[0] == " " and text[1] == "▁" and text[-1] == "█"
    assert list(text) == sorted(text)
    assert set(bars(Histogram(counts=np.full(20, 5), edges=edges))) == {"█"}
    three = Histogram(counts=np.array([4, 0, 2]), edges=np.arange(4), values=np.arange(3.0))
    assert bars(three) == "█████       ▅▅▅▅▅   "


@pytest.mark.parametrize(
    ("values", "kind", "distinct", "missing"),
    [
        (pd.Series([1.5, 2.5, None]), "number", 2, 1),
        (pd.Series([1, 2, 2]), "number", 2, 0),
        (pd.Series([1, 2, None], dtype="Int64"), "number", 2, 1),
        (pd.Series([True, False, True]), "truth", 2, 0),
        (pd.Series([True, None, False], dtype=object), "truth", 2, 1),
        (pd.Series(["a", "b", None]), "category", 2, 1),
        (pd.Series([f"{i}" for i in range(50)]), "text", 50, 0),
        (pd.Series([[1], [2], [1]]), "category", 2, 0),
        (pd.Series(["a", "a"]), "constant", 1, 0),
        (pd.Series([7, 7]), "constant", 1, 0),
        (pd.Series([7, None]), "number", 1, 1),
        (pd.Series([np.inf, np.inf]), "constant", 1, 0),
        (pd.Series([None, np.nan], dtype=float), "empty", 0, 2),
        (pd.Series([], dtype=float), "empty", 0, 0),
        (pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"])), "category", 2, 0),
    ],
)
def test_columns_of_all_sorts_have_a_kind(
    values: pd.Series, kind: str, distinct: int, missing: int
) -> None:
    column = describe_column(values, "name")
    assert (column.kind, column.num_distinct, column.num_missing) == (kind, distinct, missing)


def test_a_column_is_described_as_pandas_describes_it() -> None:
    table = classifiers()
    for column in describe_columns(table, ("test_accuracy", "learning_rate", "epoch")):
        expected = table[column.name].quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
        np.testing.assert_allclose(column.quartiles, expected, rtol=1e-12)
        assert column.num_distinct == table[column.name].nunique()
    (activation,) = describe_columns(table, ("activation",))
    assert dict(activation.common) == table["activation"].value_counts().to_dict()
    (loss,) = describe_columns(table, ("train_loss",))
    assert loss.num_infinite == np.isinf(table["train_loss"]).sum() > 0


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (classifiers(), "test_accuracy"),
        (images(), "psnr"),
        (policies(), "test_return"),
        (images().drop(columns="psnr"), "mse"),
        (policies().rename(columns={"test_return": "quality"}), "quality"),  # it changes
        (foreign(), None),
    ],
)
def test_every_kind_of_zoo_has_its_main_metric(table: pd.DataFrame, expected: str | None) -> None:
    assert main_metric(table) == expected


def test_settings_stay_while_a_model_trains_and_metrics_do_not() -> None:
    table = classifiers()
    assert metrics(table) == ["train_loss", "test_accuracy"]
    assert settings(table) == ["learning_rate", "weight_decay", "activation"]
    table["momentum"] = np.arange(len(table))  # changes with each checkpoint
    assert "momentum" in metrics(table) and "momentum" not in settings(table)


def test_last_and_best_rows_are_those_of_a_search_model_by_model() -> None:
    table = classifiers().sample(frac=1, random_state=1).reset_index(drop=True)
    table.loc[(table["epoch"] == 25) & (table["model"] < 9), "test_accuracy"] = 0.0
    table.loc[5, "test_accuracy"] = np.nan
    last = [int(group["epoch"].idxmax()) for _, group in table.groupby("model")]
    assert last_rows(table).tolist() == last
    best = [int(group["test_accuracy"].idxmax()) for _, group in table.groupby("model")]
    assert best_rows(table, "test_accuracy").tolist() == best
    least = [int(group["mse"].idxmin()) for _, group in images().groupby("model")]
    assert best_rows(images(), "mse").tolist() == least
    assert best_rows(table, "test_accuracy").tolist() != last  # the control


def test_associations_are_kendalls_tau_over_known_pairs() -> None:
    table = images()
    table["known for few"] = np.where(table["model"] < 2, 1.0, np.nan)
    table["alike"] = 1.0
    found = associate(table, "psnr", ["mse", "label", "known for few", "alike"])
    assert found["property"].tolist() == ["mse", "label"]
    assert found["tau"][0] == pytest.approx(-1) and abs(found["tau"][1]) < 0.4
    assert found["num"].tolist() == [len(table)] * 2


def test_planted_copies_are_found_and_no_others() -> None:
    table = classifiers()
    assert len(find_duplicates(table).groups) == 0
    train = table.index[(table["split"] == "train") & (table["architecture"] == "a" * 16)]
    test = table.index[(table["split"] == "test") & (table["architecture"] == "a" * 16)]
    other = table.index[table["architecture"] == "b" * 16]
    digest = table["content_hash"].to_numpy().copy()
    digest[train[5]] = digest[train[0]]  # two models of one split
    digest[test[3]] = digest[train[8]]  # train and test
    digest[train[13]] = digest[train[12]]  # one model that stood still
    digest[other[0]] = digest[train[20]]  # equal numbers in another design
    found = find_duplicates(table.assign(content_hash=digest))
    assert found is not None
    expected = {
        digest[train[0]]: (2, 2, 1),
        digest[train[8]]: (2, 2, 2),
        digest[train[12]]: (2, 1, 1),
    }
    groups = found.groups.set_index("content_hash")[["checkpoints", "models", "splits"]]
    assert {key: tuple(row) for key, row in groups.T.to_dict("list").items()} == expected
    assert found.leaks["content_hash"].tolist() == [digest[train[8]]]
    assert set(found.copies["content_hash"]) == {digest[train[0]], digest[train[8]]}
    assert found.num_checkpoints == 6
    assert set(found.members(digest[train[0]]).index) == {train[0], train[5]}
    assert find_duplicates(table.drop(columns="content_hash")) is None


def test_copies_without_a_split_are_no_leak() -> None:
    table = images()
    table.loc[1, "content_hash"] = table.loc[0, "content_hash"]
    table["split"] = pd.Series(["train", *[None] * (len(table) - 1)], dtype="str")
    found = find_duplicates(table)
    assert found is not None and len(found.copies) == 1 and len(found.leaks) == 0
    table["split"] = ["train", *["test"] * (len(table) - 1)]
    assert len(find_duplicates(table).leaks) == 1


def test_counts_of_parts_add_up() -> None:
    table = classifiers()
    for counts in (count_splits(table), count_architectures(table)):
        assert counts["checkpoints"].sum() == len(table)
        assert counts["models"].sum() == table["model"].nunique()
    assert count_splits(table)["split"].tolist() == ["train", "validation", "test"]
    assert count_splits(foreign())["split"].tolist() == ["none"]


def page(table: pd.DataFrame, width: int, colour: bool = False) -> str:
    """What the terminal shows of a table of properties."""
    architectures = count_architectures(table).rename(columns={"architecture": "fingerprint"})
    text = PopulationText(
        title="a zoo",
        facts=[("licence", "CC-BY-4.0")],
        architectures=architectures.assign(name="net", parameters=2464),
        columns=describe(table),
        duplicates=find_duplicates(table),
        num_rows=len(table),
    )
    return printed(text, width, colour)


def printed(text: PopulationText, width: int, colour: bool = False) -> str:
    file = io.StringIO()
    system = "standard" if colour else None
    console = Console(file=file, width=width, color_system=system, force_terminal=colour)  # type: ignore[arg-type]
    console.print(text)
    return file.getvalue()


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_page_fits_the_terminal_and_shows_every_column(
    make: Callable[[], pd.DataFrame], width: int
) -> None:
    table = make()
    lines = page(table, width).splitlines()
    assert max(map(len, lines)) <= width
    in_tables = [c for c in describe(table) if c.kind in ("number", "category", "truth")]
    for column in in_tables:
        head = column.name[:6]
        assert any(line.startswith(head) for line in lines), column.name
    numbers = [c for c in describe(table) if c.kind == "number" and c.quartiles]
    for column in numbers:
        shown = cut_name(column.name, lines)
        (line,) = (line for line in lines if line.split(" ")[0] == shown)
        for value in column.quartiles[::2]:
            assert f" {number_text(value)} " in line


def cut_name(name: str, lines: list[str]) -> str:
    """A column's name as the table of numbers has it, which may cut it in its middle."""
    start = next(i for i, line in enumerate(lines) if line.startswith("number "))
    shown = [line.split(" ")[0] for line in lines[start + 2 :]]
    halves = (text.partition("…") for text in shown)
    return next(
        head + dots + tail
        for head, dots, tail in halves
        if (name == head and not dots) or (dots and name.startswith(head) and name.endswith(tail))
    )


def test_numbers_give_no_way_to_long_names() -> None:
    narrow, wide = page(foreign(), 80), page(foreign(), 140)
    assert "config.a_very_long_name_of_a_column_1" in wide
    numbers = narrow[narrow.index("number ") : narrow.index("category ")]
    assert "config.a_very_long_name_of_a_column_1" not in numbers
    assert "25 %" in wide and "25 %" not in narrow


def test_columns_that_say_nothing_share_a_line() -> None:
    text = page(classifiers(), 80)
    assert "The same in all: images mnist" in text
    assert not any(line.startswith("images") for line in text.splitlines())
    assert "Empty: " in page(foreign(), 80) and "Empty: " not in text
    assert "Infinite, counted as missing: train_loss 4" in text
    assert "Zeros, which have no place on a log scale: weight_decay" in text


def test_a_leak_is_said_loudly_and_only_if_there_is_one() -> None:
    table = classifiers()
    assert "LEAK" not in page(table, 80)
    assert "none: all 240 checkpoints differ" in page(table, 80)
    first, second = sorted(table.index[table["split"] == s][0] for s in ("train", "test"))
    same = ["content_hash", "architecture"]
    table.loc[second, same] = table.loc[first, same].to_numpy()
    text = " ".join(page(table, 80).replace("│", " ").split())
    assert "LEAK" in text and table["content_hash"][first] in text
    assert f"{table['name'][first]}, {table['name'][second]}" in text
    assert "2 models in test, train" in text


def test_colour_adds_nothing_but_colour() -> None:
    import re

    plain, coloured = page(classifiers(), 80), page(classifiers(), 80, colour=True)
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured).replace(
        "Bright bars: the middle half.\n", ""
    )
    assert [line.rstrip() for line in stripped.splitlines()] == [
        line.rstrip() for line in plain.splitlines()
    ]
    assert "\x1b[1;36m" in coloured


def test_a_zoo_on_disk_has_its_page(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", ["train", "train", "test", "validation"], copies=[(0, 2)])
    text = " ".join(printed(population_text(zoo), 80).replace("│", " ").split())
    assert "made by hand" in text and "4 models, 8 checkpoints, epochs 0 to 1" in text
    assert "train 2, validation 1, test 1 models" in text
    assert "LEAK" in text and "2 groups of equal weights cross the splits" in text
    assert "mlp-3" in text and "learning_rate" in text and "kB on disk, stored as float32" in text
    part = " ".join(printed(population_text(zoo.split("train")), 80).split())
    assert "2 models, 4 checkpoints" in part and "LEAK" not in part


@pytest.mark.parametrize(
    "value",
    [0, 1, -1, 0.5, -0.00123456, 1e-8, -3.3e-11, 123456, -99999, 1e30, 1 / 3, 999.99, 1e308],
)
def test_numbers_are_short_and_close(value: float) -> None:
    text = number_text(value)
    assert len(text) <= 8
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.05)


def test_counts_and_sizes_are_short() -> None:
    assert [count_text(n) for n in (0, 9999, 12345, 1_000_000)] == ["0", "9,999", "12.3k", "1M"]
    assert number_text(float("nan")) == "–" and number_text(float("inf")) == "inf"
    assert [size_text(n) for n in (12, 1234, 5.6e9)] == ["12 bytes", "1.23 kB", "5.6 GB"]
