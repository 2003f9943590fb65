"""Figures of many methods show what they are given: panels, order, leads, labels."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from graphrep.figures.methods import advantage_map, label_curves, method_scores

METHODS = {
    "graph": "self_supervised",
    "token": "self_supervised",
    "hyperrep_e_c_plus_d": "self_supervised",
    "pna": "self_supervised",
    "statistics_plain": "features",
    "statistics_asinh": "features",
    "raw": "features",
    "graph, untrained": "untrained",
    "graph, end to end": "end_to_end",
    "token, end to end": "end_to_end",
    "statistics_asinh, boosting": "boosting",
}
ZOOS = ("digits_cnn", "mnist_cnn", "fashion_cnn", "wild_cnn")
PROPERTIES = (
    *("test_accuracy", "generalisation_gap", "epoch", "train_fraction", "log_learning_rate"),
    *("log_weight_decay", "activation", "optimiser", "init"),
)


def summary(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = []
    for zoo in ZOOS:
        for label, mode in METHODS.items():
            mean = random.uniform(0.3, 0.9)
            rows.append({"panel": zoo, "label": label, "mode": mode, "mean": mean})
            rows[-1] |= {"low": mean - 0.04, "high": mean + 0.03}
    rows[3] |= {"mean": -4.0, "low": -9.0, "high": -1.0}
    return pd.DataFrame(rows)


def differences(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"row": zoo, "property": name, "rival": random.choice(list(METHODS)[1:7])}
            | {"difference": d, "low": d - 0.05, "high": d + 0.05}
            for zoo in ZOOS
            for name in PROPERTIES
            for d in [float(random.normal(0.03, 0.12))]
        ]
    )


def labels(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"panel": zoo, "label": label, "num_labels": num}
            | {"kendall_tau": 0.2 * np.log10(num) + random.normal(0, 0.05)}
            for zoo in ZOOS[:2]
            for label in list(METHODS)[:8]
            for num in (10, 30, 100, 300, 4900)
            for _ in range(1 if num > 300 else 5)
        ]
    )


FIGURES: dict[str, Callable[[int], Figure]] = {
    "scores": lambda seed: method_scores(summary(seed), "kendall_tau", "test accuracy"),
    "advantage": lambda seed: advantage_map(differences(seed), "graph minus the best rival"),
    "labels": lambda seed: label_curves(labels(seed), "kendall_tau", "Labels", first=["graph"]),
}


def pixels(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_other_numbers_give_another_picture(name: str) -> None:
    draw = FIGURES[name]
    assert pixels(draw(0)) == pixels(draw(0)) != pixels(draw(1))


def test_the_best_method_is_on_top_and_a_useless_one_at_the_edge() -> None:
    table = summary(0)
    ax = method_scores(table, "r2", "title").axes[0]
    best = table[table["panel"] == "digits_cnn"].sort_values("mean").iloc[-1]["label"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.get_yticklabels()[0].get_text() == best.split(", ")[0].replace(
        "statistics_asinh", "s(asinh W)"
    )
    assert "-4" in [text.get_text() for text in ax.texts]
    assert ax.get_xlim()[0] > -1


def test_a_lead_is_bold_where_its_interval_leaves_out_zero() -> None:
    table = differences(0)
    texts = {text.get_text(): text for text in advantage_map(table, "title").axes[0].texts}
    sure = table[table["low"] > 0].iloc[0]["difference"]
    unsure = table[table["difference"].abs() < 0.03].iloc[0]["difference"]
    assert texts[f"{sure:+.2f}"].get_fontweight() == "bold"
    assert texts[f"{unsure:+.2f}"].get_fontweight() == "normal"


def test_curves_are_medians_at_their_numbers_of_labels() -> None:
    table = labels(0)
    ax = label_curves(table, "kendall_tau", "title", first=["graph"]).axes[0]
    line = next(line for line in ax.lines if line.get_label() == "graph")
    own = table[(table["panel"] == "digits_cnn") & (table["label"] == "graph")]
    assert list(line.get_xdata()) == [10, 30, 100, 300, 4900]
    assert line.get_ydata()[0] == own[own["num_labels"] == 10]["kendall_tau"].median()
    assert ax.get_xscale() == "log"


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="lacks mode"):
        method_scores(summary(0).drop(columns="mode"), "r2", "title")
