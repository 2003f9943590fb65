"""What a population is made of: its main metric, its settings, its copies, its parts.

Pure functions over a zoo's properties (a row a checkpoint). Knows neither
weights nor the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MAIN_METRICS = ("test_accuracy", "psnr", "test_return")  # the first that a zoo has is its main one
BOOKKEEPING = ("model", "name", "architecture", "split", "epoch", "content_hash", "design")
_METRIC_WORDS = {
    *("accuracy", "acc", "loss", "error", "err", "gap", "ggap", "psnr", "ssim", "mse", "rmse"),
    *("mae", "nll", "return", "reward", "score", "f1", "auc", "auroc", "r2", "perplexity", "bleu"),
    "diverged",
}
_ASSOCIATED = 20_000  # networks that a correlation is counted over
_LOWER_IS_BETTER = {
    *("loss", "error", "err", "gap", "ggap", "mse", "rmse", "mae", "nll", "perplexity"),
}


def main_metric(properties: pd.DataFrame) -> str | None:
    """The column that says how good a network is; None where no column could.

    The first of `MAIN_METRICS`, else the first number whose name says that it was measured,
    else the first that changes while a model trains.
    """
    numbers = _numbers(properties)
    named = [*MAIN_METRICS, *(name for name in numbers if _names_metric(name))]
    found = next((name for name in named if name in numbers), None)
    return found or next(iter(metrics(properties)), None)


def metrics(properties: pd.DataFrame) -> list[str]:
    """The numbers that were measured: those that change while a model trains, and those whose
    names say so."""
    changing = _changing(properties)
    return [name for name in _numbers(properties) if name in changing or _names_metric(name)]


def settings(properties: pd.DataFrame) -> list[str]:
    """The hyper-parameters that vary: columns that are no metric, no seed, and stay while a model
    trains."""
    others = {*metrics(properties), *_changing(properties), *BOOKKEEPING}
    return [
        str(name)
        for name in properties.columns
        if name not in others
        and not {*_METRIC_WORDS, "seed"} & set(_words(str(name)))
        and _varies(properties[name])
    ]


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better, by its name: accuracy is, loss is not."""
    return not _LOWER_IS_BETTER & set(_words(metric))


def last_rows(properties: pd.DataFrame) -> np.ndarray:
    """Position of each model's last checkpoint, int64 [models], in the order of the models."""
    place = np.arange(len(properties))
    epoch = _floats(properties["epoch"]) if "epoch" in properties else place
    return _highest(properties["model"].to_numpy(), epoch, place)


def best_rows(properties: pd.DataFrame, metric: str) -> np.ndarray:
    """Position of each model's best checkpoint by a metric, int64 [models].

    Of equals the first counts; missing values lose to all others.
    """
    values = _floats(properties[metric])
    score = values if higher_is_better(metric) else -values
    return _highest(properties["model"].to_numpy(), score, -np.arange(len(properties)))


