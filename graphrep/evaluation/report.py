"""What a comparison of methods leaves to look at: results.csv, tables, figures, a run.

Takes findings and writes them; knows no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..figures import save_picture
from ..figures.methods import advantage_map, label_curves, method_scores
from ..files import write_whole
from ..tracking import Tracker
from .divisions import TOGETHER, ZOO
from .findings import (
    QUESTION,
    Findings,
    best_rivals,
    compare,
    joint_against_alone,
    summarise,
)
from .judging import HEADLINES
from .recording import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAIN = {"r2": False, "kendall_tau": True, "accuracy": True}  # the scores that stand for a property
READINGS = {"probe": "linear probes", "supervised": "trained on the property"}
_ORDER = ("self_supervised", "features", "untrained", "end_to_end", "boosting")


def write_report(findings: Findings, output: Path, ours: str = "graph") -> Path:
    """results.csv, summary.csv, differences.csv, label_efficiency.csv, report.md and figures/.

    Returns:
        report.md.
    """
    output.mkdir(parents=True, exist_ok=True)
    summary, differences = summarise(findings), compare(findings, ours)
    tables = {
        "results": findings.results,
        "summary": summary,
        "differences": differences,
        "label_efficiency": findings.label_efficiency,
    }
    for name, table in tables.items():
        if not table.empty:
            write_whole(
                output / f"{name}.csv",
                partial(table.to_csv, index=False, float_format="%.6g"),
            )
    pictures = draw(findings, summary, differences, ours)
    (output / "figures").mkdir(exist_ok=True)
    for name, figure in pictures.items():
        save_picture(figure, output / "figures" / f"{name}.png")
    text = describe(findings, summary, differences, ours)
    report = output / "report.md"
    write_whole(report, lambda path: path.write_text(text))
    return report


def record_report(output: Path, tracker: Tracker, zoos: Sequence[str], benchmark_id: str) -> None:
    """The summary run: tables, figures and the report as its description."""
    params = {"encoder": "summary", "zoo": TOGETHER.join(zoos), "seed": "all"}
    tags = {"benchmark_id": benchmark_id, "kind": "summary", "encoder": "summary"}
    with tracker.run("summary", params, output / "summary", tags=tags, resume=True) as run:
        for place in sorted(output.glob("*.csv")):
            run.log_artifact(place, "tables")
        for place in sorted((output / "figures").glob("*.png")):
            run.log_artifact(place, "figures")
        run.log_artifact(output / "report.md")
        run.set_description((output / "report.md").read_text())
        run.log_metrics(_headlines(pd.read_csv(output / "summary.csv")), 0)
        headlines = [f"probe_{kind}/{name}" for name in HEADLINES[:1] for kind in ("tau", "r2")]
        run.arrange_comparison(
            benchmark_id,
            [*headlines, "probe_accuracy/label"],
            ("seed", "zoo", "mode", "split"),
        )


def _headlines(summary: pd.DataFrame) -> dict[str, float]:
    """Means of what people ask for first, a metric a zoo and method, on the zoos' own splits."""
    rows = summary[_is_main(summary) & (summary["labels"] == "own") & (summary["split"] == ZOO)]
    rows = rows[rows["property"].isin(HEADLINES)]
    alone = rows["trained_on"] == rows["zoo"]
    source = (": from " + rows["trained_on"].map(_source_title)).mask(alone, "")
    named = rows["label"].str.replace(", ", ": ") + source
    names = rows["property"] + "/" + rows["zoo"] + "/" + named
    return dict(zip(names, rows["mean"].astype(float), strict=True))


def draw(
    findings: Findings, summary: pd.DataFrame, differences: pd.DataFrame, ours: str
) -> dict[str, Figure]:
    """Figures by name; only those that there is something for."""
    found: dict[str, Figure] = {}
    shown = summary[_is_main(summary)]
    for name in HEADLINES:
        rows = shown[(shown["property"] == name)]
        for split, part in rows.groupby("split", sort=False):
            alone = part[(part["trained_on"] == part["zoo"]) & (part["labels"] == "own")]
            if alone.empty:
                continue
            score = str(alone["score"].iloc[0])
            title = f"{name.replace('_', ' ')} of held-out networks, {_split_title(str(split))}"
            key = f"{name}-{str(split).replace(':', '_')}"
            found[key] = method_scores(alone.assign(panel=alone["zoo"]), score, title)
        across = rows[(rows["labels"] == "other") & (rows["split"] == ZOO)]
        if not across.empty:
            panel = across["trained_on"] + " → " + across["zoo"]
            title = f"{name.replace('_', ' ')}: trained and fitted on one zoo, tested on another"
            score = str(across["score"].iloc[0])
            found[f"{name}-across"] = method_scores(across.assign(panel=panel), score, title)
    if not differences.empty:
        main = differences[
            _is_main(differences)
            & (differences["labels"] == "own")
            & (differences["trained_on"] == differences["zoo"])
        ]
        best = best_rivals(main)
        for (reading, method), rows in best.groupby(["reading", "method"], sort=False):
            title = f"{method} minus the best rival, {READINGS[str(reading)]}"
            key = f"advantage-{reading}" + ("" if method == ours else f"-{method}")
            found[key] = advantage_map(rows.assign(row=_row_names(rows)), title)
    curves = findings.label_efficiency
    if not curves.empty:
        trained = curves[curves["mode"] != "untrained"]
        for which, rows in trained.groupby("property", sort=False):
            name = str(which)
            score = (
                "kendall_tau" if rows.get("kendall_tau", pd.Series()).notna().any() else "accuracy"
            )
            title = f"Labels needed: {name.replace('_', ' ')}"
            own = rows[rows["trained_on"] == rows["zoo"]]
            if not own.empty:
                found[f"labels-{name}"] = label_curves(
                    own.assign(panel=own["zoo"]), score, title, first=[ours]
                )
    return found


