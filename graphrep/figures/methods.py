"""Methods side by side on many zoos: scores with intervals, who leads where, labels needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .style import GREY, INK, PALETTE, check_columns, colours, label, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_SCORES = {"r2": "$R^2$", "kendall_tau": "Kendall τ", "accuracy": "accuracy (fraction correct)"}
_READINGS = {  # how a method came to its answer: what it is called, and its colour
    "self_supervised": ("trained without labels, linear probe", PALETTE[0]),
    "untrained": ("untrained, linear probe", PALETTE[5]),
    "features": ("no training, linear probe", GREY),
    "end_to_end": ("trained on the property", PALETTE[1]),
    "boosting": ("no training, gradient boosting", PALETTE[4]),
}
_LARGEST = 0.3  # differences that have the full colour
_LOWEST_SHOWN = -0.2  # a score below says "useless" as well, and would squeeze the others


def method_scores(summary: pd.DataFrame, score: str, title: str) -> Figure:
    """Means over seeds with their intervals, a panel a zoo, the best method on top.

    Args:
        summary: Columns `panel` (what a panel is called), `label`, `mode` (see
            `graphrep.evaluation.methods`), `mean`, `low`, `high`; a row a panel and method.
        score: r2, kendall_tau or accuracy: what the numbers are.
    """
    needed = ["panel", "label", "mode", "mean", "low", "high"]
    check_columns(summary.columns, needed, "method_scores")
    groups = list(summary.groupby("panel", sort=False))
    most = max(len(rows) for _, rows in groups)
    with style():
        width = 6.6 if len(groups) == 1 else 4.6
        figure, axes = panels(len(groups), columns=3, size=(width, max(1.6, 0.23 * most + 1.1)))
        for ax, (name, rows) in zip(axes, groups, strict=True):
            _scores_panel(ax, rows.sort_values("mean", ascending=False))
            ax.set(title=name, xlabel=_SCORES.get(score, score))
        modes = [mode for mode in _READINGS if (summary["mode"] == mode).any()]
        handles = [_dot(*_READINGS[mode]) for mode in modes]
        columns = min(len(handles), 2 if len(groups) < 3 else 3)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def advantage_map(differences: pd.DataFrame, title: str) -> Figure:
    """One method minus the best rival: rows are zoos, columns properties, blue where ahead.

    Args:
        differences: Columns `row`, `property`, `difference`, `low`, `high`, `rival`; bold
            where the interval leaves out zero.
    """
    needed = ["row", "property", "difference", "low", "high", "rival"]
    check_columns(differences.columns, needed, "advantage_map")
    rows = list(dict.fromkeys(differences["row"]))
    columns = list(dict.fromkeys(differences["property"]))
    grid = np.full((len(rows), len(columns)), np.nan)
    cells: list[dict[Any, Any]] = differences.to_dict("records")
    for cell in cells:
        grid[rows.index(cell["row"]), columns.index(cell["property"])] = cell["difference"]
    with style():
        figure, (ax,) = panels(1, size=(max(6.5, 1.2 * len(columns) + 2.2), 0.5 * len(rows) + 1.5))
        image = ax.imshow(grid, cmap="RdBu", vmin=-_LARGEST, vmax=_LARGEST, aspect="auto")
        for cell in cells:
            place = columns.index(cell["property"]), rows.index(cell["row"])
            sure = cell["low"] > 0 or cell["high"] < 0
            strong = abs(cell["difference"]) > 0.6 * _LARGEST
            ax.annotate(
                f"{cell['difference']:+.2f}",
                place,
                (0, 4),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if sure else "normal",
                color="white" if strong else INK,
            )
            ax.annotate(
                _short(str(cell["rival"])),
                place,
                (0, -7),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if strong else INK,
            )
        names = [label(name).split(" (")[0] for name in columns]
        ax.set_xticks(range(len(columns)), [_wrapped(name) for name in names], fontsize=8)
        ax.set_yticks(range(len(rows)), rows, fontsize=8)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        for side in ax.spines.values():
            side.set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.8, extend="both", pad=0.02)
        bar.set_label("Kendall τ or\naccuracy", fontsize=8)
        figure.suptitle(title, x=0.01, ha="left")
        figure.supxlabel(
            "bold: the 95 % interval of the difference leaves out 0; below it the best rival",
            fontsize=7.5,
        )
    return figure


def label_curves(table: pd.DataFrame, score: str, title: str, first: Sequence[str] = ()) -> Figure:
    """Scores against the number of labelled networks, a panel a zoo, a line a method.

    Args:
        table: Columns `panel`, `label`, `num_labels` and the score's; a row a draw and seed.
            Lines are medians, bands reach from the 25th to the 75th percentile.
        first: Labels that stand out.
    """
    check_columns(table.columns, ["panel", "label", "num_labels", score], "label_curves")
    names = list(dict.fromkeys(table["label"]))
    order = [*(n for n in first if n in names), *(n for n in names if n not in first)]
    colour = colours(order)
    shared = {c for c, num in Counter(colour.values()).items() if num > 1}
    dash = {name: "--" if "," in name and c in shared else "-" for name, c in colour.items()}
    groups = list(table.groupby("panel", sort=False))
    with style():
        width = 6.0 if len(groups) == 1 else 4.0
        figure, axes = panels(len(groups), columns=3, size=(width, 3.4))
        for ax, (panel, rows) in zip(axes, groups, strict=True):
            for name in reversed(order):
                own = rows[(rows["label"] == name) & np.isfinite(rows[score])]
                by_count = own.groupby("num_labels")[score]
                middle = by_count.median()
                if middle.empty:
                    continue
                width = 2.2 if name in first else 1.2
                ax.plot(
                    middle.index,
                    middle,
                    dash[name],
                    color=colour[name],
                    lw=width,
                    marker="o",
                    ms=3,
                    label=name,
                )
                ax.fill_between(
                    middle.index,
                    by_count.quantile(0.25),
                    by_count.quantile(0.75),
                    color=colour[name],
                    alpha=0.12,
                    linewidth=0,
                )
            counts = np.unique(rows["num_labels"])
            ax.set_xscale("log")
            ax.set_xticks(counts, [f"{count:,}" for count in counts])
            ax.minorticks_off()
            ax.set_ylim(max(_LOWEST_SHOWN, ax.get_ylim()[0]), None)
            ax.set(title=panel, xlabel="labelled networks", ylabel=_SCORES.get(score, score))
        found = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        shown = [name for name in order if name in found]
        figure.legend(
            [found[name] for name in shown],
            [_short(name) for name in shown],
            loc="outside lower center",
            ncols=min(len(shown), 3 if len(groups) < 3 else 5),
        )
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _scores_panel(ax: Axes, rows: pd.DataFrame) -> None:
    lowest = float(min(rows["low"].min(), rows["mean"].min()))
    floor = max(lowest - 0.02, _LOWEST_SHOWN)
    found: list[dict[Any, Any]] = rows.to_dict("records")
    for place, row in enumerate(found):
        colour = _READINGS[row["mode"]][1]
        if row["mean"] < floor:
            ax.plot(floor, place, "<", color=colour, ms=5)
            ax.annotate(
                f"{row['mean']:.2g}",
                (floor, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=colour,
            )
            continue
        ax.hlines(place, max(row["low"], floor), max(row["high"], floor), color=colour, lw=2)
        ax.plot(row["mean"], place, "o", color=colour, ms=5)
    if floor < 0:
        ax.axvline(0, color=GREY, linewidth=1)
    ax.set_xlim(floor - 0.02, min(1.02, float(rows["high"].max()) + 0.06))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    names = [_short(str(name).split(", ")[0]) for name in rows["label"]]
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    for tick, name in zip(ax.get_yticklabels(), rows["label"], strict=True):
        if str(name).split(", ")[0].split("_")[0] == "graph":
            tick.set_fontweight("bold")
    ax.grid(axis="y", visible=False)


def _dot(name: str, colour: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color=colour, ms=5, label=name)


def _short(name: str) -> str:
    """A method's name where there is little room."""
    name = name.replace("statistics_plain", "s(W)").replace("statistics_asinh", "s(asinh W)")
    name = name.replace("statistics_answers", "s(asinh W) + answers")
    return (
        name.replace("hyperrep_", "hyperrep ")
        .replace("_responses", " (foretells answers)")
        .replace("_probed", " + answers")
        .replace("_moments", " + s(asinh W)")
        .replace("_bare", " without s(W)")
        .replace("raw", "W")
    )


def _wrapped(name: str) -> str:
    """At most two lines."""
    words = name.split()
    middle = -(-len(words) // 2)
    return "\n".join(" ".join(part) for part in (words[:middle], words[middle:]) if part)
