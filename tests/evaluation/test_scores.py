"""Laws of intervals: pairs are drawn together, seeds widen, models are drawn whole."""

from __future__ import annotations

import numpy as np
import pytest

from graphrep.evaluation.scores import (
    Bootstrap,
    interval,
    mean_over_seeds,
    score_categories,
    score_numbers,
)

NUM = 480


def predictions(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    true = random.normal(size=NUM)
    shared = 0.8 * random.normal(size=NUM)  # what both methods get wrong
    own = np.random.default_rng(seed + 1).normal(size=NUM)
    return true, true + shared + noise * own, np.repeat(np.arange(NUM // 3), 3)


def test_resamples_are_the_same_for_the_same_models_and_hold_them_whole() -> None:
    models = np.repeat([5, 3, 9, 4], 3)
    first, again = list(Bootstrap().draw(models)), list(Bootstrap().draw(models))
    assert len(first) == 500
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for rows in first[:20]:
        counts = np.bincount(rows, minlength=12).reshape(4, 3)
        assert (counts == counts[:, :1]).all() and len(rows) == 12
    others = list(Bootstrap(seed=1).draw(models))
    assert any((a != b).any() for a, b in zip(first, others, strict=True))


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    """Errors that two methods share cancel; drawn apart, they would not."""
    scores = [score_numbers("p", *predictions(noise, seed)) for noise, seed in ((0.1, 0), (0.3, 1))]
    better, worse = (score.resampled["r2"] for score in scores)
    paired = interval(better - worse)
    shuffled = np.random.default_rng(0).permutation(worse)
    apart = interval(better - shuffled)
    assert paired[1] - paired[0] < 0.8 * (apart[1] - apart[0])
    assert paired[0] > 0 > apart[0]


def test_seeds_that_disagree_widen_the_interval_of_their_mean() -> None:
    random = np.random.default_rng(0)
    one = 0.7 + 0.01 * random.normal(size=500)
    agreeing = interval(mean_over_seeds(np.stack([one, one, one])))
    differing = interval(mean_over_seeds(np.stack([one - 0.1, one, one + 0.1])))
    alone = interval(mean_over_seeds(one[None]))
    assert agreeing == pytest.approx(alone) and alone == interval(one)
    assert differing[1] - differing[0] > 3 * (agreeing[1] - agreeing[0])


def test_scores_hold_their_resamples() -> None:
    true, predicted, models = predictions(0.3)
    score = score_numbers("p", true, predicted, models, bootstrap=Bootstrap(seed=4))
    assert set(score.resampled) == {"r2", "kendall_tau"}
    assert score.kendall_tau_interval == interval(score.resampled["kendall_tau"])
    kinds = np.where(true > 0, "a", "b")
    right = score_categories(
        "k", kinds, kinds, models, most_frequent="a", bootstrap=Bootstrap(seed=4)
    )
    assert right.accuracy == 1 and right.accuracy_interval == (1, 1)
    assert right.majority == pytest.approx((kinds == "a").mean())


def test_a_score_that_never_exists_has_no_interval() -> None:
    score = score_numbers("p", np.zeros(6), np.arange(6.0), np.arange(6))
    assert score.r2 is not None and np.isnan(score.r2)
    assert score.r2_interval is not None and np.isnan(score.r2_interval).all()
