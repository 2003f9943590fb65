"""Linear probes: what a representation says of its networks, from labels of few kinds.

Ridge for numbers, logistic regression for categories; the penalty is chosen on
the validation split, scores are of the test split (`scores.py`).

Source: SANE, arXiv:2406.09997 (17 penalties from 1e3 to 1e-5, chosen on validation R2).
Here features are standardised and clipped to their range in training, and penalties
reach from 1e7 to 1e-5.

Letters in shapes: n networks to fit, m to predict, D features, A penalties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .properties import SPLITS, Property, read_columns
from .scores import (
    DEFAULT,
    Bootstrap,
    Score as Score,
    kendall_tau as kendall_tau,
    r2 as r2,
    score_categories,
    score_numbers,
)

if TYPE_CHECKING:
    import pandas as pd

PENALTIES = np.logspace(7, -5, 25)
LOGISTIC_PENALTIES = np.logspace(4, -2, 7)


class LinearProbe:
    """Probes of one embedding; what properties share is computed once."""

    def __init__(
        self, embedding: Mapping[str, np.ndarray], properties: Mapping[str, pd.DataFrame]
    ) -> None:
        """Fit on `train`, choose the penalty on `validation`, score on `test`.

        Args:
            embedding: [N, D] a split.
            properties: A table a split, rows as the embedding's; `model` groups the bootstrap.
        """
        self._embedding = {split: np.asarray(embedding[split], np.float64) for split in SPLITS}
        self._tables = properties
        self._features: dict[tuple[bytes, ...], Features] = {}

    def score(self, wanted: Property, bootstrap: Bootstrap = DEFAULT) -> Score:
        """How well the embedding says a property; rows where it is not known are left out.

        Raises:
            ValueError: the property is missing or constant over the training split.
        """
        columns = read_columns(self._tables, wanted)
        features = self._features_of(columns.known)
        fit = _fit_ridge if columns.number else _fit_logistic
        predicted, penalty = fit(features, columns.values)
        true, models, label = columns.values["test"], columns.models, wanted.label
        if columns.number:
            return score_numbers(
                label, true, predicted, models, bootstrap=bootstrap, penalty=penalty
            )
        return score_categories(
            label,
            true,
            predicted,
            models,
            most_frequent=columns.most_frequent,
            bootstrap=bootstrap,
            penalty=penalty,
        )

    def _features_of(self, known: Mapping[str, np.ndarray]) -> Features:
        """Properties that are known of the same networks share their features."""
        key = tuple(known[split].tobytes() for split in SPLITS)
        if key not in self._features:
            self._features[key] = Features.prepare(
                {split: self._embedding[split][known[split]] for split in SPLITS}
            )
        return self._features[key]


def probe(
    embedding: Mapping[str, np.ndarray],
    properties: Mapping[str, pd.DataFrame],
    name: str,
    *,
    log: bool = False,
    category: bool = False,
    seed: int = 0,
) -> Score:
    """One property of `LinearProbe`.

    Args:
        name: The column to predict; numbers get ridge, anything else logistic regression.
        log: Predict the logarithm (base 10).
        category: Numbers name classes, such as an image's label.
    """
    wanted = Property(name=name, log=log, category=category)
    return LinearProbe(embedding, properties).score(wanted, Bootstrap(seed=seed))


@dataclass(frozen=True, eq=False)
class Features:
    """Prepared features [n, D] a split, centred over `train`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def prepare(cls, embedding: Mapping[str, np.ndarray]) -> Features:
        """Fit the preparation on `train` and apply it to all."""
        from sklearn.pipeline import make_pipeline

        if (np.ptp(embedding["train"], axis=0) == 0).all():  # nothing in it tells networks apart
            return cls(*(np.zeros((len(embedding[split]), 1)) for split in SPLITS))
        pipeline = make_pipeline(*preparation()).fit(embedding["train"])
        return cls(*(pipeline.transform(embedding[split]) for split in SPLITS))

    @cached_property
    def ridges(self) -> Ridges:
        return Ridges(self.train)


class Ridges:
    """Ridge regressions of all penalties at once, from one decomposition of the features.

    scikit-learn solves a system a penalty and target; with 25 penalties, a thousand features
    and ten properties that is most of a comparison's time. Equal to it up to rounding.
    """

    def __init__(self, features: np.ndarray) -> None:
        """Decompose centred features [n, D]."""
        from scipy.linalg import eigh

        self._features = features
        num, dim = features.shape
        self._wide = dim > num
        gram = features @ features.T if self._wide else features.T @ features
        values, self._vectors = eigh(gram)
        self._values = values.clip(min=0)

    def coefficients(self, target: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Of a centred target [n], a column a penalty: [D, A]."""
        side = target if self._wide else self._features.T @ target
        turned = (self._vectors.T @ side)[:, None] / (self._values[:, None] + penalties)
        found: np.ndarray = self._vectors @ turned
        return self._features.T @ found if self._wide else found


def preparation() -> tuple[Any, ...]:
    """Columns that never change say nothing; the rest within the range of training, on one scale.

    Without the clipping a few extreme held-out networks, far outside of what the linear
    map has seen, decide R2 (benchmarks/LOG.md); it is the same for every embedding.
    """
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    return VarianceThreshold(), MinMaxScaler(clip=True), StandardScaler()


def _fit_ridge(features: Features, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Predictions for `test` [m] of the penalty that does best on validation; of equals the
    strongest."""
    mean = columns["train"].mean()
    found = features.ridges.coefficients(columns["train"] - mean, PENALTIES)
    errors = features.validation @ found + mean - columns["validation"][:, None]
    best = int(np.square(errors).mean(0).argmin())
    return features.test @ found[:, best] + mean, float(PENALTIES[best])


def _fit_logistic(
    features: Features, columns: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    best, highest, chosen = None, -1.0, 0.0
    for penalty in LOGISTIC_PENALTIES:
        # 300 iterations approximate well; a strict tolerance would cost minutes, not accuracy
        logistic = LogisticRegression(C=1 / penalty, max_iter=300, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            logistic.fit(features.train, columns["train"])
        right = float(logistic.score(features.validation, columns["validation"]))
        if right > highest:
            best, highest, chosen = logistic, right, float(penalty)
    assert best is not None
    return best.predict(features.test), chosen
