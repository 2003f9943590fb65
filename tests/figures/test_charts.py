"""Figures show what they are given: panels, labels, numbers; other data, another picture."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from graphrep.figures import (
    embedding_map,
    finetuning_curves,
    loss_curves,
    predicted_against_true,
    probe_scores,
    sample_accuracies,
)
from graphrep.figures.style import PALETTE, colours

NUM = 60


def zoo(seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    embedding = generator.normal(size=(NUM, 8))
    properties = pd.DataFrame(
        {
            "test_accuracy": generator.uniform(0.1, 0.9, NUM),
            "learning_rate": 10 ** generator.uniform(-4, -1, NUM),
            "weight_decay": np.where(embedding[:, 0] > 0, 0, 10 ** generator.uniform(-6, -2, NUM)),
            "activation": generator.choice(["relu", "tanh"], NUM),
            "unknown": np.nan,
            "many": [f"kind {i % 12}" for i in range(NUM)],
        }
    )
    return embedding, properties


def scores(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = [
        {"encoder": encoder, "property": name, "r2": r2, "r2_low": r2 - 0.1, "r2_high": r2 + 0.05,
         "kendall_tau": r2 / 2}
        for encoder in ("graph", "token")
        for name in ("test_accuracy", "epoch")
        for r2 in [generator.uniform(0.2, 0.9)]
    ]  # fmt: skip
    rows.append({"encoder": "graph", "property": "learning_rate", "r2": -7.0, "kendall_tau": 0.1})
    return pd.DataFrame(rows)


def curves(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"encoder": e, "seed": s, "step": t, "name": name, "value": generator.uniform(1, 2)}
            for e in ("graph", "token")
            for s in (0, 1)
            for t in (0, 10, 20)
            for name in ("train/loss", "val/loss")
        ]
    )


def accuracies(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    kinds = [("zoo", ""), ("random init", ""), ("samples, joint", "graph"), ("samples", "token")]
    return pd.DataFrame(
        [
            {"source": source, "encoder": encoder, "accuracy": generator.uniform()}
            for source, encoder in kinds
            for _ in range(20)
        ]
    )


def finetuning(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    starts = ("graph, joint", "graph, independent", "from scratch")
    return pd.DataFrame(
        [
            {"start": start, "step": step, "accuracy": generator.uniform()}
            for start in starts
            for step in (0, 10, 50)
            for _ in range(5)
        ]
    )


def predictions(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)
    true = generator.uniform(size=NUM)
    return {"graph": (true, true), "token": (true, true + generator.normal(0, 0.2, NUM))}


FIGURES: dict[str, Callable[[int], Figure]] = {
    "embedding_map": lambda seed: embedding_map(
        *zoo(seed), zoo(seed)[1].columns.astype(str).tolist()
    ),
    "predicted_against_true": lambda seed: predicted_against_true(predictions(seed), "epoch"),
    "probe_scores": lambda seed: probe_scores(scores(seed)),
    "loss_curves": lambda seed: loss_curves(curves(seed)),
    "sample_accuracies": lambda seed: sample_accuracies(accuracies(seed), chance=0.1),
    "finetuning_curves": lambda seed: finetuning_curves(finetuning(seed)),
}


def pixels(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    found = figure.findobj(Text)
    return "\n".join(text.get_text() for text in found if isinstance(text, Text))


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_the_same_data_give_the_same_picture_and_others_another(
    draw: Callable[[int], Figure],
) -> None:
    first = pixels(draw(0))
    assert first == pixels(draw(0))
    assert first != pixels(draw(1))


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_drawing_leaves_no_trace_in_matplotlib(draw: Callable[[int], Figure]) -> None:
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    pixels(draw(0))
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_map_has_a_panel_a_property_and_a_scale_that_suits_it() -> None:
    from matplotlib.colors import LogNorm

    figure = embedding_map(*zoo(0), ["test_accuracy", "learning_rate", "activation"])
    maps = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in maps] == [
        "by test accuracy", "by learning rate", "by activation",
    ]  # fmt: skip
    assert "60 networks" in texts(figure) and "of variance" in texts(figure)
    assert not isinstance(maps[0].collections[0].norm, LogNorm)
    assert isinstance(maps[1].collections[0].norm, LogNorm)
    legend = maps[2].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["relu", "tanh"]
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in maps[2].collections])
    assert len(drawn) == NUM


def test_a_map_shows_the_first_two_principal_components() -> None:
    generator = np.random.default_rng(0)
    line = generator.normal(size=(NUM, 1)) * np.array([[3.0, 4.0, 0.0]])
    figure = embedding_map(line, pd.DataFrame({"a": range(NUM)}), ["a"])
    assert "component 1 (100% of variance)" in texts(figure)
    places = np.asarray(figure.axes[0].collections[0].get_offsets())
    spread = np.linalg.norm(line - line.mean(0), axis=1)
    np.testing.assert_allclose(abs(places[:, 0]), spread, atol=1e-9)
    np.testing.assert_allclose(places[:, 1], 0, atol=1e-9)


def test_t_sne_draws_every_network() -> None:
    embedding, properties = zoo(0)
    figure = embedding_map(embedding, properties, ["test_accuracy"], method="tsne")
    assert len(np.asarray(figure.axes[0].collections[0].get_offsets())) == NUM
    assert "t-SNE 1" in texts(figure)


def test_zeros_on_a_log_scale_and_unknown_values_are_named() -> None:
    shown = texts(embedding_map(*zoo(0), ["weight_decay", "unknown", "many"]))
    assert "\n0\n" in f"\n{shown}\n" and "unknown" in shown and "4 others" in shown


def test_predictions_have_their_scores_in_the_titles() -> None:
    figure = predicted_against_true(predictions(0), "test_accuracy")
    exact, noisy = (ax.get_title() for ax in figure.axes)
    assert exact == "graph\n$R^2$ 1.00, Kendall τ 1.00"
    assert noisy.startswith("token\n") and "1.00" not in noisy
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    wild = {"raw": (np.linspace(0, 1, 9), np.linspace(-30, 30, 9))}
    assert "8 outside" in texts(predicted_against_true(wild, "epoch"))
    tame = {"graph": predictions(0)["graph"]}
    assert "outside" not in texts(predicted_against_true(tame, "epoch"))


def test_probe_scores_stand_where_the_table_says() -> None:
    table = scores(0)
    figure = probe_scores(table)
    r2, tau = figure.axes
    dots = [line for line in r2.lines if line.get_marker() == "o"]
    drawn = sorted(float(x) for line in dots for x in np.atleast_1d(line.get_xdata()))
    np.testing.assert_allclose(drawn, sorted(table["r2"][table["r2"] > -0.5]))
    assert "-7" in texts(figure)  # a score off the scale stands in words
    assert [label.get_text() for label in tau.get_yticklabels()] == [
        "test accuracy", "epoch", "learning rate",
    ]  # fmt: skip


def test_loss_curves_are_means_of_the_seeds() -> None:
    table = curves(0)
    figure = loss_curves(table, ["val/loss"])
    (ax,) = figure.axes
    assert ax.get_title() == "val/loss"
    chosen = table[(table["name"] == "val/loss") & (table["encoder"] == "graph")]
    expected = chosen.groupby("step")["value"].mean()
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata(), dtype=float), expected)
    assert ax.lines[0].get_color() == colours(["graph"])["graph"]
    assert len(loss_curves(table).axes) == 2


def test_sample_accuracies_have_a_row_a_kind_with_its_numbers() -> None:
    table = accuracies(0)
    figure = sample_accuracies(table, chance=0.1)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["zoo", "random init", "graph: samples, joint", "token: samples"]
    for _, values in table.groupby(["source", "encoder"])["accuracy"]:
        assert f"mean {values.mean():.3f}   best {values.max():.3f}   n 20" in texts(figure)
    assert "chance" in texts(figure) and "chance" not in texts(sample_accuracies(table))


def test_finetuning_curves_tell_starts_apart() -> None:
    table = finetuning(0)
    (ax,) = finetuning_curves(table).axes
    styles = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert styles[0][0] == styles[1][0] and len(set(styles)) == 3
    chosen = table[table["start"] == "graph, joint"].groupby("step")["accuracy"].mean()
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata(), dtype=float), chosen)


def test_encoders_keep_their_colours_in_any_company() -> None:
    assert colours(["token", "graph"])["graph"] == colours(["graph"])["graph"] == PALETTE[0]
    many = colours(["graph", "mine", "yours", "graph, joint"])
    assert many["graph"] == many["graph, joint"]
    assert len({many["graph"], many["mine"], many["yours"]}) == 3


def test_wrong_tables_are_clear_errors() -> None:
    embedding, properties = zoo(0)
    with pytest.raises(ValueError, match="lacks colour"):
        embedding_map(embedding, properties, ["colour"])
    with pytest.raises(ValueError, match="59 rows of properties"):
        embedding_map(embedding, properties[:-1], ["activation"])
    with pytest.raises(ValueError, match="none of the scores"):
        probe_scores(pd.DataFrame({"encoder": ["graph"], "property": ["epoch"]}))
    with pytest.raises(ValueError, match="loss_curves: the table lacks step"):
        loss_curves(curves(0).drop(columns="step"))