def associate(
    properties: pd.DataFrame, metric: str, names: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Kendall's tau of each named column with a metric: columns property, tau, num.

    Args:
        properties: A row a network; of very many, a part is drawn by lot.
        names: Columns of numbers. Those without spread, or known for fewer than three
            networks, are left out.

    Source: Kendall 1938 (tau-b, which allows for ties).
    """
    import pandas as pd
    from scipy.stats import kendalltau

    sample = properties
    if len(properties) > _ASSOCIATED:
        sample = properties.sample(_ASSOCIATED, random_state=seed)
    score = _floats(sample[metric])
    rows = []
    for name in names:
        values = _floats(sample[name])
        both = np.isfinite(values) & np.isfinite(score)
        if both.sum() >= 3:
            tau = float(kendalltau(values[both], score[both]).statistic)
            rows.append((name, tau, int(both.sum())))
    table = pd.DataFrame(rows, columns=["property", "tau", "num"])
    return table[table["tau"].notna()].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Checkpoints whose weights (and buffers) are equal bit for bit.

    `groups` has a row a group, most models first: content_hash, architecture, checkpoints,
    models, splits (how many), first_epoch and last_epoch (where the zoo has epochs) and
    diverged (all of them). A group of several splits is a leak: what was trained on is
    tested on.
    """

    groups: pd.DataFrame
    rows: pd.DataFrame  # of the properties: the checkpoints that have an equal

    @property
    def num_checkpoints(self) -> int:
        """How many checkpoints have an equal."""
        return len(self.rows)

    @property
    def copies(self) -> pd.DataFrame:
        """The groups that hold several models."""
        return self.groups[self.groups["models"] > 1]

    @property
    def leaks(self) -> pd.DataFrame:
        """The groups whose models belong to different splits."""
        return self.groups[self.groups["splits"] > 1]

    def members(self, content_hash: str) -> pd.DataFrame:
        """The properties of the checkpoints of this hash."""
        return self.rows[self.rows["content_hash"] == content_hash]


def find_duplicates(properties: pd.DataFrame) -> Duplicates | None:
    """The groups of equal checkpoints, by content hash; None where there are no hashes."""
    if "content_hash" not in properties or properties["content_hash"].isna().all():
        return None
    keys = ["content_hash", "architecture"]
    equal = properties["content_hash"].notna() & properties.duplicated(keys, keep=False)
    rows = properties[equal]
    counted = {
        "checkpoints": ("model", "size"),
        "models": ("model", "nunique"),
        "splits": ("split", "nunique"),
        "first_epoch": ("epoch", "min"),
        "last_epoch": ("epoch", "max"),
        "diverged": ("diverged", "all"),
    }
    known = {name: how for name, how in counted.items() if how[0] in rows}
    if "diverged" in rows:
        rows = rows.assign(diverged=rows["diverged"].eq(True).fillna(False).astype("bool"))
    groups = rows.groupby(keys, sort=False).agg(**known).reset_index()
    for name in counted.keys() - known.keys() - {"first_epoch", "last_epoch"}:
        groups[name] = False if name == "diverged" else 0
    order = ["models", "checkpoints"]
    groups = groups.sort_values(order, ascending=False, kind="stable", ignore_index=True)
    return Duplicates(groups, rows)


def count_splits(properties: pd.DataFrame) -> pd.DataFrame:
    """Models and checkpoints of each split: columns split, models, checkpoints."""
    split = properties["split"].astype("str").where(properties["split"].notna(), "none")
    order = ["train", "validation", "test", "none"]
    table = _count(properties.assign(split=split), "split")
    return table.sort_values("split", key=lambda names: names.map(order.index), ignore_index=True)


def count_architectures(properties: pd.DataFrame) -> pd.DataFrame:
    """Models and checkpoints of each architecture, most models first."""
    table = _count(properties, "architecture")
    return table.sort_values("models", ascending=False, kind="stable", ignore_index=True)


def _count(properties: pd.DataFrame, by: str) -> pd.DataFrame:
    grouped = properties.groupby(by, sort=False)["model"]
    table = grouped.agg(models="nunique", checkpoints="size")
    return table.reset_index()


def _numbers(properties: pd.DataFrame) -> list[str]:
    """The columns of numbers that describe networks, without those that hold none."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return [
        str(name)
        for name in properties.columns
        if name not in (*BOOKKEEPING, "diverged")
        and is_numeric_dtype(properties[name])
        and not is_bool_dtype(properties[name])
        and properties[name].notna().any()
    ]


def _changing(properties: pd.DataFrame) -> set[str]:
    """The columns that differ between checkpoints of one model."""
    if "model" not in properties or len(properties) < 2:
        return set()
    models = properties["model"].to_numpy()
    order = np.argsort(models, kind="stable")
    same = models[order][1:] == models[order][:-1]
    found = set()
    for name in properties.columns:
        values = _codes(properties[name])[order]
        if ((values[1:] != values[:-1]) & same).any():
            found.add(str(name))
    return found


def _floats(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _codes(column: pd.Series) -> np.ndarray:
    """Numbers that differ where values differ; missing ones are alike."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column):
        values = _floats(column)
        return np.where(np.isnan(values), np.inf, values)
    if pd.api.types.is_numeric_dtype(column) and not column.hasnans:
        return column.to_numpy()
    return pd.factorize(_plain(column))[0]


def _plain(column: pd.Series) -> pd.Series:
    """A column whose values can be told apart: lists and the like as text."""
    return column.map(str, na_action="ignore") if column.dtype == object else column


def _varies(column: pd.Series) -> bool:
    return _plain(column).nunique() > 1


def _words(name: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in name.lower()).split()


def _names_metric(name: str) -> bool:
    return bool(_METRIC_WORDS & set(_words(name)))


def _highest(models: np.ndarray, score: np.ndarray, place: np.ndarray) -> np.ndarray:
    """For each model the position of its highest score, by place where scores are equal."""
    order = np.lexsort([place, np.where(np.isnan(score), -np.inf, score), models])
    ends = np.flatnonzero(np.append(models[order][1:] != models[order][:-1], True))
    return order[ends] if len(models) else order
