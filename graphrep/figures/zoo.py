"""A population of networks in pictures: how its properties spread, grow and hang together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import INK, PALETTE, check_columns, label, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 30
_FEW = 12  # values that get a bar or a box each
_MAX_POINTS = 3000  # of a scatter; more are drawn by lot
_MAX_LINES = 60  # of single networks
_LONG = 34  # characters of a name beside an axis
THIN = {"color": INK, "linewidth": 0.9}


def property_histograms(
    properties: pd.DataFrame,
    names: Sequence[str],
    *,
    logarithmic: Collection[str] = (),
    title: str = "Properties of the zoo",
) -> Figure:
    """How properties spread over the checkpoints, a panel each.

    Args:
        properties: A row a checkpoint.
        names: Which columns. A column of few values has a bar a value.
        logarithmic: Those on a logarithmic axis; their zeros are counted in the corner.
    """
    check_columns(properties.columns, names, "property_histograms")
    with style():
        figure, axes = panels(len(names), columns=4, size=(3.0, 2.3))
        for ax, name in zip(axes, names, strict=True):
            _histogram(ax, properties[name], name in logarithmic)
            ax.set(xlabel=short(plain(name)), ylabel="checkpoints")
            ax.grid(axis="x", visible=False)
        figure.suptitle(f"{title} ({len(properties):,} checkpoints)")
    return figure


def trajectories(
    properties: pd.DataFrame, metric: str, *, by: str = "epoch", seed: int = 0
) -> Figure:
    """A metric over training: median, band from the 10th to the 90th percentile, single networks.

    Args:
        properties: A row a checkpoint, with columns `model`, `by` and `metric`.
        seed: Of the lot that chooses the networks that are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    check_columns(properties.columns, ["model", by, metric], "trajectories")
    table = properties[["model", by, metric]].dropna()
    table = table[np.isfinite(table[metric].to_numpy(float))]
    by_step = table.groupby(by)[metric]
    models = table["model"].unique()
    chosen = np.random.default_rng(seed).permutation(models)[:_MAX_LINES]
    with style():
        figure, (ax,) = panels(1, size=(6.4, 3.9))
        for _, line in table[table["model"].isin(chosen)].groupby("model"):
            line = line.sort_values(by)
            ax.plot(line[by], line[metric], color=PALETTE[0], lw=0.6, alpha=0.3, zorder=1)
        median, low, high = by_step.median(), by_step.quantile(0.1), by_step.quantile(0.9)
        band = "10th to 90th percentile"
        ax.fill_between(
            median.index, low, high, color=PALETTE[0], alpha=0.22, lw=0, label=band, zorder=2
        )
        ax.plot(median.index, median, "o-", color=INK, lw=1.8, ms=3.5, label="median", zorder=3)
        ax.plot([], [], color=PALETTE[0], lw=0.8, alpha=0.6, label=f"{len(chosen)} of the networks")
        ax.set(
            xlabel=label(by),
            ylabel=label(metric),
            title=f"{plain(metric)} while training ({len(models):,} networks)",
        )
        if all(float(step).is_integer() for step in median.index):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="best", frameon=True, edgecolor="none", framealpha=0.85)
    return figure


def metric_against_settings(
    properties: pd.DataFrame,
    metric: str,
    names: Sequence[str],
    *,
    logarithmic: Collection[str] = (),
    seed: int = 0,
) -> Figure:
    """A metric against what was set before training, a panel a setting.

    Args:
        properties: A row a network.
        names: Settings. Those of few values, and all texts, have a box a value; the others a
            point a network with medians of tenths of them.
        logarithmic: Those on a logarithmic axis; zeros stand left of it.
        seed: Of the lot among very many networks.
    """
    check_columns(properties.columns, [metric, *names], "metric_against_settings")
    known = properties[np.isfinite(properties[metric].to_numpy(float, na_value=np.nan))]
    low, high = _inner_range(known[metric].to_numpy(float))
    margin = 0.04 * (high - low) or 1.0
    with style():
        figure, axes = panels(
            len(names), columns=3, size=(3.6, 2.9) if len(names) > 1 else (5, 3.4)
        )
        for number, (ax, name) in enumerate(zip(axes, names, strict=True)):
            table = known[[name, metric]].dropna()
            if table.empty:
                ax.text(0.5, 0.5, "not known", transform=ax.transAxes, ha="center")
            elif _is_number(table[name]) and table[name].nunique() > _FEW:
                _scatter(ax, table, name, metric, name in logarithmic, seed)
            else:
                _boxes(ax, table, name, metric)
            ax.set(xlabel=short(plain(name)), ylim=(low - margin, high + margin))
            if number % 3 == 0:
                ax.set_ylabel(label(metric))
        figure.suptitle(f"{plain(metric)} against the settings ({len(known):,} networks)")
    return figure


