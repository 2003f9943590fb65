"""A zoo as a recorded run: what it holds, in tables and pictures, for MLflow's pages.

Knows what belongs on the page; numbers come from `zoo.population`, pictures from `figures`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .figures.rendered import rendered_images
from .figures.zoo import metric_against_settings, property_histograms, trajectories
from .figures.zoo_parts import architecture_counts, associations, weight_scales
from .zoo.columns import Column
from .zoo.implicit.recipe import SirenRecipe
from .zoo.implicit.siren import render
from .zoo.population import (
    Duplicates,
    associate,
    count_splits,
    find_duplicates,
    last_rows,
    main_metric,
    metrics,
    settings,
)
from .zoo.show import architecture_table, describe, population_text

if TYPE_CHECKING:
    import pandas as pd

    from .tracking import Run, Tracker
    from .zoo import Zoo

_TEXT_WIDTH = 120  # characters of a line of population.txt
_MAX_ROWS = 100_000  # of the properties that are kept as a table
_MAX_HISTOGRAMS = 20
_MAX_SETTINGS = 12
_MAX_GROUPS = 1000  # of equal checkpoints that are listed
_WEIGHED = 200  # networks of an architecture whose weights are read
_MAX_WEIGHED = 3  # architectures
_RENDERED = 10  # implicit networks


def record_zoo(
    zoo: Zoo,
    tracker: Tracker,
    folder: Path,
    name: str = "",
    params: Mapping[str, object] | None = None,
) -> str:
    """Record a look at a zoo as one run of MLflow; the run's id, "" without a server.

    Artifacts: population.txt as `graphrep zoo show` prints it; tables/columns.csv (a line a
    property), checkpoints.csv (all properties; of very many checkpoints a part, by lot),
    architectures.csv, splits.csv, copies.csv, associations.csv; figures of how properties
    spread, of the main metric over training and against the settings, of what goes with it,
    of architectures and of their weights' sizes. Of the weights a sample is read.

    Args:
        zoo: A zoo or a view of one.
        tracker: Where to.
        folder: The run's own folder for its local record.
        name: Of the run; by default the zoo's.
        params: More to note.
    """
    table = zoo.properties
    columns, duplicates = describe(table), find_duplicates(table)
    metric = main_metric(table)
    last = table.iloc[last_rows(table)]
    about = {
        "zoo": zoo.name,
        "num_models": int(table["model"].nunique()),
        "num_checkpoints": len(table),
        "num_architectures": int(table["architecture"].nunique()),
        "main_metric": metric or "none",
        "licence": zoo.header.get("licence"),
        "dtype": zoo.header.get("dtype"),
        "recipe": zoo.header.get("recipe"),
        "source": zoo.header.get("source"),
        "path": zoo.url,
    }
    with tracker.run(
        name or zoo.name, {**about, **(params or {})}, folder, tags={"kind": "zoo"}
    ) as run:
        numbers = _numbers(table, last, metric, duplicates)
        run.log_metrics(numbers, step=0)
        run.set_description(_description(zoo, metric, numbers, duplicates))
        run.log_text(_text(zoo), "population.txt")
        _record_tables(zoo, columns, duplicates, run)
        _record_figures(zoo, columns, metric, last, run)
    return run.id


def weight_sizes(zoo: Zoo, num: int = _WEIGHED, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Root of the mean square of each tensor's values, of some last checkpoints.

    Returns:
        The name of an architecture -> a row a network, a column a tensor; for those with most
        models.
    """
    import pandas as pd

    counts = architecture_table(zoo)
    common = counts["fingerprint"][:_MAX_WEIGHED].tolist()
    last = np.zeros(len(zoo), dtype=bool)
    last[last_rows(zoo.properties)] = True
    found = {}
    for group in zoo.groups():
        if group.architecture.fingerprint not in common:
            continue
        places = np.flatnonzero(last[group.rows.numpy()])
        chosen = np.random.default_rng(seed).permutation(places)[:num]
        theta = group.theta[torch.from_numpy(np.sort(chosen))].double()
        sizes = {
            t.name: theta[:, t.offset : t.offset + t.numel].square().mean(1).sqrt().numpy()
            for t in group.architecture.stored
            if t.offset is not None and t.numel
        }
        if sizes:
            found[group.architecture.fingerprint] = pd.DataFrame(sizes)
    names = counts.set_index("fingerprint")["name"]
    twice = names.duplicated(keep=False)
    return {
        f"{names[key]} {key}" if twice[key] else str(names[key]): found[key]
        for key in common
        if key in found
    }


def _numbers(
    table: pd.DataFrame, last: pd.DataFrame, metric: str | None, duplicates: Duplicates | None
) -> dict[str, float]:
    """The run's metrics: counts, and the main metric of last checkpoints by split."""
    numbers = {"num_models": float(len(last)), "num_checkpoints": float(len(table))}
    if "diverged" in table:
        numbers["num_diverged"] = float(table["diverged"].eq(True).fillna(False).sum())
    if duplicates is not None:
        numbers["copies/across_models"] = float(len(duplicates.copies))
        numbers["copies/across_splits"] = float(len(duplicates.leaks))
        numbers["copies/checkpoints"] = float(duplicates.num_checkpoints)
    if metric is not None:
        parts = {"all": last}
        if "split" in last:
            parts |= {str(split): part for split, part in last.groupby("split")}
        for part_name, part in parts.items():
            values = part[metric].to_numpy(dtype=float, na_value=np.nan)
            values = values[np.isfinite(values)]
            if len(values):
                low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
                for key, value in {
                    "10_percent": low,
                    "median": middle,
                    "90_percent": high,
                    "least": values.min(),
                    "greatest": values.max(),
                }.items():
                    numbers[f"{metric} {part_name}/{key}"] = float(value)
    return numbers


