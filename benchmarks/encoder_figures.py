"""What encoder_speed.py was asked to find: published figures, ratios to baselines, tables.

Knows rows; measures nothing.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from encoder_measures import Row

BATCH, WIDE = "32 x 5 k", "1.19 M"
PUBLISHED = {  # forward ms, forward + backward ms, MB of the former; stored, of the peers' facts
    BATCH: {"PNA": (334.0, 559.0, 420.0), "NFN": (57.0, 180.0, 127.0)},
    "5 k": {"PNA": (13.0, None, None), "NFN": (4.0, None, None)},
    "75 k": {"PNA": (110.0, None, None), "NFN": (28.0, None, None)},
    WIDE: {"PNA": (2174.0, None, 2200.0), "NFN": (580.0, None, None)},
}
BASELINES = {"pna": "pna", "PyG": "PyG", "PyG-pairs": "PyG_pairs", "PNA, stored": "stored"}


def stored(subjects: list[str]) -> list[Row]:
    """Figures of the published code, as rows among those that are measured."""
    return [
        {
            "section": "encoder",
            "subject": subject,
            "encoder": f"{name}, stored",
            "tokens": False,
            "backward": backward,
            "cpu_ms": ms,
            **({"peak_mb": peak} if peak and not backward else {}),
        }
        for subject in subjects
        for name, (forward, both, peak) in PUBLISHED[subject].items()
        for backward, ms in ((False, forward), (True, both))
        if ms
    ]


def against_baselines(rows: list[Row]) -> list[Row]:
    """Each row with how many times faster than the baselines it is, and its share of their peak."""
    key = ("section", "subject", "tokens", "backward")
    found = []
    for row in rows:
        for other in rows if row["section"] == "encoder" and "cpu_ms" in row else []:
            name = BASELINES.get(other.get("encoder", ""))
            if name and "cpu_ms" in other and all(row[k] == other.get(k) for k in key):
                row = {**row, f"faster_than_{name}": other["cpu_ms"] / row["cpu_ms"]}
                if "peak_mb" in row and "peak_mb" in other:
                    row[f"peak_of_{name}"] = row["peak_mb"] / other["peak_mb"]
        found.append(row)
    return found


def figures(rows: list[Row]) -> list[Row]:
    """What was asked for, and whether it is met."""

    def row(**about: Any) -> Row:
        fits = [r for r in rows if all(r.get(k) == v for k, v in about.items())]
        return fits[0] if fits else {}

    def of(name: str, section: str = "encoder", **about: Any) -> Any:
        return row(section=section, **about).get(name)

    graph: Row = {"encoder": "graph", "tokens": False}
    forward, both = ({**graph, "subject": BATCH, "backward": b} for b in (False, True))
    wide = {**graph, "subject": WIDE, "backward": False}
    ours: Row = {"section": "reference", "encoder": "token", "precision": "float32"}
    asked = [
        ("graph, 32 x 5 k, forward, ms", of("cpu_ms", **forward), "<=", 20),
        ("graph, 32 x 5 k, forward + backward, ms", of("cpu_ms", **both), "<=", 50),
        ("token, encode, times the stored rate", of("speedup", **ours, backward=False), ">=", 2),
        ("token, both, times the stored rate", of("speedup", **ours, backward=True), ">=", 2),
        ("graph, mixed batch, of its groups", of("of_groups", "mixed", encoder="graph"), "<=", 1.1),
    ]
    for name in BASELINES.values():
        faster, peak = f"faster_than_{name}", f"peak_of_{name}"
        asked += [
            (f"graph, 32 x 5 k, forward, {faster}", of(faster, **forward), ">=", 15),
            (f"graph, 32 x 5 k, forward + backward, {faster}", of(faster, **both), ">=", 10),
            (f"graph, 1.19 M, forward, {faster}", of(faster, **wide), ">=", 60),
            (f"graph, 1.19 M, forward, {peak}", of(peak, **wide), "<=", 1 / 30),
        ]
    return [
        {
            "figure": name,
            "found": found,
            "asked": f"{sign} {limit:.3g}",
            "met": found <= limit if sign == "<=" else found >= limit,
        }
        for name, found, sign, limit in asked
        if found is not None
    ]


def tables(found: Row) -> str:
    """Sections as text."""
    columns = (
        "subject", "encoder", "precision", "tokens", "backward", "cpu_ms", "least_ms", "most_ms",
        "wall_ms", "peak_mb", "faster_than_pna", "peak_of_pna", "faster_than_PyG", "peak_of_PyG",
        "faster_than_PyG_pairs", "peak_of_PyG_pairs",
        "faster_than_stored", "peak_of_stored", "tokens_s", "stored_tokens_s", "speedup",
        "groups_ms", "of_groups", "gflop", "moved_mb", "floor_ms", "of_floor", "failed",
    )  # fmt: skip
    table = pd.DataFrame(found["rows"])
    parts = [found["machine"]["about"]]
    parts += [f"{k} {v:.0f}" for k, v in found["machine"].items() if k != "about"]
    for section, rows in table.groupby("section", sort=False):
        kept = [c for c in columns if c in rows and rows[c].notna().any()]
        parts.append(f"\n{section}\n{rows[kept].to_string(index=False, float_format='%.3g')}")
    if found["figures"]:
        asked = pd.DataFrame(found["figures"])
        parts.append(f"\nasked\n{asked.to_string(index=False, float_format='%.3g')}")
    return "\n".join(parts)
