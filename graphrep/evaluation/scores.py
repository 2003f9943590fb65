"""Scores of predictions on held-out networks, with intervals that resample whole models.

Checkpoints of one trajectory are not independent, so intervals resample models. The
models drawn depend on the seed and on the test split alone: scores of two methods on the
same networks can be subtracted draw by draw, which is the paired bootstrap.

Letters in shapes: N networks, R resamples, S seeds of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KINDS = ("r2", "kendall_tau", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn; scores that are to be compared take the same."""

    num: int = 500  # R
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num < 2:
            raise ValueError(f"bootstrap.num must be at least 2, got {self.num}")

    def draw(self, models: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of R samples of whole models: the same for the same models and seed."""
        random = np.random.default_rng(self.seed)
        names, codes = np.unique(models, return_inverse=True)
        rows_of = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        for _ in range(self.num):
            chosen = random.integers(len(names), size=len(names))
            yield np.concatenate([rows_of[i] for i in chosen])


@dataclass(frozen=True)
class Score:
    """Scores of one property on the test split, with 95 % bootstrap intervals.

    Numbers have r2 and kendall_tau, categories have accuracy and, to judge it
    by, the share of the most frequent category. `resampled` holds the [R] values
    that each interval is read off.
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
    resampled: Mapping[str, np.ndarray] = field(default_factory=dict)


DEFAULT = Bootstrap()


def score_numbers(
    name: str,
    true: np.ndarray,
    predicted: np.ndarray,
    models: np.ndarray,
    *,
    bootstrap: Bootstrap = DEFAULT,
    penalty: float = 0.0,
) -> Score:
    """R2 and Kendall's tau of predicted numbers, [N] each; `models` says whose they are."""
    draws = [
        (r2(true[rows], predicted[rows]), kendall_tau(true[rows], predicted[rows]))
        for rows in bootstrap.draw(models)
    ]
    resampled = dict(zip(("r2", "kendall_tau"), np.array(draws).T, strict=True))
    return Score(
        name,
        r2=r2(true, predicted),
        r2_interval=interval(resampled["r2"]),
        kendall_tau=kendall_tau(true, predicted),
        kendall_tau_interval=interval(resampled["kendall_tau"]),
        penalty=penalty,
        true=true,
        predicted=predicted,
        resampled=resampled,
    )


def score_categories(
    name: str,
    true: np.ndarray,
    predicted: np.ndarray,
    models: np.ndarray,
    *,
    most_frequent: Any,
    bootstrap: Bootstrap = DEFAULT,
    penalty: float = 0.0,
) -> Score:
    """Share of the categories [N] that are right; `most_frequent` of training is the floor."""
    right = (predicted == true).astype(float)
    resampled = np.array([right[rows].mean() for rows in bootstrap.draw(models)])
    return Score(
        name,
        accuracy=float(right.mean()),
        accuracy_interval=interval(resampled),
        majority=float((true == most_frequent).mean()),
        penalty=penalty,
        true=true,
        predicted=predicted,
        resampled={"accuracy": resampled},
    )


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled scores [R]; NaN where no resample had a score."""
    if np.isnan(resampled).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def mean_over_seeds(resampled: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores [S, R] of one method to draws [R] of their mean over seeds.

    Seeds are resampled as well as models, so that the interval of the result holds the
    spread of both. The same networks have to be behind each column.
    """
    num_seeds, num = resampled.shape
    random = np.random.default_rng(seed)
    drawn = random.integers(num_seeds, size=(num_seeds, num))
    means: np.ndarray = resampled[drawn, np.arange(num)].mean(0)
    return means


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance explained; NaN for a constant truth."""
    if len(true) < 2 or np.ptp(true) == 0:
        return float("nan")
    # scikit-learn checks its input for longer than it counts, and a bootstrap asks 500 times
    spread = np.square(true - true.mean()).sum()
    return float(1 - np.square(true - predicted).sum() / spread)


def kendall_tau(true: np.ndarray, predicted: np.ndarray) -> float:
    """Rank agreement, tau-b; NaN where one side is constant."""
    from scipy.stats import kendalltau

    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    if len(true) == 2:  # the quick method divides by n - 2
        return float(kendalltau(true, predicted).statistic)
    return float(kendalltau(true, predicted, method="asymptotic").statistic)