def _histogram(ax: Axes, column: pd.Series, logarithmic: bool) -> None:
    if not _is_number(column) or column.nunique() <= _FEW:
        counts = column.value_counts()
        counts = counts.sort_index() if _is_number(column) else counts[:_FEW]
        names = [f"{v:g}" if _is_number(column) else short(str(v), 14) for v in counts.index]
        ax.bar(range(len(counts)), counts, color=PALETTE[0], width=0.8)
        crowded = sum(map(len, names)) > 26
        ax.set_xticks(
            range(len(counts)),
            names,
            fontsize=7,
            rotation=40 * crowded,
            ha="right" if crowded else "center",
        )
        _corner(ax, column.isna().sum(), 0, column.nunique() - len(counts))
        return
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = values[np.isfinite(values)]
    shown = finite[finite > 0] if logarithmic else finite
    low, high = _inner_range(np.log10(shown) if logarithmic else shown)
    edges = np.linspace(low, high, _BINS + 1)
    edges = 10**edges if logarithmic else edges
    inside = shown[(shown >= edges[0]) & (shown <= edges[-1])]
    ax.hist(inside, bins=edges.tolist(), color=PALETTE[0])
    ax.axvline(np.median(finite), color=INK, linewidth=1.2, linestyle=":")
    if logarithmic:
        ax.set_xscale("log")
    else:
        _few_ticks(ax)
    _corner(ax, len(values) - len(finite), len(finite) - len(shown), 0, len(shown) - len(inside))


def _few_ticks(ax: Axes) -> None:
    """Numbers written out below a narrow panel, few enough not to touch."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _corner(ax: Axes, missing: int, zeros: int, others: int, outside: int = 0) -> None:
    """What a histogram does not show, as counts in its corner."""
    counts = {"missing": missing, "are 0": zeros, "other values": others, "further out": outside}
    text = "\n".join(f"{count:,} {name}" for name, count in counts.items() if count > 0)
    ax.text(0.98, 0.97, text, transform=ax.transAxes, ha="right", va="top", fontsize=7, color=INK)


def _inner_range(values: np.ndarray) -> tuple[float, float]:
    """The whole range, or less of it where a hundredth of the values lies far out."""
    ascending = np.sort(values)
    few = max(1, len(ascending) // 100)
    if len(ascending) > 2 * few + 5:
        low, high = ascending[few], ascending[-1 - few]
        margin = 0.5 * (high - low) or np.inf
        ascending = ascending[(ascending >= low - margin) & (ascending <= high + margin)]
    return float(ascending[0]), float(ascending[-1])


def _scatter(
    ax: Axes, table: pd.DataFrame, name: str, metric: str, logarithmic: bool, seed: int
) -> None:
    """Points, and medians of tenths of the networks as a line."""
    if logarithmic:
        zeros = table[metric][table[name] <= 0]
        table = table[table[name] > 0]
        ax.set_xscale("log")
        if len(zeros):
            ax.axhline(
                zeros.median(),
                color=PALETTE[1],
                lw=1,
                ls="--",
                label=f"median at 0 ({len(zeros):,})",
            )
    else:
        _few_ticks(ax)
    drawn = table.sample(min(len(table), _MAX_POINTS), random_state=seed)
    size = float(np.clip(7000 / max(len(drawn), 1), 4, 16))
    ax.scatter(drawn[name], drawn[metric], s=size, color=PALETTE[0], alpha=0.35, linewidths=0)
    if len(table) >= 30:
        tenth = pd.qcut(table[name].rank(method="first"), 10, labels=False)
        middle = table.groupby(tenth)[[name, metric]].median()
        ax.plot(
            middle[name], middle[metric], "o-", color=INK, lw=1.3, ms=3, label="median of a tenth"
        )
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", fontsize=7, frameon=True, edgecolor="none", framealpha=0.8)


def _boxes(ax: Axes, table: pd.DataFrame, name: str, metric: str) -> None:
    """A box a value, the most common ones."""
    number = _is_number(table[name])
    common = table[name].value_counts()[:_FEW].index
    values = sorted(common) if number else list(common)
    groups = [table[metric][table[name] == value].to_numpy(float) for value in values]
    ax.boxplot(
        groups,
        positions=range(len(groups)),
        widths=0.6,
        manage_ticks=False,
        whis=(10, 90),
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#BBD7EA", **THIN},
        whiskerprops=THIN,
        capprops=THIN,
        medianprops={"color": INK, "linewidth": 1.8},
    )
    names = [f"{v:g}" if number else short(str(v), 14) for v in values]
    crowded = sum(map(len, names)) > 30
    ax.set_xticks(
        range(len(names)),
        [f"{n}\n{len(g):,}" for n, g in zip(names, groups, strict=True)] if not crowded else names,
        fontsize=7.5,
        rotation=35 * crowded,
        ha="right" if crowded else "center",
    )
    ax.grid(axis="x", visible=False)


def _is_number(column: pd.Series) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(column) and not is_bool_dtype(column)


def plain(name: str) -> str:
    """A property's name without its unit."""
    return label(name).split(" (")[0]


def short(text: str, limit: int = _LONG) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
