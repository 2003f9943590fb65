"""Curves over training: losses of encoders, accuracy of networks while fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import check_columns, colours, label, panels, spans_decades, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_curves(metrics: pd.DataFrame, names: Sequence[str] = ()) -> Figure:
    """Training metrics of several encoders, a panel a metric.

    Args:
        metrics: Columns `encoder`, `step`, `name`, `value`; with `seed` as well, the line
            is the mean over seeds and the band reaches from the lowest to the highest.
        names: Which metrics, in which order; empty for all.
    """
    check_columns(metrics.columns, ["encoder", "step", "name", "value"], "loss_curves")
    chosen = list(names) or list(dict.fromkeys(metrics["name"]))
    encoders = list(dict.fromkeys(metrics["encoder"]))
    colour = colours(encoders)
    with style():
        figure, axes = panels(len(chosen), size=(3.9, 2.9))
        for ax, name in zip(axes, chosen, strict=True):
            of_name = metrics[(metrics["name"] == name) & np.isfinite(metrics["value"])]
            for encoder in encoders:
                rows = of_name[of_name["encoder"] == encoder]
                by_step = rows.groupby("step")["value"].agg(["mean", "min", "max"])
                if by_step.empty:
                    continue
                ax.plot(
                    by_step.index, by_step["mean"], color=colour[encoder], lw=1.6, label=encoder
                )
                ax.fill_between(
                    by_step.index,
                    by_step["min"],
                    by_step["max"],
                    color=colour[encoder],
                    alpha=0.18,
                    linewidth=0,
                )
            if spans_decades(of_name["value"].to_numpy(float) * 10):
                ax.set_yscale("log")
            ax.set(title=name, xlabel="step (optimiser updates)", ylabel=label(name.split("/")[-1]))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=max(1, len(encoders)))
        seeds = " (mean of the seeds; band: lowest to highest)" if "seed" in metrics else ""
        figure.suptitle(f"Training of the encoders{seeds}", x=0.01, ha="left")
    return figure


def finetuning_curves(results: pd.DataFrame) -> Figure:
    """Accuracy while sampled networks are fine-tuned, next to training from scratch.

    Args:
        results: Columns `start` (such as "graph, joint" or "from scratch"), `step`,
            `accuracy`; a row a network and step. Lines are means, bands reach from the
            10th to the 90th percentile of the networks.
    """
    check_columns(results.columns, ["start", "step", "accuracy"], "finetuning_curves")
    starts = list(dict.fromkeys(results["start"]))
    colour = colours(starts)
    drawn: dict[str, int] = {}  # how many lines have a colour: the second is dotted
    with style():
        figure, (ax,) = panels(1, size=(5.6, 3.7))
        for start in starts:
            rows = results[results["start"] == start].groupby("step")["accuracy"]
            mean, low, high = rows.mean(), rows.quantile(0.1), rows.quantile(0.9)
            drawn[colour[start]] = drawn.get(colour[start], 0) + 1
            dash = "--" if "scratch" in start else "-" if drawn[colour[start]] == 1 else ":"
            ax.plot(
                mean.index, mean, dash, color=colour[start], lw=1.8, marker="o", ms=3.5, label=start
            )
            ax.fill_between(mean.index, low, high, color=colour[start], alpha=0.15, linewidth=0)
        ax.set(
            xlabel="fine-tuning (optimiser updates)",
            ylabel=label("accuracy"),
            ylim=(0, 1.02),
            title="Fine-tuning sampled networks\n(mean; band: 10th to 90th percentile)",
        )
        ax.legend(loc="lower right")
    return figure
