"""Maps of embeddings: where the networks of a zoo lie, coloured by what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from .style import GREY, PALETTE, check_columns, label, panels, spans_decades, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_CATEGORIES = 8


def embedding_map(
    embedding: np.ndarray,
    properties: pd.DataFrame,
    colour_by: Sequence[str],
    *,
    method: Literal["pca", "tsne"] = "pca",
    title: str = "Map of the zoo",
    seed: int = 0,
) -> Figure:
    """Networks in the plane, a panel a property.

    Args:
        embedding: A network a row, [N, D].
        properties: A network a row, in the same order.
        colour_by: Columns of `properties`. Numbers get a colour bar (logarithmic where
            they span decades, 0 then grey), everything else a legend.
        method: Principal components, or t-SNE (scikit-learn; seconds for thousands).
        seed: Of t-SNE.

    Raises:
        ValueError: Rows disagree, a column is absent, or there are fewer than 3 networks.
    """
    embedding = np.asarray(embedding, dtype=np.float64)
    check_columns(properties.columns, colour_by, "embedding_map")
    if embedding.ndim != 2 or len(embedding) != len(properties):
        raise ValueError(
            f"embedding_map: embedding has shape {embedding.shape}, but there are "
            f"{len(properties)} rows of properties"
        )
    if len(embedding) < 3:
        raise ValueError(f"embedding_map needs at least 3 networks, got {len(embedding)}")
    places, axis_labels = _pca(embedding) if method == "pca" else _tsne(embedding, seed)
    with style():
        figure, axes = panels(
            len(colour_by), columns=2 if len(colour_by) == 4 else 3, size=(4.1, 3.4)
        )
        for ax, name in zip(axes, colour_by, strict=True):
            _panel(figure, ax, places, properties[name], name)
            ax.set(title=f"by {label(name).split(' (')[0]}", xlabel=axis_labels[0])
            ax.set_ylabel(axis_labels[1])
            ax.tick_params(labelbottom=False, labelleft=False, length=0)
        figure.suptitle(f"{title} ({len(places):,} networks)")
    return figure


def _panel(figure: Figure, ax: Axes, places: np.ndarray, column: pd.Series, name: str) -> None:
    size = float(np.clip(7000 / len(places), 5, 28))
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        _categories(ax, places, column, size)
        return

    from matplotlib.colors import LogNorm, Normalize

    x, y = places.T
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    zero, known = values == 0, np.isfinite(values)
    logarithmic = not (values < 0).any() and spans_decades(values[known & ~zero])
    coloured = known & ~(zero & logarithmic)
    for rest, meaning in ((known & ~coloured, "0"), (~known, "unknown")):
        if rest.any():
            ax.scatter(x[rest], y[rest], s=size, color="#CFCFCF", label=meaning, linewidths=0)
            ax.legend(loc="best", handletextpad=0.1, markerscale=1.5, frameon=True)
    if not coloured.any():
        return
    low, high = np.percentile(values[coloured], [1, 99])
    below, above = (values[coloured] < low).any(), (values[coloured] > high).any()
    points = ax.scatter(
        x[coloured],
        y[coloured],
        c=values[coloured],
        s=size,
        norm=LogNorm(low, high) if logarithmic else Normalize(low, high),
        cmap="viridis",
        linewidths=0,
    )
    extend = "both" if below and above else "min" if below else "max" if above else "neither"
    bar = figure.colorbar(points, ax=ax, extend=extend, aspect=25)
    bar.set_label(label(name) + (", log scale" if logarithmic else ""))
    bar.outline.set_visible(False)


def _categories(ax: Axes, places: np.ndarray, column: pd.Series, size: float) -> None:
    x, y = places.T
    values = column.astype("str").to_numpy()
    counts = pd.Series(values).value_counts()
    shown = sorted(counts.index[:_MAX_CATEGORIES])
    for colour, value in zip(PALETTE, shown, strict=False):
        own = values == value
        ax.scatter(x[own], y[own], s=size, color=colour, label=value, linewidths=0)
    others = ~np.isin(values, shown)
    if others.any():
        rest = f"{len(counts) - len(shown)} others"
        ax.scatter(x[others], y[others], s=size, color=GREY, label=rest, linewidths=0)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=min(4, len(shown)),
        handletextpad=0.1,
        columnspacing=1.0,
        markerscale=1.5,
    )


def _pca(embedding: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Two principal components, signs fixed so that a map comes out the same every time."""
    centred = embedding - embedding.mean(axis=0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = abs(directions).argmax(axis=1)
    directions *= np.sign(directions[range(len(directions)), largest])[:, None]
    places = np.zeros((len(centred), 2))
    places[:, : len(directions)] = centred @ directions.T
    shares = np.zeros(2)
    shares[: len(directions)] = scales[:2] ** 2 / max((scales**2).sum(), 1e-300)
    first, second = (
        f"component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)
    )
    return places, (first, second)


def _tsne(embedding: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.manifold import TSNE

    perplexity = float(min(30, (len(embedding) - 1) / 3))
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(embedding), ("t-SNE 1", "t-SNE 2")
