"""Floors of a comparison: what needs no training of an encoder.

Layer statistics s(W), of the weights as they are and of asinh weights, the weights
themselves, and what the networks answer to unlabelled queries (`graphrep.answers`), alone and
beside s(asinh W); read by a linear probe, or by gradient boosting that is given the property.

Sources: s(W) and boosting, Unterthiner et al. 2020, arXiv:2002.11448; W and s(W) as
floors of probes, arXiv:2110.15288. Here the moments of biases stand beside those of the
weights of a layer, and as many layers are kept apart as the deepest network has.

Letters in shapes: N networks of a zoo in its order, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..answers import AnswerReader
from ..architecture import Architecture
from ..encoders import Batch
from ..encoders.moments import layer_moments
from ..scaling import Scaling
from ..training.answers import know_modules, learn_answers
from ..zoo import Zoo
from .properties import SPLITS, Property, read_columns
from .scores import DEFAULT, Bootstrap, Score, score_categories, score_numbers

if TYPE_CHECKING:
    import pandas as pd

FLOORS = ("statistics_plain", "statistics_asinh", "raw", "answers", "statistics_answers")
ANSWERING = ("answers", "statistics_answers")  # those that run the networks
NUM_QUERIES = 64
PART = 1024  # networks read at a time
LONGEST = 8192  # weights beyond are left out of raw features
GRID: dict[str, tuple[float, ...]] = {
    "learning_rate": (0.1, 0.03),
    "max_leaf_nodes": (8, 32),
    "l2_regularization": (0.0, 10.0),
}
MANY = 500  # features from where on a part of the grid has to do
SMALL_GRID: dict[str, tuple[float, ...]] = {
    "learning_rate": (0.1,),
    "max_leaf_nodes": (8, 32),
    "max_features": (0.3,),
}


@dataclass(frozen=True, eq=False)
class Floor:
    """Features of one kind, the same for all networks of a comparison."""

    kind: str  # one of FLOORS
    num_slots: int  # depths kept apart in statistics
    length: int  # of raw weights; shorter networks are padded with zeros
    scaling: Scaling
    reader: AnswerReader | None = None  # of floors that run the networks

    @classmethod
    def fit(cls, kind: str, zoos: Sequence[Zoo], num_slots: int) -> Floor:
        """Lengths and scales of the training splits of some zoos."""
        if kind not in FLOORS:
            raise ValueError(f"no features '{kind}'; there are {', '.join(FLOORS)}")
        groups = [group for zoo in zoos for group in zoo.split("train").groups()]
        scaling = Scaling().fit((group.architecture, group.theta) for group in groups)
        longest = max(group.architecture.num_parameters for group in groups)
        reader = AnswerReader(NUM_QUERIES) if kind in ANSWERING else None
        learn_answers(reader, zoos)
        return cls(kind, num_slots, min(longest, LONGEST), scaling, reader)

    def read(self, zoo: Zoo) -> np.ndarray:
        """Features of all networks of a zoo, float32 [N, D]."""
        found: np.ndarray | None = None
        know_modules(self.reader, zoo)
        for group in zoo.groups():
            for rows in group.rows.split(PART):
                theta = group.theta[_places(group.rows, rows)].float()
                part = self._features(theta, group.architecture).numpy()
                if found is None:
                    found = np.zeros((len(zoo), part.shape[1]), np.float32)
                found[rows.numpy()] = part
        assert found is not None, "a zoo without networks cannot be opened"
        return found

    def _features(self, theta: Tensor, architecture: Architecture) -> Tensor:
        match self.kind:
            case "statistics_asinh":
                return self._moments(self.scaling(theta, architecture), architecture)
            case "statistics_plain":
                return self._moments(_finite(theta), architecture)
            case "raw":
                seen = _finite(theta)[:, : self.length]
                return torch.nn.functional.pad(seen, (0, self.length - seen.shape[1]))
        assert self.reader is not None
        answers = self.reader.read(theta, architecture)
        if self.kind == "answers":
            return answers
        return torch.cat(
            [self._moments(self.scaling(theta, architecture), architecture), answers], 1
        )

    def _moments(self, values: Tensor, architecture: Architecture) -> Tensor:
        return layer_moments(Batch(architecture, values, token_size=1), self.num_slots)


def boost(
    features: Mapping[str, np.ndarray],
    tables: Mapping[str, pd.DataFrame],
    wanted: Property,
    bootstrap: Bootstrap = DEFAULT,
) -> Score:
    """Gradient boosting on one property: settings and number of trees by the validation split.

    Args:
        features: [N, D] a split.
        tables: A table of properties a split.

    Raises:
        ValueError: the property is missing or constant over the training split.
    """
    columns = read_columns(tables, wanted)
    known = {split: features[split][columns.known[split]] for split in SPLITS}
    checked, checks = known["validation"], columns.values["validation"]
    if not columns.number:  # a class that training lacks cannot be learned, nor checked
        there = np.isin(checks, columns.values["train"])
        checked, checks = checked[there], checks[there]
    best, lowest = None, float("inf")
    grid = GRID if known["train"].shape[1] < MANY else SMALL_GRID
    for values in product(*grid.values()):
        model = _booster(columns.number, dict(zip(grid, values, strict=True)))
        model.fit(
            known["train"],
            columns.values["train"],
            X_val=checked,
            y_val=checks,
        )
        loss = -float(np.max(model.validation_score_))
        if loss < lowest:
            best, lowest = model, loss
    assert best is not None, "every loss is infinite"
    predicted, true = best.predict(known["test"]), columns.values["test"]
    if columns.number:
        return score_numbers(wanted.label, true, predicted, columns.models, bootstrap=bootstrap)
    return score_categories(
        wanted.label,
        true,
        predicted,
        columns.models,
        most_frequent=columns.most_frequent,
        bootstrap=bootstrap,
    )


def _booster(number: bool, settings: Mapping[str, float]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if number else HistGradientBoostingClassifier
    return kind(**settings, max_iter=600, early_stopping=True, n_iter_no_change=15, random_state=0)


def _places(rows: Tensor, part: Tensor) -> Tensor:
    """Where a part of a group's rows, which are in order, stands in it."""
    return torch.searchsorted(rows, part)


def _finite(theta: Tensor) -> Tensor:
    """Networks that diverged hold numbers that no statistic survives."""
    return torch.nan_to_num(theta, posinf=0.0, neginf=0.0)