def _record_tables(
    zoo: Zoo, columns: list[Column], duplicates: Duplicates | None, run: Run
) -> None:
    import pandas as pd

    table = zoo.properties
    run.log_table(pd.DataFrame(map(_column_row, columns)), "columns")
    kept = table
    if len(table) > _MAX_ROWS:
        kept = table.sample(_MAX_ROWS, random_state=0).sort_index()
    run.log_table(kept, "checkpoints")
    run.log_dataset(kept, zoo.name, zoo.url, context="zoo")
    run.log_table(architecture_table(zoo), "architectures")
    if "split" in table:
        run.log_table(count_splits(table), "splits")
    if duplicates is not None and len(duplicates.groups):
        run.log_table(duplicates.groups[:_MAX_GROUPS], "copies")


def _record_figures(
    zoo: Zoo, columns: list[Column], metric: str | None, last: pd.DataFrame, run: Run
) -> None:
    table = zoo.properties
    numbers = [c.name for c in columns if c.kind == "number"]
    shown = numbers + [c.name for c in columns if c.kind in ("category", "truth")]
    logarithmic = {c.name for c in columns if c.histogram is not None and c.histogram.logarithmic}
    if shown:
        figure = property_histograms(table, shown[:_MAX_HISTOGRAMS], logarithmic=logarithmic)
        run.log_figure(figure, "properties")
    if metric is not None:
        if "epoch" in table and table["epoch"].nunique() > 1:
            run.log_figure(trajectories(table, metric), "trajectories")
        varied = [name for name in settings(table) if name in shown][:_MAX_SETTINGS]
        if varied and np.isfinite(last[metric].to_numpy(float, na_value=np.nan)).any():
            figure = metric_against_settings(last, metric, varied, logarithmic=logarithmic)
            run.log_figure(figure, "settings")
        meant = {*metrics(table), *settings(table), "epoch"} - {metric}
        found = associate(last, metric, [name for name in numbers if name in meant])
        if len(found):
            run.log_table(found, "associations")
            run.log_figure(associations(found, metric), "associations")
    architectures = architecture_table(zoo)
    if len(architectures) > 1:
        run.log_figure(architecture_counts(architectures), "architectures")
    if sizes := weight_sizes(zoo):
        run.log_figure(weight_scales(sizes), "weights")
    if rendered := render_some(zoo):
        run.log_figure(rendered_images(*rendered), "rendered")


def render_some(
    zoo: Zoo, num: int = _RENDERED
) -> tuple[list[list[np.ndarray]], list[str], list[str]] | None:
    """Images of a zoo's first implicit networks, their names and epochs; None for other zoos."""
    if (zoo.header.get("recipe") or {}).get("kind") != SirenRecipe.kind:
        return None
    table = zoo.properties
    models = table["model"].unique()[:num]
    rows = [np.flatnonzero(table["model"] == model) for model in models]
    images = [[_render(zoo, int(row)) for row in own] for own in rows]
    titles = [
        f"{table['label'].iloc[own[-1]]}: {table['psnr'].iloc[own[-1]]:.0f} dB" for own in rows
    ]
    return images, titles, [f"step {e}" for e in table["epoch"].iloc[rows[0]]]


def _render(zoo: Zoo, row: int) -> np.ndarray:
    siren = zoo.graphs[row].load_into(zoo.network(row))
    _, height, width = zoo.header["facts"]["input_shape"]
    return render(siren, height, width).numpy()


def _column_row(column: Column) -> dict[str, object]:
    """A column as a line of the table of columns."""
    quartiles = column.quartiles or (float("nan"),) * 5
    return {
        "property": column.name,
        "kind": column.kind,
        "missing": column.num_missing,
        "infinite": column.num_infinite,
        "distinct": column.num_distinct,
        **dict(
            zip(("least", "25_percent", "median", "75_percent", "greatest"), quartiles, strict=True)
        ),
        "most_common": ", ".join(f"{value} ({num})" for value, num in column.common),
    }


def _text(zoo: Zoo) -> str:
    """What `graphrep zoo show` prints, as plain text."""
    from rich.console import Console

    page = io.StringIO()
    Console(file=page, width=_TEXT_WIDTH, color_system=None).print(population_text(zoo))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _description(
    zoo: Zoo, metric: str | None, numbers: Mapping[str, float], duplicates: Duplicates | None
) -> str:
    """Markdown for the top of the run's page."""
    table = zoo.properties
    lines = [
        f"**{zoo.name}**: {table['model'].nunique():,} models, {len(table):,} checkpoints, "
        f"{table['architecture'].nunique():,} architectures.\n"
    ]
    if duplicates is not None and len(duplicates.leaks):
        lines.append(
            f"**LEAK**: {len(duplicates.leaks):,} groups of equal weights cross the splits; see "
            "`tables/copies.csv`.\n"
        )
    if metric is not None and f"{metric} all/median" in numbers:
        lines += [
            f"| {metric.replace('_', ' ')} of last checkpoints | 10 % | median | 90 % |",
            "| --- | --- | --- | --- |",
        ]
        for part in ("all", "train", "validation", "test"):
            found = [
                numbers.get(f"{metric} {part}/{k}") for k in ("10_percent", "median", "90_percent")
            ]
            if None not in found:
                lines.append(f"| {part} | " + " | ".join(f"{value:.4g}" for value in found) + " |")
        lines.append("")
    lines.append("Look at `figures/`, `population.txt` and `tables/` under Artifacts.\n")
    return "\n".join(lines)
