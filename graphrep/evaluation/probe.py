"""Linear probes: what a representation says of its networks, from labels of few kinds.

Ridge for numbers, logistic regression for categories; the penalty is chosen on
the validation split, scores are of the test split, and intervals resample whole
models, because checkpoints of one trajectory are not independent.

Source: SANE, arXiv:2406.09997 (17 penalties from 1e3 to 1e-5, chosen on validation R2).
Here features are standardised and clipped to their range in training, and penalties
reach from 1e5 to 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PENALTIES = np.logspace(5, -5, 21)
NUM_RESAMPLES = 500


@dataclass(frozen=True)
class Score:
    """Scores of one property on the test split, with 95 % bootstrap intervals.

    Numbers have r2 and kendall_tau, categories have accuracy and, to judge it
    by, the share of the most frequent category.
    """

    property: str
    r2: float | None = None
    r2_interval: tuple[float, float] | None = None
    kendall_tau: float | None = None
    kendall_tau_interval: tuple[float, float] | None = None
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    majority: float | None = None
    penalty: float = 0.0
    true: np.ndarray | None = None
    predicted: np.ndarray | None = None


def probe(
    embedding: Mapping[str, np.ndarray],
    properties: Mapping[str, pd.DataFrame],
    name: str,
    *,
    log: bool = False,
    category: bool = False,
    seed: int = 0,
) -> Score:
    """Fit on `train`, choose the penalty on `validation`, score on `test`.

    Args:
        embedding: [N, D] a split.
        properties: A table a split, rows as the embedding's; `model` groups the bootstrap.
        name: The column to predict; numbers get ridge, anything else logistic regression.
            Rows where it is missing, or its logarithm is not finite, are left out.
        log: Predict the logarithm (base 10).
        category: Numbers name classes, such as an image's label.

    Raises:
        ValueError: the property is missing or constant over the training split.
    """
    columns, there = {}, {}
    for split in ("train", "validation", "test"):
        if name not in properties[split]:
            raise ValueError(
                f"no property '{name}'; there are {sorted(map(str, properties[split]))}"
            )
        column = properties[split][name]
        numeric = column.dtype.kind in "fiu" and not category
        if numeric:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(column.to_numpy()) if log else column.to_numpy()
            there[split] = np.isfinite(values)
        else:
            values, there[split] = column.astype(str).to_numpy(), column.notna().to_numpy()
        columns[split] = values[there[split]]
        if not len(columns[split]):
            raise ValueError(f"property '{name}' has no value in the {split} split")
    if len(np.unique(columns["train"])) < 2:
        raise ValueError(f"property '{name}' is constant over the training split")
    embedding = {split: np.asarray(e, np.float64)[there[split]] for split, e in embedding.items()}
    fit = _fit_ridge if numeric else _fit_logistic
    predicted, penalty = fit(embedding, columns)
    true = columns["test"]
    models = properties["test"]["model"].to_numpy()[there["test"]]
    label = f"log_{name}" if log else name
    if not numeric:
        correct = (predicted == true).astype(float)
        return Score(
            label,
            accuracy=float(correct.mean()),
            accuracy_interval=_interval(models, lambda rows: correct[rows].mean(), seed),
            majority=float((true == _majority(columns["train"])).mean()),
            penalty=penalty,
            true=true,
            predicted=predicted,
        )
    return Score(
        label,
        r2=r2(true, predicted),
        r2_interval=_interval(models, lambda rows: r2(true[rows], predicted[rows]), seed),
        kendall_tau=kendall_tau(true, predicted),
        kendall_tau_interval=_interval(
            models, lambda rows: kendall_tau(true[rows], predicted[rows]), seed
        ),
        penalty=penalty,
        true=true,
        predicted=predicted,
    )


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance explained; NaN for a constant truth."""
    from sklearn.metrics import r2_score

    if len(true) < 2 or np.ptp(true) == 0:
        return float("nan")
    return float(r2_score(true, predicted))


def kendall_tau(true: np.ndarray, predicted: np.ndarray) -> float:
    """Rank agreement, tau-b; NaN where one side is constant."""
    from scipy.stats import kendalltau

    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(kendalltau(true, predicted).statistic)


def _fit_ridge(
    embedding: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    def fitted(penalty: float) -> Any:
        model = make_pipeline(*_preparation(), Ridge(alpha=penalty))
        return model.fit(embedding["train"], columns["train"])

    return _choose(fitted, embedding, columns, PENALTIES)


def _fit_logistic(
    embedding: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def fitted(penalty: float) -> Any:
        # 300 iterations approximate well; a strict tolerance would cost minutes, not accuracy
        logistic = LogisticRegression(C=1 / penalty, max_iter=300, tol=1e-3)
        return make_pipeline(*_preparation(), logistic).fit(embedding["train"], columns["train"])

    return _choose(fitted, embedding, columns, np.logspace(4, 0, 5))


def _preparation() -> tuple[Any, ...]:
    """Columns that never change say nothing; the rest within the range of training, on one scale.

    Without the clipping a few extreme held-out networks, far outside of what the linear
    map has seen, decide R2 (benchmarks/LOG.md); it is the same for every embedding.
    """
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    return VarianceThreshold(), MinMaxScaler(clip=True), StandardScaler()


def _choose(
    fitted: Any,
    embedding: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    penalties: np.ndarray,
) -> tuple[np.ndarray, float]:
    """The model whose penalty does best on validation, and its predictions on test."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = {p: fitted(p) for p in penalties}
    scores = {p: m.score(embedding["validation"], columns["validation"]) for p, m in models.items()}
    best = max(scores, key=lambda p: (scores[p], p))
    return models[best].predict(embedding["test"]), float(best)


def _interval(models: np.ndarray, score: Any, seed: int) -> tuple[float, float]:
    """95 % interval of a score over resampled models."""
    random = np.random.default_rng(seed)
    names = np.unique(models)
    rows_of = {name: np.flatnonzero(models == name) for name in names}
    values = []
    for _ in range(NUM_RESAMPLES):
        chosen = random.choice(names, len(names))
        values.append(score(np.concatenate([rows_of[name] for name in chosen])))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _majority(values: np.ndarray) -> Any:
    names, counts = np.unique(values, return_counts=True)
    return names[counts.argmax()]
