"""Laws of probes: what they find, what they must not, and intervals by model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from graphrep.evaluation.probe import LinearProbe, Ridges, kendall_tau, probe, r2
from graphrep.evaluation.properties import Property

SPLITS = {"train": 60, "validation": 20, "test": 30}  # models


def population(noise: float, checkpoints: int = 3) -> tuple[dict, dict]:
    """Embeddings whose first column says the property, up to noise; categories from its sign."""
    random = np.random.default_rng(0)
    embedding, tables = {}, {}
    for number, (split, models) in enumerate(SPLITS.items()):
        rows = models * checkpoints
        features = random.normal(size=(rows, 5))
        truth = 2 * features[:, 0] - 1 + noise * random.normal(size=rows)
        embedding[split] = np.hstack([features, np.ones((rows, 1))]).astype(np.float32)
        tables[split] = pd.DataFrame(
            {
                "model": np.repeat(np.arange(models) + 1000 * number, checkpoints),
                "property": truth,
                "rate": 10.0**truth,
                "kind": np.where(features[:, 1] > 0, "tanh", "relu"),
                "constant": 1.0,
            }
        )
    return embedding, tables


def test_a_linear_property_is_found() -> None:
    score = probe(*population(noise=0.0), "property")
    assert score.r2 is not None and score.kendall_tau is not None
    assert score.r2 > 0.99 and score.kendall_tau > 0.99  # what lies beyond training is clipped
    logarithm = probe(*population(noise=0.0), "rate", log=True)
    assert logarithm.property == "log_rate"
    assert logarithm.r2 == pytest.approx(score.r2)


def test_noise_is_not_found() -> None:
    embedding, tables = population(noise=0.0)
    random = np.random.default_rng(1)
    shuffled = {s: random.permutation(e) for s, e in embedding.items()}
    score = probe(shuffled, tables, "property")
    assert score.r2 is not None and score.r2 < 0.1
    assert score.kendall_tau_interval is not None
    low, high = score.kendall_tau_interval
    assert low < 0.15 and high < 0.5


def test_categories_are_found_and_judged_by_the_majority() -> None:
    score = probe(*population(noise=0.0), "kind")
    assert score.accuracy is not None and score.accuracy > 0.9
    assert score.majority is not None and 0.3 < score.majority < 0.7
    assert score.r2 is None


def test_intervals_resample_models_not_checkpoints() -> None:
    """Copies of a checkpoint carry no information, so they must not narrow the interval."""

    def width(checkpoints: int) -> float:
        embedding, tables = population(noise=1.0, checkpoints=1)
        for split in SPLITS:
            embedding[split] = np.repeat(embedding[split], checkpoints, 0)
            tables[split] = tables[split].loc[tables[split].index.repeat(checkpoints)]
        interval = probe(embedding, tables, "property").r2_interval
        assert interval is not None
        return interval[1] - interval[0]

    assert width(8) == pytest.approx(width(1), rel=0.2)
    assert width(1) > 0.01


def test_a_constant_or_absent_property_is_refused() -> None:
    with pytest.raises(ValueError, match="constant"):
        probe(*population(noise=0.0), "constant")
    with pytest.raises(ValueError, match=r"no property 'speed'.*'kind'"):
        probe(*population(noise=0.0), "speed")


def test_scores_of_known_cases() -> None:
    true = np.array([1.0, 2.0, 3.0, 4.0])
    assert r2(true, true) == 1 and kendall_tau(true, true) == 1
    assert r2(true, np.full(4, 2.5)) == 0 and np.isnan(kendall_tau(true, np.full(4, 2.5)))
    assert kendall_tau(true, -true) == -1


@pytest.mark.parametrize("shape", [(60, 9), (20, 50)])
def test_ridges_of_one_decomposition_equal_scikit_learns(shape: tuple[int, int]) -> None:
    from sklearn.linear_model import Ridge

    random = np.random.default_rng(0)
    features = random.normal(size=shape)
    features -= features.mean(0)
    target = random.normal(size=shape[0])
    penalties = np.array([1e3, 1.0, 1e-4])
    found = Ridges(features).coefficients(target - target.mean(), penalties)
    for column, penalty in zip(found.T, penalties, strict=True):
        wanted = Ridge(alpha=penalty).fit(features, target).coef_
        assert column == pytest.approx(wanted, abs=1e-8)
        assert column != pytest.approx(Ridge(alpha=2 * penalty).fit(features, target).coef_)


def test_properties_of_one_probe_are_those_of_probes_apart() -> None:
    embedding, tables = population(noise=0.5)
    tables["train"].loc[::5, "rate"] = 0.0  # has no logarithm
    together = LinearProbe(embedding, tables)
    for wanted in (Property(name="property"), Property(name="rate", log=True)):
        apart = probe(embedding, tables, wanted.name, log=wanted.log)
        assert together.score(wanted).r2 == apart.r2
    assert (
        together.score(Property(name="property")).r2
        != together.score(Property(name="rate", log=True)).r2
    )  # fewer rows to fit on


def test_features_that_never_change_say_nothing() -> None:
    embedding, tables = population(noise=0.0)
    constant = {s: np.ones((len(e), 4)) for s, e in embedding.items()}
    score = probe(constant, tables, "property")
    assert score.r2 is not None and score.r2 <= 0
    assert score.kendall_tau is not None and np.isnan(score.kendall_tau)


def test_many_features_and_few_labels_do_not_harm() -> None:
    """Hundreds of columns of noise beside the one that says the property."""
    embedding, tables = population(noise=0.0)
    random = np.random.default_rng(3)
    wide = {s: np.hstack([3 * e, random.normal(size=(len(e), 600))]) for s, e in embedding.items()}
    noise = {s: e[:, 6:] for s, e in wide.items()}
    with_it, without = probe(wide, tables, "property"), probe(noise, tables, "property")
    assert with_it.kendall_tau is not None and without.kendall_tau is not None
    assert (
        with_it.kendall_tau > 0.2 > without.kendall_tau
        and without.r2 is not None
        and without.r2 > -0.5
    )