def describe(
    findings: Findings, summary: pd.DataFrame, differences: pd.DataFrame, ours: str
) -> str:
    """The report in Markdown: a table a zoo and division, then differences."""
    parts = ["# Methods side by side\n"]
    alone = summary[(summary["trained_on"] == summary["zoo"]) & (summary["labels"] == "own")]
    for (zoo, split), rows in alone.groupby(["zoo", "split"], sort=False):
        parts.append(f"## {zoo}, {_split_title(str(split))}\n")
        parts.append(
            "Means over seeds ± half the 95 % interval (models and seeds resampled); Kendall τ "
            "of numbers, accuracy of categories.\n"
        )
        parts.append(markdown(_pivot(rows)) + "\n")
    transferred = summary[summary["trained_on"] != summary["zoo"]]
    for (source, zoo, split, labels), rows in transferred.groupby(
        ["trained_on", "zoo", "split", "labels"], sort=False
    ):
        title = _source_title(str(source))
        whose = "its own labels" if labels == "own" else f"labels of {title}"
        parts.append(
            f"## Trained on {title}, judged on {zoo} with {whose}, {_split_title(str(split))}\n"
        )
        if title != source:
            parts.append(f"The zoos: {str(source).replace(TOGETHER, ', ')}.\n")
        parts.append(markdown(_pivot(rows)) + "\n")
    if not differences.empty:
        parts.append(f"## {ours} minus each rival\n")
        parts.append(
            "The best rival and the floors s(W), paired by network; 95 % intervals over models "
            "and seeds. differences.csv has all rivals and scores.\n"
        )
        parts.append(markdown(_differences(differences)) + "\n")
    joint = joint_against_alone(findings)
    if not joint.empty:
        joint = joint[_is_main(joint)]
        parts.append("## One model for many zoos minus one for each\n")
        columns = ["zoo", "split", "label", "property", "ours", "theirs"]
        shown = joint[columns].rename(columns={"ours": "joint", "theirs": "alone"})
        parts.append(markdown(shown.assign(difference=_interval(joint))) + "\n")
    return "\n".join(parts)


def _pivot(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a method, a column a property; R2 beside τ for the headline."""
    order = {mode: i for i, mode in enumerate(_ORDER)}
    chosen = _is_main(rows) | ((rows["score"] == "r2") & rows["property"].isin(HEADLINES))
    kept = rows[chosen]
    names = {"r2": " R²", "kendall_tau": "", "accuracy": ""}
    cells = pd.DataFrame(
        {
            "method": kept["label"] + kept["mode"].map({"features": ", linear"}).fillna(""),
            "order": kept["mode"].map(order),
            "column": kept["property"] + kept["score"].map(names),
            "text": [_cell(row) for row in kept.to_dict("records")],
        }
    )
    table = cells.pivot_table(
        index=["order", "method"], columns="column", values="text", aggfunc="first", sort=False
    )
    table = table.sort_index(level="order", sort_remaining=False).reset_index("order", drop=True)
    return table.fillna("–").reset_index().rename_axis(columns=None)


def _differences(differences: pd.DataFrame) -> pd.DataFrame:
    rows = differences[_is_main(differences) & (differences["labels"] == "own")]
    rows = rows[rows["trained_on"] == rows["zoo"]]
    keys = [*QUESTION, "method", "reading"]
    best = best_rivals(rows).set_index(keys)["rival"]
    is_best = rows.set_index(keys)["rival"] == best.reindex(pd.MultiIndex.from_frame(rows[keys]))
    is_floor = rows["rival"].str.startswith("statistics") & (rows["rival_mode"] == "features")
    alone = rows[is_best.to_numpy() | is_floor]
    table = alone[["zoo", "split", "method", "reading", "property", "rival", "ours", "theirs"]]
    return table.assign(difference=_interval(alone))


def _interval(rows: pd.DataFrame) -> list[str]:
    return [
        f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        for row in rows.to_dict("records")
    ]


def _cell(row: dict[Any, Any]) -> str:
    half = (row["high"] - row["low"]) / 2
    return f"{row['mean']:.3f} ± {half:.3f}" if half == half else f"{row['mean']:.3f}"


def _is_main(table: pd.DataFrame) -> pd.Series:
    return table["score"].map(MAIN).fillna(False).astype(bool)


def _row_names(rows: pd.DataFrame) -> pd.Series:
    split = rows["split"].map(lambda name: "" if name == ZOO else f", {_split_title(name)}")
    return rows["zoo"] + split


def _source_title(trained_on: str) -> str:
    """A zoo's name, or how many there are where one model learned from several."""
    num = trained_on.count(TOGETHER) + 1
    return trained_on if num == 1 else f"{num} zoos together"


def _split_title(name: str) -> str:
    kind, _, what = name.partition(":")
    match kind:
        case "unseen":
            return f"unseen {what.replace('_', ' ').replace('=', ' ')}"
        case "models":
            return f"{what} models to learn from"
        case "labels":
            return f"{what} labelled networks"
        case _:
            return "the zoo's split"
