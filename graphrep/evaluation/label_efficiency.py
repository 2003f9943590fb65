"""How many labelled networks a probe needs: scores against the number of labels.

Few labels leave none to spare for choosing a penalty, so it is chosen by leaving one
network out of those that have labels (for categories, a third of them), never on the
validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .probe import LOGISTIC_PENALTIES, PENALTIES, preparation
from .properties import Property, read_columns
from .scores import KINDS, Score, kendall_tau, r2

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Which numbers of labels are tried, and how often."""

    counts: tuple[int, ...] = (10, 30, 100, 300)  # and all
    num_draws: int = 10  # of which networks have labels

    def __post_init__(self) -> None:
        if self.num_draws < 1 or any(count < 5 for count in self.counts):
            raise ValueError(
                f"labels.num_draws must be at least 1 and labels.counts 5 or more, got "
                f"{self.num_draws} and {list(self.counts)}"
            )


def label_curve(
    embedding: Mapping[str, np.ndarray],
    tables: Mapping[str, pd.DataFrame],
    wanted: Property,
    config: LabelConfig,
    whole: Score,
) -> list[dict[str, float]]:
    """A row a number of labels and draw: num_labels, draw, and r2 and kendall_tau or accuracy.

    Labelled networks are checkpoints of different models as far as there are so many. The
    same networks are drawn for every embedding. The last row is of all labels: `whole`, the
    score of `LinearProbe`.
    """
    columns = read_columns(tables, wanted)
    known = columns.known["train"]
    features, values = np.asarray(embedding["train"], np.float64)[known], columns.values["train"]
    held_out = np.asarray(embedding["test"], np.float64)[columns.known["test"]]
    models = tables["train"]["model"].to_numpy()[known]
    rows = []
    for count in config.counts:
        if count >= len(values):
            continue
        for draw in range(config.num_draws):
            chosen = draw_labelled(models, count, draw)
            if len(np.unique(values[chosen])) < 2:
                continue
            predicted = _fit(features[chosen], values[chosen], held_out, columns.number)
            found = _scores(columns.values["test"], predicted, columns.number)
            rows.append({"num_labels": count, "draw": draw, **found})
    there = {kind: getattr(whole, kind) for kind in KINDS if getattr(whole, kind) is not None}
    return [*rows, {"num_labels": len(values), "draw": 0, **there}]


def draw_labelled(models: np.ndarray, num: int, draw: int) -> np.ndarray:
    """So many rows at random, of as many models as can be; those of more labels hold these."""
    random = np.random.default_rng(draw)
    order = random.permutation(len(models))
    turn = np.empty(len(models), int)  # how many rows of the same model come before
    seen: dict[object, int] = {}
    for place in order:
        turn[place] = seen.get(models[place], 0)
        seen[models[place]] = turn[place] + 1
    return order[np.argsort(turn[order], kind="stable")][:num]


def _fit(
    features: np.ndarray, values: np.ndarray, held_out: np.ndarray, number: bool
) -> np.ndarray:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    if (np.ptp(features, axis=0) == 0).all():
        return np.full(len(held_out), values.mean() if number else values[0])
    if number:
        model = make_pipeline(*preparation(), RidgeCV(alphas=PENALTIES))
    else:
        middle = LOGISTIC_PENALTIES[len(LOGISTIC_PENALTIES) // 2]
        logistic = LogisticRegression(C=1 / middle, max_iter=300, tol=1e-3)
        model = make_pipeline(*preparation(), logistic)
        least = int(np.unique(values, return_counts=True)[1].min())
        if least > 1:  # a class of one network cannot be left out
            grid = {"logisticregression__C": list(1 / LOGISTIC_PENALTIES)}
            model = GridSearchCV(model, grid, cv=min(3, least))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: np.ndarray = model.fit(features, values).predict(held_out)
    return found


def _scores(true: np.ndarray, predicted: np.ndarray, number: bool) -> dict[str, float]:
    if number:
        return {"r2": r2(true, predicted), "kendall_tau": kendall_tau(true, predicted)}
    return {"accuracy": float((true == predicted).mean())}
