"""How good sampled networks are before any training, next to what they must be held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import GREY, INK, check_columns, colours, label, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = ("zoo", "anchors", "random init")  # the same whatever the encoder


def sample_accuracies(
    accuracies: pd.DataFrame,
    *,
    chance: float | None = None,
    shared: Sequence[str] = SHARED,
    seed: int = 0,
) -> Figure:
    """Distributions of accuracy on real images, a row a kind of network.

    Args:
        accuracies: A row a network, with columns `source` ("zoo", "anchors", "random
            init", "samples, joint", "samples, independent", ...), `encoder` (any text for
            the shared sources) and `accuracy`.
        chance: Accuracy of guessing, drawn as a line.
        shared: Sources that stand once, in grey, above the encoders' own.
        seed: Of the dots' scatter.
    """
    check_columns(accuracies.columns, ["source", "encoder", "accuracy"], "sample_accuracies")
    own = accuracies[~accuracies["source"].isin(shared)]
    encoders = list(dict.fromkeys(own["encoder"]))
    colour = colours(encoders)
    rows: list[tuple[str, str, np.ndarray]] = []
    for source in shared:
        of_source = accuracies[accuracies["source"] == source]
        rows.append((source, GREY, of_source["accuracy"].to_numpy(float)))
    for ends, group in own.groupby(["encoder", "source"], sort=False):
        encoder, source = map(str, ends)
        rows.append((f"{encoder}: {source}", colour[encoder], group["accuracy"].to_numpy(float)))
    rows = [row for row in rows if len(row[2])]
    thin = {"color": INK, "linewidth": 0.9}
    generator = np.random.default_rng(seed)
    with style():
        figure, (ax,) = panels(1, size=(7.2, 0.46 * len(rows) + 0.9))
        for place, (_, row_colour, values) in enumerate(rows):
            shown = generator.permutation(values)[:300]
            jitter = generator.uniform(-0.26, 0.26, len(shown))
            ax.scatter(shown, place + jitter, s=9, color=row_colour, alpha=0.45, linewidths=0)
            ax.boxplot(
                values,
                positions=[place],
                widths=0.62,
                orientation="horizontal",
                showfliers=False,
                manage_ticks=False,
                boxprops=thin,
                whiskerprops=thin,
                capprops=thin,
                medianprops={"color": INK, "linewidth": 2},
            )
            numbers = f"mean {values.mean():.3f}   best {values.max():.3f}   n {len(values)}"
            beside = ax.get_yaxis_transform()
            ax.text(1.01, place, numbers, transform=beside, va="center", fontsize=8, color=INK)
        if chance is not None:
            ax.axvline(chance, color=INK, linewidth=1, linestyle=":")
            ax.text(chance, -0.72, " chance", fontsize=8, va="center")
        ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        ax.set(
            xlim=(0, 1.0),
            ylim=(len(rows) - 0.4, -0.95),
            xlabel=label("test_accuracy"),
            title="Accuracy on real images, samples as they come",
        )
        ax.grid(axis="y", visible=False)
    return figure
