"""What probes read from embeddings: predicted against true values, scores with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import GREY, check_columns, colours, label, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOWEST_SHOWN = -0.5  # an R2 below says "useless" as well, and would squeeze the others


def predicted_against_true(
    results: Mapping[str, tuple[np.ndarray, np.ndarray]], property: str
) -> Figure:
    """Predictions of one property on held-out networks, a panel an encoder.

    Args:
        results: Encoder name -> (true values [N], predicted values [N]).
        property: What was predicted, as the zoo's table calls it.
    """
    from scipy.stats import kendalltau

    with style():
        figure, axes = panels(len(results), columns=4, size=(3.0, 3.1), share=True)
        truth = np.concatenate([np.asarray(true, dtype=float) for true, _ in results.values()])
        low, high = float(truth.min()), float(truth.max())
        margin = 0.06 * (high - low or 1.0)
        limits = (low - 3 * margin, high + 3 * margin)
        colour = colours(results)
        for ax, (name, (true, predicted)) in zip(axes, results.items(), strict=True):
            true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
            ax.plot(limits, limits, color=GREY, linewidth=1, zorder=1, label="exact")
            size = float(np.clip(3000 / len(true), 5, 24))
            shown = np.clip(predicted, *limits)
            outside = shown != predicted
            ax.scatter(
                true[~outside], shown[~outside], s=size, color=colour[name], alpha=0.6, linewidths=0
            )
            if outside.any():
                ax.scatter(
                    true[outside],
                    shown[outside],
                    s=size,
                    marker="x",
                    color=colour[name],
                    label=f"{outside.sum()} outside",
                )
            r2 = 1 - ((true - predicted) ** 2).sum() / max(
                ((true - true.mean()) ** 2).sum(), 1e-300
            )
            tau = kendalltau(true, predicted).statistic
            ax.set(title=f"{name}\n$R^2$ {r2:.2f}, Kendall τ {tau:.2f}")
            ax.set(xlim=(low - margin, high + margin), ylim=limits)
            ax.legend(loc="upper left", frameon=True, edgecolor="none", framealpha=0.85)
        figure.supxlabel(f"true {label(property)}", fontsize=9)
        figure.supylabel("predicted", fontsize=9)
        figure.suptitle(
            f"Predicted from weights alone: {label(property).split(' (')[0]} "
            f"of {len(next(iter(results.values()))[0]):,} held-out networks"
        )
    return figure


def probe_scores(results: pd.DataFrame) -> Figure:
    """Scores of all probes with their intervals: rows are properties, colours encoders.

    Args:
        results: A row an encoder and property, with columns `encoder`, `property` and
            `r2` and/or `kendall_tau` and/or `accuracy`; each may have `<score>_low` and
            `<score>_high`. Scores that a property lacks are NaN.
    """
    check_columns(results.columns, ["encoder", "property"], "probe_scores")
    known = {"r2": "$R^2$", "kendall_tau": "Kendall τ", "accuracy": "accuracy (fraction correct)"}
    scores = [name for name in known if name in results and results[name].notna().any()]
    if not scores:
        raise ValueError(f"probe_scores: the table has none of the scores {', '.join(known)}")
    encoders = list(dict.fromkeys(results["encoder"]))
    colour = colours(encoders)
    with style():
        heights = [  # in properties
            results.loc[results[score].notna(), "property"].nunique() for score in scores
        ]
        height = max(1.7, 0.16 * (len(encoders) + 1.5) * max(heights) + 0.9)
        figure, axes = panels(len(scores), columns=3, size=(4.4, height))
        for ax, score in zip(axes, scores, strict=True):
            _scores_panel(ax, results[results[score].notna()], score, encoders, colour)
            ax.set_ylim(max(heights) - 0.5, -0.5)  # equal distances in all panels
            ax.set_xlabel(f"{known[score]} on held-out networks")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside upper right", ncols=len(encoders), handletextpad=0.1
        )
        figure.suptitle("What a linear probe reads from each embedding", x=0.01, ha="left")
    return figure


def _scores_panel(
    ax: Axes, results: pd.DataFrame, score: str, encoders: list[str], colour: Mapping[str, str]
) -> None:
    properties = list(dict.fromkeys(results["property"]))
    offsets = np.linspace(-0.3, 0.3, len(encoders)) if len(encoders) > 1 else np.zeros(1)
    lowest = float(
        min(0.0, results[score].min(), results.get(f"{score}_low", pd.Series([0])).min())
    )
    floor = max(lowest - 0.05, _LOWEST_SHOWN)
    for offset, encoder in zip(offsets, encoders, strict=True):
        rows = results[results["encoder"] == encoder]
        y = np.array([properties.index(name) for name in rows["property"]]) + offset
        values = rows[score].to_numpy(float)
        low = rows.get(f"{score}_low", rows[score]).to_numpy(float)
        high = rows.get(f"{score}_high", rows[score]).to_numpy(float)
        inside = values >= floor
        ax.hlines(y, np.maximum(low, floor), np.maximum(high, floor), color=colour[encoder], lw=2)
        ax.plot(values[inside], y[inside], "o", color=colour[encoder], ms=5, label=encoder)
        for place, value in zip(y[~inside], values[~inside], strict=True):
            ax.plot(floor, place, "<", color=colour[encoder], ms=5)
            ax.annotate(
                f"{value:.2g}",
                (floor, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=colour[encoder],
            )
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_xlim(floor - 0.03, 1.02)
    ax.set_yticks(range(len(properties)), [label(name).split(" (")[0] for name in properties])
    ax.grid(axis="y", visible=False)
    for boundary in range(1, len(properties)):
        ax.axhline(boundary - 0.5, color="#E4E4E4", linewidth=0.7)
