"""A network's views as files and as a recorded run: tables, pictures, GraphML, JSON.

Knows which views there are; what they show stands in `summary`, `figures`, `interchange`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import architecture_picture, neuron_picture, save_picture
from .figures.neurons import obstacle
from .files import write_whole
from .graph import ParameterGraph
from .interchange import to_graphml

if TYPE_CHECKING:
    from .tracking import Run, Tracker

_CUT = 6000  # characters of a report that stand in a run's description


def write_views(
    graph: ParameterGraph,
    *,
    picture: Path | None = None,
    neurons: Path | None = None,
    graphml: Path | None = None,
    level: str = "neurons",
    json: Path | None = None,
) -> dict[str, Path]:
    """Write the views that have a path, each whole or not at all; what was written, by name.

    Args:
        graph: The network.
        picture: Its architecture, as .png, .svg or .pdf.
        neurons: Its units as dots and weights as lines, if it is small enough.
        graphml: For Gephi, yEd and others, on this `level`.
        level: "neurons", or "architecture" with a node a unit group.
        json: The architecture as `Architecture.from_json` reads it.

    Raises:
        ValueError: a path of another ending, or a network too large for a view.
    """
    written = {}
    if picture is not None:
        save_picture(architecture_picture(graph.architecture), picture)
        written["picture"] = picture
    if neurons is not None:
        save_picture(neuron_picture(graph), neurons)
        written["neurons"] = neurons
    if graphml is not None:
        to_graphml(graph, graphml, level)
        written["graphml"] = graphml
    if json is not None:
        text = graph.architecture.to_json()
        write_whole(json, lambda unfinished: unfinished.write_text(text))
        written["architecture"] = json
    return written


def record_graph(
    graph: ParameterGraph,
    tracker: Tracker,
    folder: Path,
    name: str = "",
    params: Mapping[str, object] | None = None,
) -> str:
    """Record all views of a network as one run of MLflow; the run's id, "" without a server.

    Parameters and metrics are the summary's totals. Artifacts: summary.txt, tables/units.csv
    and blocks.csv, figures/architecture.png and .svg, figures/neurons.png where the network is
    small enough, architecture.json, report.txt.

    Args:
        graph: The network.
        tracker: Where to.
        folder: The run's own folder for its local record.
        name: Of the run; by default the architecture's.
        params: More to note, such as the file it came from.
    """
    summary = graph.summary()
    totals = {"architecture": graph.architecture.name, **summary.totals()}
    with tracker.run(
        name or graph.architecture.name,
        {**totals, **(params or {})},
        folder,
        tags={"kind": "graph"},
    ) as run:
        counts = {k: float(v) for k, v in totals.items() if type(v) in (int, float)}
        run.log_metrics(counts, step=0)
        run.set_description(_description(graph))
        run.log_text(f"{summary}\n", "summary.txt")
        run.log_text(f"{graph.report()}\n", "report.txt")
        run.log_text(graph.architecture.to_json(), "architecture.json")
        run.log_table(summary.units, "units")
        run.log_table(summary.blocks, "blocks")
        _record_pictures(graph, run)
    return run.id


def _record_pictures(graph: ParameterGraph, run: Run) -> None:
    figure = architecture_picture(graph.architecture)
    run.log_figure(figure, "architecture")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "architecture.svg"
        save_picture(figure, path)
        run.log_artifact(path, "figures")
    if not obstacle(graph):
        run.log_figure(neuron_picture(graph), "neurons")


def _description(graph: ParameterGraph) -> str:
    """Markdown for the top of the run's page."""
    summary = graph.summary()
    checked = "verified" if graph.architecture.verified else "not verified"
    report = graph.report()
    report = report if len(report) <= _CUT else f"{report[:_CUT]}\n... (whole in report.txt)"
    return (
        f"**{graph.architecture.name}** `{graph.architecture.fingerprint}`: "
        f"{summary.num_parameters:,} parameters, 10^{summary.log10_symmetries:.1f} symmetries "
        f"({checked}), {summary.num_opaque:,} opaque. Look at `figures/architecture.svg`, "
        f"`summary.txt` and `tables/` under Artifacts.\n\n```\n{report}\n```\n"
    )
