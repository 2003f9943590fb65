"""A population of networks in pictures: how its properties spread, grow and hang together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import GREY, INK, PALETTE, check_columns, label, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 30
_FEW = 12  # values that get a bar or a box each
_MAX_POINTS = 3000  # of a scatter; more are drawn by lot
_MAX_LINES = 60  # of single networks
_MAX_ARCHITECTURES = 20
_MAX_TENSORS = 24
_LONG = 34  # characters of a name beside an axis
_THIN = {"color": INK, "linewidth": 0.9}


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
            ax.set(xlabel=_short(_plain(name)), ylabel="checkpoints")
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
            title=f"{_plain(metric)} while training ({len(models):,} networks)",
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
            if _is_number(table[name]) and table[name].nunique() > _FEW:
                _scatter(ax, table, name, metric, name in logarithmic, seed)
            else:
                _boxes(ax, table, name, metric)
            ax.set(xlabel=_short(_plain(name)), ylim=(low - margin, high + margin))
            if number % 3 == 0:
                ax.set_ylabel(label(metric))
        figure.suptitle(f"{_plain(metric)} against the settings ({len(known):,} networks)")
    return figure


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
        ax.set_yticks(places, [_short(_plain(name)) for name in table["property"]])
        ax.set(
            xlim=(-1.22, 1.22),
            ylim=(len(table) - 0.4, -0.6),
            xlabel=f"Kendall τ with {_plain(metric)} ({table['num'].max():,} networks)",
            title=f"What goes with {_plain(metric)}",
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
        f"{_short(str(row.name))}\n{row.parameters:,} parameters"
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
                boxprops={"facecolor": "#BBD7EA", **_THIN},
                whiskerprops=_THIN,
                capprops=_THIN,
                medianprops={"color": INK, "linewidth": 1.8},
            )
            ax.set_xscale("log")
            ax.set_yticks(range(len(values)), [_tail(str(c)) for c in shown.columns], fontsize=7.5)
            left_out = len(table.columns) - len(keep)
            more = f", {left_out} tensors not shown" * (left_out > 0)
            ax.set(
                ylim=(len(values) - 0.4, -0.6),
                title=f"{_short(name)}\n({len(table):,} networks{more})",
            )
            ax.grid(axis="y", visible=False)
        figure.supxlabel(
            "root mean square of the values (box: quartiles, whiskers: 5 to 95 %)", fontsize=9
        )
        figure.suptitle("How large the weights are")
    return figure


def _histogram(ax: Axes, column: pd.Series, logarithmic: bool) -> None:
    if not _is_number(column) or column.nunique() <= _FEW:
        counts = column.value_counts()
        counts = counts.sort_index() if _is_number(column) else counts[:_FEW]
        names = [f"{v:g}" if _is_number(column) else _short(str(v), 14) for v in counts.index]
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
    """The whole range, or less of it where a few values lie far out."""
    low, high = np.quantile(values, (0.01, 0.99))
    margin = 0.5 * (high - low) or np.inf
    inside = values[(values >= low - margin) & (values <= high + margin)]
    return float(inside.min()), float(inside.max())


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
        boxprops={"facecolor": "#BBD7EA", **_THIN},
        whiskerprops=_THIN,
        capprops=_THIN,
        medianprops={"color": INK, "linewidth": 1.8},
    )
    names = [f"{v:g}" if number else _short(str(v), 14) for v in values]
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


def _plain(name: str) -> str:
    """A property's name without its unit."""
    return label(name).split(" (")[0]


def _short(text: str, limit: int = _LONG) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _tail(text: str, limit: int = 26) -> str:
    """Tensors of one network differ at the ends of their names."""
    return text if len(text) <= limit else f"…{text[len(text) - limit + 1 :]}"
