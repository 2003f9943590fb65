"""What an embedding, features or predictions of a zoo are worth: scores of its properties.

Knows a zoo's table and arrays beside it; does not know how they were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..zoo import Zoo
from .floors import boost
from .label_efficiency import LabelConfig, label_curve
from .probe import LinearProbe
from .properties import SPLITS, Property, read_columns
from .scores import DEFAULT, KINDS, Bootstrap, Score, score_categories, score_numbers

if TYPE_CHECKING:
    import pandas as pd

HEADLINES = ("test_accuracy", "label", "test_return", "psnr")  # the first that a zoo has


@dataclass(eq=False)
class Judgement:
    """Rows for tables, and arrays by name: what the intervals and figures are made from."""

    scores: list[dict[str, Any]] = field(default_factory=list)
    label_efficiency: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, score: Score, labels: str) -> None:
        """Keep a score; `labels` says of which zoo's networks the labels were."""
        row: dict[str, Any] = {"property": score.property, "labels": labels}
        for kind in KINDS:
            row[kind] = getattr(score, kind)
            row[f"{kind}_low"], row[f"{kind}_high"] = getattr(score, f"{kind}_interval") or (
                None,
                None,
            )
        self.scores.append({**row, "majority": score.majority, "penalty": score.penalty})
        for kind, values in score.resampled.items():
            self.arrays[f"{labels}/{score.property}/{kind}"] = values.astype(np.float32)
        for name in ("true", "predicted"):
            values = getattr(score, name)
            kept = values.astype(np.float32) if values.dtype.kind == "f" else values.astype(str)
            self.arrays[f"{labels}/{score.property}/{name}"] = kept


@dataclass(frozen=True, eq=False)
class Readings:
    """A zoo, divided, and what was read off its networks: [N, D] in its order."""

    zoo: Zoo
    values: np.ndarray

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """A table of properties a split."""
        return {split: self.zoo.split(split).properties for split in SPLITS}

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The values of each split's networks."""
        split = self.zoo.properties["split"].to_numpy()
        return {name: self.values[split == name] for name in SPLITS}


def wanted_properties(
    zoos: Sequence[Zoo], wanted: Iterable[Property], held_out: str = ""
) -> list[Property]:
    """Those that every zoo has and that vary over training; not what a division is made by."""
    tables = [zoo.split("train").properties for zoo in zoos]
    return [p for p in wanted if p.name != held_out and all(p.varies(table) for table in tables)]


def headline(properties: Sequence[Property]) -> Property | None:
    """The property that people ask for first."""
    by_name = {p.name: p for p in properties}
    return next((by_name[name] for name in HEADLINES if name in by_name), None)


def judge_embedding(
    target: Readings,
    source: Readings | None,
    properties: Sequence[Property],
    labels: LabelConfig | None,
    bootstrap: Bootstrap = DEFAULT,
) -> Judgement:
    """Linear probes of an embedding on the target's labels.

    Args:
        source: Another zoo: its labels are tried as well, its probe predicting the target.
        labels: Count labels for the headline property; None leaves it out.
    """
    found = Judgement()
    probe = LinearProbe(target.parts, target.tables)
    scores = {wanted: probe.score(wanted, bootstrap) for wanted in properties}
    for score in scores.values():
        found.add(score, "own")
    if source is not None:
        across = LinearProbe(*_across(source, target))
        for wanted in properties:
            found.add(across.score(wanted, bootstrap), "other")
    first = headline(properties)
    if labels is not None and first is not None:
        curve = label_curve(target.parts, target.tables, first, labels, scores[first])
        found.label_efficiency = [{"property": first.label, **row} for row in curve]
    return found


def judge_boosting(
    target: Readings,
    source: Readings | None,
    properties: Sequence[Property],
    bootstrap: Bootstrap = DEFAULT,
) -> Judgement:
    """Gradient boosting on features, given labels as `judge_embedding` is."""
    found = Judgement()
    for wanted in properties:
        found.add(boost(target.parts, target.tables, wanted, bootstrap), "own")
        if source is not None:
            found.add(boost(*_across(source, target), wanted, bootstrap), "other")
    return found


def judge_predictions(
    zoo: Zoo,
    predicted: pd.DataFrame,
    properties: Sequence[Property],
    labels: str,
    bootstrap: Bootstrap = DEFAULT,
) -> Judgement:
    """Predictions in natural units, a column a property, rows in the zoo's order."""
    found = Judgement()
    split = zoo.properties["split"].to_numpy()
    tables = {name: zoo.split(name).properties for name in SPLITS}
    for wanted in properties:
        columns = read_columns(tables, wanted)
        values = predicted[wanted.name].to_numpy()[split == "test"][columns.known["test"]]
        true, models = columns.values["test"], columns.models
        if columns.number:
            if wanted.log:
                values = np.log10(np.maximum(values, np.finfo(np.float32).tiny))
            numbers = values.astype(np.float64)
            score = score_numbers(wanted.label, true, numbers, models, bootstrap=bootstrap)
        else:
            score = score_categories(
                wanted.label,
                true,
                values.astype(str),
                models,
                most_frequent=columns.most_frequent,
                bootstrap=bootstrap,
            )
        found.add(score, labels)
    return found


def _across(
    source: Readings, target: Readings
) -> tuple[Mapping[str, np.ndarray], Mapping[str, pd.DataFrame]]:
    """Fit and choose on the source, score on the target."""
    return (
        {**source.parts, "test": target.parts["test"]},
        {**source.tables, "test": target.tables["test"]},
    )
