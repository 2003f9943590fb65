"""What a population is made of, in pictures: its architectures, their weights, and which
properties go with a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import GREY, INK, PALETTE, check_columns, panels, style
from .zoo import THIN, plain, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_ARCHITECTURES = 20
_MAX_TENSORS = 24


def associations(table: pd.DataFrame, metric: str) -> Figure:
    """How strongly properties rise and fall with a metric: Kendall's tau, strongest first.

    Args:
        table: Columns `property`, `tau` in [-1, 1] and `num`, the networks that have both.
    """
    check_columns(table.columns, ["property", "tau", "num"], "associations")
    table = table.iloc[np.argsort(-table["tau"].abs().to_numpy(), kind="stable")]
    with style():
        figure, (ax,) = panels(1, size=(6.2, 0.27 * len(table) + 1.2))
        places = np.arange(len(table))
        colour = [PALETTE[0] if tau >= 0 else PALETTE[1] for tau in table["tau"]]
        ax.barh(places, table["tau"], color=colour, height=0.72)
        for place, tau in zip(places, table["tau"], strict=True):
            ax.annotate(
                f"{tau:+.2f}".replace("-", "−"),
                (tau, place),
                (4 if tau >= 0 else -4, 0),
                textcoords="offset points",
                ha="left" if tau >= 0 else "right",
                va="center",
                fontsize=7.5,
            )
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_yticks(places, [short(plain(name)) for name in table["property"]])
        ax.set(
            xlim=(-1.22, 1.22),
            ylim=(len(table) - 0.4, -0.6),
            xlabel=f"Kendall τ with {plain(metric)} ({table['num'].max():,} networks)",
            title=f"What goes with {plain(metric)}",
        )
        ax.grid(axis="y", visible=False)
    return figure


def architecture_counts(table: pd.DataFrame) -> Figure:
    """How many models each architecture has.

    Args:
        table: Columns `name`, `parameters` and `models`, most models first; the rest of a long
            table becomes one bar.
    """
    check_columns(table.columns, ["name", "parameters", "models"], "architecture_counts")
    shown, rest = table[:_MAX_ARCHITECTURES], table[_MAX_ARCHITECTURES:]
    names = [
        f"{short(str(row.name))}\n{row.parameters:,} parameters"
        for row in shown.itertuples(index=False)
    ]
    counts = shown["models"].tolist()
    if len(rest):
        names.append(
            f"{len(rest):,} others\n{rest['parameters'].min():,} to {rest['parameters'].max():,}"
        )
        counts.append(int(rest["models"].sum()))
    with style():
        figure, (ax,) = panels(1, size=(6.2, 0.4 * len(names) + 0.9))
        places = np.arange(len(names))
        ax.barh(
            places, counts, color=[PALETTE[0]] * len(shown) + [GREY] * bool(len(rest)), height=0.7
        )
        for place, count in zip(places, counts, strict=True):
            ax.annotate(
                f"{count:,}",
                (count, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        ax.set_yticks(places, names, fontsize=7.5)
        ax.set(
            ylim=(len(names) - 0.4, -0.6),
            xlabel="models",
            title=f"Architectures of the zoo ({len(table):,})",
        )
        ax.margins(x=0.12)
        ax.grid(axis="y", visible=False)
    return figure


def weight_scales(scales: Mapping[str, pd.DataFrame]) -> Figure:
    """How large weights are, tensor by tensor, a panel an architecture.

    Args:
        scales: Architecture -> a row a network and a column a tensor: the root of the mean
            square of its values. Zeros and values that are not finite are left out.
    """
    from matplotlib.figure import Figure as Canvas

    with style():
        most = max(min(len(table.columns), _MAX_TENSORS) for table in scales.values())
        figure = Canvas(figsize=(4.3 * len(scales), 0.24 * most + 1.3), layout="constrained")
        axes = figure.subplots(1, len(scales), squeeze=False)[0]
        for ax, (name, table) in zip(axes, scales.items(), strict=True):
            keep = np.unique(np.linspace(0, len(table.columns) - 1, _MAX_TENSORS).astype(int))
            shown = table.iloc[:, keep]
            values = [
                column[np.isfinite(column) & (column > 0)] for column in shown.to_numpy(float).T
            ]
            ax.boxplot(
                values,
                positions=range(len(values)),
                widths=0.6,
                orientation="horizontal",
                manage_ticks=False,
                whis=(5, 95),
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": "#BBD7EA", **THIN},
                whiskerprops=THIN,
                capprops=THIN,
                medianprops={"color": INK, "linewidth": 1.8},
            )
            ax.set_xscale("log")
            ax.set_yticks(range(len(values)), [_tail(str(c)) for c in shown.columns], fontsize=7.5)
            left_out = len(table.columns) - len(keep)
            more = f", {left_out} tensors not shown" * (left_out > 0)
            ax.set(
                ylim=(len(values) - 0.4, -0.6),
                title=f"{short(name)}\n({len(table):,} networks{more})",
            )
            ax.grid(axis="y", visible=False)
        figure.supxlabel(
            "root mean square of the values (box: quartiles, whiskers: 5 to 95 %)", fontsize=9
        )
        figure.suptitle("How large the weights are")
    return figure


def _tail(text: str, limit: int = 26) -> str:
    """Tensors of one network differ at the ends of their names."""
    return text if len(text) <= limit else f"…{text[len(text) - limit + 1 :]}"
