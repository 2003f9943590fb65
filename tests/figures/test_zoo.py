"""Pictures of a population show what its tables say."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from graphrep.figures.zoo import metric_against_settings, property_histograms, trajectories
from graphrep.figures.zoo_parts import architecture_counts, associations, weight_scales
from tests.zoo.populations import classifiers, foreign, images

LOGARITHMIC = ("learning_rate", "weight_decay")


def counts(seed: int, num: int = 3) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    models = np.sort(generator.integers(1, 100, num))[::-1]
    names = [f"design {i}" for i in range(num)]
    return pd.DataFrame({"name": names, "parameters": np.arange(num) + 10, "models": models})


def taus(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    names = ["learning_rate", "epoch", "test_loss"]
    return pd.DataFrame({"property": names, "tau": generator.uniform(-1, 1, 3), "num": 50})


def sizes(seed: int, tensors: int = 4) -> dict[str, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    names = [f"layers.{i}.weight" for i in range(tensors)]
    table = pd.DataFrame(10 ** generator.normal(-1, 0.3, (30, tensors)), columns=names)
    table.iloc[0, 0], table.iloc[1, 0] = np.nan, 0.0
    return {"a design": table, "another": table * 2}


FIGURES: dict[str, Callable[[int], Figure]] = {
    "property_histograms": lambda seed: property_histograms(
        classifiers(40, seed),
        ["test_accuracy", "weight_decay", "activation"],
        logarithmic=LOGARITHMIC,
    ),
    "trajectories": lambda seed: trajectories(classifiers(40, seed), "test_accuracy"),
    "metric_against_settings": lambda seed: metric_against_settings(
        classifiers(40, seed),
        "test_accuracy",
        ["weight_decay", "activation"],
        logarithmic=LOGARITHMIC,
    ),
    "associations": lambda seed: associations(taus(seed), "test_accuracy"),
    "architecture_counts": lambda seed: architecture_counts(counts(seed)),
    "weight_scales": lambda seed: weight_scales(sizes(seed)),
}


def pixels(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


def texts(figure: Figure) -> str:
    found = figure.findobj(Text)
    return "\n".join(text.get_text() for text in found if isinstance(text, Text))


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_the_same_population_gives_the_same_picture_and_leaves_no_trace(
    draw: Callable[[int], Figure],
) -> None:
    before = dict(matplotlib.rcParams)
    first = pixels(draw(0))
    assert first == pixels(draw(0))
    assert first != pixels(draw(1))
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_bars_of_a_histogram_add_up_to_what_is_known() -> None:
    table = classifiers(50)
    names = ["test_accuracy", "train_loss", "weight_decay", "epoch", "activation"]
    figure = property_histograms(table, names, logarithmic=LOGARITHMIC)
    heights = [sum(p.get_height() for p in ax.patches) for ax in figure.axes]
    finite = int(np.isfinite(table["train_loss"]).sum())
    positive = int((table["weight_decay"] > 0).sum())
    assert heights == [len(table), finite, positive, len(table), len(table)]
    assert finite < len(table) and positive < len(table)
    shown = texts(figure)
    assert f"{len(table) - finite} missing" in shown
    assert f"{len(table) - positive} are 0" in shown
    assert [ax.get_xscale() for ax in figure.axes] == ["linear", "linear", "log", *["linear"] * 2]
    assert "200 checkpoints" in shown


def test_wild_and_missing_values_are_counted_in_words() -> None:
    table = foreign()
    column = next(
        c for c in table.columns if str(c).startswith("config") and table[c].max() == 1e12
    )
    figure = property_histograms(table, [column])
    assert "1 further out" in texts(figure)
    assert sum(p.get_height() for p in figure.axes[0].patches) == len(table) - 1
    assert figure.axes[0].get_xlim()[1] < 1e6


def test_trajectories_are_medians_with_their_band() -> None:
    table = classifiers(30)
    (ax,) = trajectories(table, "test_accuracy").axes
    (median,) = (line for line in ax.lines if line.get_label() == "median")
    by_epoch = table.groupby("epoch")["test_accuracy"]
    np.testing.assert_allclose(np.asarray(median.get_ydata(), float), by_epoch.median())
    corners = np.asarray(ax.collections[0].get_paths()[0].vertices)
    assert corners[:, 1].min() == pytest.approx(by_epoch.quantile(0.1).min())
    assert corners[:, 1].max() == pytest.approx(by_epoch.quantile(0.9).max())
    thin = [line for line in ax.lines if len(np.asarray(line.get_xdata())) and line is not median]
    assert len(thin) == 30
    (single,) = (
        line for line in thin
        if np.allclose(np.asarray(line.get_ydata(), float), table["test_accuracy"][:4])
    )  # fmt: skip
    assert np.asarray(single.get_xdata()).tolist() == [0, 1, 5, 25]


def test_settings_have_points_or_boxes() -> None:
    table = classifiers(60)
    figure = metric_against_settings(
        table, "test_accuracy", ["weight_decay", "activation"], logarithmic=LOGARITHMIC
    )
    points, boxes = figure.axes
    drawn = np.asarray(points.collections[0].get_offsets())
    assert len(drawn) == (table["weight_decay"] > 0).sum() < len(table)
    assert points.get_xscale() == "log" and "median at 0" in texts(figure)
    labels = [text.get_text().split("\n")[0] for text in boxes.get_xticklabels()]
    assert sorted(labels) == ["relu", "tanh"]
    medians = sorted(float(np.asarray(line.get_ydata())[0]) for line in boxes.lines[4::5])
    expected = sorted(table.groupby("activation")["test_accuracy"].median())
    np.testing.assert_allclose(medians, expected)
    assert points.get_ylim() == boxes.get_ylim()
    label = metric_against_settings(images(), "psnr", ["label"]).axes[0]
    assert [text.get_text().split("\n")[0] for text in label.get_xticklabels()] == list(
        "0123456789"
    )


def test_the_strongest_associations_come_first() -> None:
    table = pd.DataFrame({"property": ["a", "b", "c"], "tau": [0.1, -0.9, 0.5], "num": [9, 9, 9]})
    (ax,) = associations(table, "psnr").axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "c", "a"]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [-0.9, 0.5, 0.1])
    assert "−0.90" in texts(ax.figure) and "9 networks" in texts(ax.figure)


def test_many_architectures_end_in_one_bar() -> None:
    table = counts(0, 30)
    (ax,) = architecture_counts(table).axes
    assert sum(bar.get_width() for bar in ax.patches) == table["models"].sum()
    assert "10 others" in texts(ax.figure) and "others" not in texts(architecture_counts(counts(0)))


def test_many_tensors_are_thinned_out_and_that_is_said() -> None:
    figure = weight_scales(sizes(0, tensors=60))
    assert all(len(ax.get_yticklabels()) == 24 for ax in figure.axes)
    assert "36 tensors not shown" in texts(figure)
    assert "not shown" not in texts(weight_scales(sizes(0)))


def test_columns_that_are_not_there_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="property_histograms: the table lacks colour"):
        property_histograms(classifiers(10), ["colour"])
    with pytest.raises(ValueError, match="trajectories: the table lacks epoch"):
        trajectories(classifiers(10).drop(columns="epoch"), "test_accuracy")
