"""What the cells of a comparison found, as tables: results, means over seeds, differences.

Differences are of the same held-out networks, resample by resample, so that they are
told apart from the networks' own spread. Knows the files of cells; knows no training.

Letters in shapes: R resamples, S seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .divisions import TOGETHER
from .methods import ASKING, PROBED, SUPERVISED
from .scores import KINDS, interval, mean_over_seeds

QUESTION = ["trained_on", "zoo", "split", "labels", "property", "score"]  # one that methods answer
ANSWER = ["method", "mode", "label"]
TOLD = ("num_train", "num_steps")  # of cells that no table tells apart
COSTS = ("num_parameters", "embedding_dim", "num_steps", "train_seconds", "best_step")


@dataclass(frozen=True, eq=False)
class Findings:
    """`results`: a row a zoo, method, mode, seed, split, property and score; `resampled` [R]
    of each row; `label_efficiency`: a row a number of labels and draw."""

    results: pd.DataFrame
    resampled: list[np.ndarray]
    label_efficiency: pd.DataFrame


def read_findings(folders: Sequence[Path]) -> Findings:
    """All that is judged in the folders of some cells.

    Raises:
        ValueError: nothing is, or no table tells two cells apart.
    """
    rows: list[dict[str, Any]] = []
    resampled: list[np.ndarray] = []
    curves: list[dict[str, Any]] = []
    for folder in folders:
        if not (folder / "cell.json").exists():
            continue
        facts = json.loads((folder / "cell.json").read_text())
        for place in sorted(folder.glob("on-*.json")):
            found = json.loads(place.read_text())
            common = {
                "trained_on": TOGETHER.join(facts["zoos"]),
                "zoo": found["zoo"],
                "split": facts["split"],
                **{name: facts[name] for name in ("method", "mode", "label", "seed")},
            }
            costs = {name: facts.get(name) for name in ("num_train", *COSTS)}
            costs |= {name: found[name] for name in ("num_networks", "read_seconds")}
            with np.load(place.with_suffix(".npz")) as arrays:
                for score in found["scores"]:
                    for kind in KINDS:
                        if score[kind] is None:
                            continue
                        key = f"{score['labels']}/{score['property']}/{kind}"
                        resampled.append(arrays[key].astype(np.float64))
                        rows.append({**common, **_row(score, kind), **costs})
            curves += [{**common, **row} for row in found["label_efficiency"]]
    if not rows:
        raise ValueError(f"none of {len(folders)} cells has results yet")
    results = pd.DataFrame(rows)
    _check_told_apart(results)
    return Findings(results, resampled, pd.DataFrame(curves))


def _check_told_apart(results: pd.DataFrame) -> None:
    """A seed counts once: runs of other lengths or settings would pass for more seeds."""
    twice = results[results.duplicated([*QUESTION, *ANSWER, "seed"], keep=False)]
    if len(twice):
        first = twice.iloc[0]
        told = {name: sorted(set(twice[name].dropna().astype(int))) for name in TOLD}
        raise ValueError(
            f"two cells are '{first['label']}', seed {first['seed']}, trained on "
            f"{first['trained_on']}, with {told}: they differ in settings or in the zoo's "
            "networks; a report takes one of them. Give the other a name by --variant, or an "
            "--output of its own"
        )


def summarise(findings: Findings) -> pd.DataFrame:
    """Means over seeds: columns of a question and an answer, num_seeds, mean, deviation (over
    seeds, NaN of one), low and high (95 %, seeds and models resampled), train_seconds."""
    rows = []
    for keys, own in findings.results.groupby([*QUESTION, *ANSWER], sort=False, dropna=False):
        means = mean_over_seeds(_stacked(findings, own))
        low, high = interval(means)
        rows.append(
            {
                **dict(zip([*QUESTION, *ANSWER], keys, strict=True)),
                "num_seeds": len(own),
                "mean": own["value"].mean(),
                "deviation": own["value"].std(),
                "low": low,
                "high": high,
                "majority": own["majority"].mean(),
                "train_seconds": own["train_seconds"].astype(float).mean(),
            }
        )
    return pd.DataFrame(rows)


def compare(findings: Findings, ours: str = "graph") -> pd.DataFrame:
    """One method and its variants (`graph`, `graph_responses`) minus each rival, on every
    question that both answer.

    Returns:
        Columns of a question; `method`, which of ours; `reading` (probe: nobody saw the
        property in training, or supervised: rivals may have, floors with a linear probe among
        them); `rival` and `rival_mode`, `ours`, `theirs`, `difference`, its `low` and `high`
        (95 %).
    """
    rows: list[dict[str, Any]] = []
    for keys, group in findings.results.groupby(QUESTION, sort=False, dropna=False):
        question = dict(zip(QUESTION, keys, strict=True))
        for reading, mode, rivals in (
            ("probe", "self_supervised", PROBED),
            ("supervised", "end_to_end", (*SUPERVISED, "features")),
        ):
            own = group["method"].map(lambda name: name == ours or name.startswith(f"{ours}_"))
            others = group[~own & group["mode"].isin(rivals)]
            for method, mine in group[own & (group["mode"] == mode)].groupby("method", sort=False):
                told = {**question, "method": method, "reading": reading}
                for (label, how), theirs in others.groupby(["label", "mode"], sort=False):
                    found = _difference(findings, mine, theirs)
                    rows.append({**told, "rival": label, "rival_mode": how, **found})
    return pd.DataFrame(rows)


def best_rivals(differences: pd.DataFrame) -> pd.DataFrame:
    """Of each question, method of ours and reading the row of the best rival, no untrained one
    and none whose score is not defined (a constant prediction has no rank correlation).

    Methods that read weights alone are held against each other; those that run the networks as
    well, which say more of accuracy whatever they are, against all.
    """
    if differences.empty:
        return differences
    differences = differences[differences["rival_mode"] != "untrained"]
    differences = differences[differences["theirs"].notna()]
    base = differences["rival"].str.split(",").str[0]
    fair = differences["method"].isin(ASKING) | ~base.isin(ASKING)
    differences = differences[fair]
    best = differences.groupby([*QUESTION, "method", "reading"], sort=False)["theirs"].idxmax()
    return differences.loc[best].reset_index(drop=True)


def joint_against_alone(findings: Findings) -> pd.DataFrame:
    """Models of many zoos minus the same method trained on one of them, on that zoo."""
    results = findings.results
    rows = []
    many = results[results["trained_on"].str.contains(TOGETHER, regex=False)]
    keys = ["trained_on", *QUESTION[1:], *ANSWER]
    for values, group in many.groupby(keys, sort=False, dropna=False):
        question = dict(zip(keys, values, strict=True))
        same = results["trained_on"] == question["zoo"]
        for name in keys[1:]:
            same &= results[name] == question[name]
        if same.any():
            rows.append({**question, **_difference(findings, group, results[same])})
    return pd.DataFrame(rows)


def _difference(findings: Findings, mine: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """Seeds of each side are drawn apart, models together."""
    one = mean_over_seeds(_stacked(findings, mine), seed=0)
    other = mean_over_seeds(_stacked(findings, theirs), seed=1)
    low, high = interval(one - other)
    return {
        "ours": mine["value"].mean(),
        "theirs": theirs["value"].mean(),
        "difference": mine["value"].mean() - theirs["value"].mean(),
        "low": low,
        "high": high,
        "num_seeds": len(mine),
    }


def _stacked(findings: Findings, rows: pd.DataFrame) -> np.ndarray:
    """Resampled scores [S, R] of some rows of the results."""
    return np.stack([findings.resampled[i] for i in rows.index])


def _row(score: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "property": score["property"],
        "labels": score["labels"],
        "score": kind,
        "value": score[kind],
        "low": score[f"{kind}_low"],
        "high": score[f"{kind}_high"],
        "majority": score["majority"],
        "penalty": score["penalty"],
    }
