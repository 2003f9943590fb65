"""Tables of what graph_conversion.py measured: medians, spread, targets, peers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from graphrep.files import write_whole

TARGETS = {  # wall seconds of trace and check, from the issue
    "resnet-18": 2.0,
    "gpt2": 15.0,
    "llama-7b (meta)": 60.0,
}
STORED = (  # graph_encoders.md: peers, one thread, torch 2.13; not measured here
    ("neural-graphs (stored)", "graphs of 32 small CNNs, an edge a channel pair", "10 to 26 ms"),
    ("GMN, ScaleGMN, NFN, DWSNets", "building graphs or lists of weights", "no figure stored"),
    ("any of them", "tracing an arbitrary module", "not done by any"),
)


def report(rows: pd.DataFrame, machine: str, output: Path) -> None:
    """A CSV a section and the tables, of what there is so far."""
    for section, found in rows.groupby("section", sort=False):
        path = output / f"{section}.csv"
        found = found.dropna(axis=1, how="all")
        write_whole(path, partial(found.to_csv, index=False))
    text = [f"Machine: {machine}"]
    for section, found in rows.groupby("section", sort=False):
        match section:
            case "trace":
                text += _trace_table(found)
            case "further":
                text += _further_table(found)
            case "views":
                text += _view_table(found)
    write_whole(output / "graph_conversion.md", lambda path: path.write_text("\n".join(text)))


def _table(header: str, lines: list[list[str]]) -> list[str]:
    columns = header.split(" | ")
    rows = [columns, ["---"] * len(columns), *lines]
    return ["", *("| " + " | ".join(row) + " |" for row in rows), ""]


def _seconds(found: pd.DataFrame) -> str:
    """Median, spread and processor time, in the unit that suits them."""
    if found.empty or found["wall_s"].isna().all():
        return "-"
    middle = found["wall_s"].median()
    scale, unit = next((s, u) for s, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if middle * s >= 0.1)
    low, high = found["wall_s"].min() * scale, found["wall_s"].max() * scale
    cpu = found["cpu_s"].median() * scale
    return f"{middle * scale:.3g} [{low:.3g}, {high:.3g}] {unit}, cpu {cpu:.3g}"


def _trace_table(rows: pd.DataFrame) -> list[str]:
    lines = []
    for name, found in rows.groupby("subject", sort=False):
        parts = {q: found[found["quantity"] == q] for q in found["quantity"].unique()}
        none = found.iloc[:0]
        cells = [_seconds(parts.get(q, none)) for q in ("trace", "verify", "copy", "again")]
        peaks = [
            f"{parts[q]['peak_mb'].median():,.0f}" if q in parts else "-"
            for q in ("trace", "verify", "to_graph")
        ]
        notes = list(found["note"].dropna().unique()) if "note" in found else []
        wanted = TARGETS.get(str(name), 0.0)
        for part in ("trace", "to_graph") if wanted else ():
            spent = parts[part]["wall_s"].median() if part in parts else float("inf")
            notes.append(f"{part} under {wanted:g} s {'met' if spent < wanted else 'MISSED'}")
        peaks.append("; ".join(note for note in notes if note) or "-")
        size = found["parameters"].max() / 1e6 if "parameters" in found else float("nan")
        lines.append([str(name), f"{size:,.4g}", *cells, *peaks])
    header = (
        "design | million | trace | verify | copy | all again, same process | "
        "MB trace | MB verify | MB all | target or note"
    )
    return ["", "Peak memory is above the weights, which `copy` holds a second time.",
            *_table(header, lines)]  # fmt: skip


def _further_table(rows: pd.DataFrame) -> list[str]:
    lines = []
    for subject, found in rows.groupby("subject", sort=False):
        if "round" not in found or found["round"].isna().all():
            lines.append([str(subject), *["-"] * 8, str(found["note"].iloc[0])])
            continue
        wall = found.pivot(index="round", columns="quantity", values="wall_s")
        ways = ("bytes", "bytes into warm memory", "library", "read_checkpoint", "from_state_dict")
        cells = [_seconds(found[found["quantity"] == way]) for way in (*ways, "whole")]
        ratios = [
            wall["whole"] / wall["bytes"],
            wall["whole"] / wall["library"],
            wall["from_state_dict"] / wall["bytes"],
        ]
        texts = [f"{r.median():.2f} [{r.min():.2f}, {r.max():.2f}]" for r in ratios]
        lines.append([f"{subject}, {found['bytes'].iloc[0]:,.0f} bytes", *cells, *texts])
    header = (
        "file | bytes | into warm memory | torch.load or load_file | read_checkpoint | "
        "from_state_dict | whole | whole / bytes | whole / library | from_state_dict / bytes"
    )
    return _table(header, lines)


def _view_table(rows: pd.DataFrame) -> list[str]:
    lines = []
    found = rows.dropna(subset=["wall_s"]) if "wall_s" in rows else rows.iloc[:0]
    for (subject, quantity), part in found.groupby(["subject", "quantity"], sort=False):
        way = str(quantity)
        edges, middle = part["parameters"].iloc[0], part["wall_s"].median()
        edges *= 32 if way.startswith("32") else 1
        floor = part["floor_s"].iloc[0]
        cells = [f"{floor * 1e3:.3g}", f"{middle / floor:.3g}"] if floor else ["-", "-"]
        lines.append([str(subject), way, _seconds(part), f"{edges / middle / 1e6:.3g} M", *cells])
    ours = found[(found["subject"] == "small cnn") & found["quantity"].str.startswith("32")]
    peers = [list(row) for row in STORED]
    peers.append(
        ["graphrep (this run)", "graphs of 32 small CNNs, an edge a number", _seconds(ours)]
    )
    notes = [str(note) for note in rows["note"].dropna()] if "note" in rows else []
    return [
        *notes,
        *_table("network | view | time a call | edges a second | floor, ms | times floor", lines),
        *_table("who | what | time", peers),
    ]
