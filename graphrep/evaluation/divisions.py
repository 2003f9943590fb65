"""Divisions of a zoo into train, validation and test beyond the zoo's own split.

A division chooses among the models of each stored split and never moves one from one
split to another, so what was held out stays held out. It is a function of the zoo's
table: the same zoo and name give the same models.

| name | trained and validated on | tested on |
| --- | --- | --- |
| zoo | the zoo's split | the zoo's split |
| models:100 | 100 models, of both splits | the zoo's split |
| labels:100 | one checkpoint of each of 100 models, of both splits | the zoo's split |
| unseen:learning_rate | the half of models with lower values | the test models with higher |
| unseen:optimiser=sgd | all other optimisers | sgd; without =value the rarest |
| unseen:width, unseen:depth | the narrower or shallower half | the rest |
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from ..architecture import Architecture
from ..zoo import Zoo
from .properties import SPLITS

if TYPE_CHECKING:
    import pandas as pd

ZOO = "zoo"
TOGETHER = "+"  # between the names of zoos that one model learns from
NUM_VALIDATION = 0.2  # share of few models that is kept for validation


@dataclass(frozen=True, eq=False)
class Division:
    """A split name a row, "" for rows left out; `held_out` is what test models differ in."""

    name: str
    split: np.ndarray
    held_out: str = ""


class DividedZoo(Zoo):
    """A zoo seen with a division for its split; what is stored stays as it is."""

    def __init__(self, zoo: Zoo, division: Division) -> None:
        super().__init__(zoo._shelf, zoo._rows)
        self.division = division
        self.__dict__["properties"] = zoo.properties.assign(split=division.split)


def divide(zoo: Zoo, name: str) -> DividedZoo:
    """The zoo with the division of this name.

    Raises:
        ValueError: no such division, or one that leaves a side without models.
    """
    table = zoo.properties
    if name in ("unseen:width", "unseen:depth"):
        table = with_sizes(zoo)
    return DividedZoo(zoo, find_division(table, name))


def first_models(zoo: Zoo, num: int) -> Zoo:
    """A view of so many models, each split keeping its share: a quick look at a large zoo."""
    table = zoo.properties
    total = table["model"].nunique()
    if num >= total:
        return zoo
    chosen = np.zeros(len(table), bool)
    for split in SPLITS:
        models = _shuffled(table.loc[table["split"] == split, "model"])
        kept = models[: max(1, round(num * len(models) / total))]
        chosen |= (table["split"] == split).to_numpy() & table["model"].isin(kept).to_numpy()
    return zoo.select(chosen)


def find_division(table: pd.DataFrame, name: str) -> Division:
    """A division of the rows of a zoo's table (see the module).

    Raises:
        ValueError: no such division or property, or a side without models.
    """
    kind, _, what = name.partition(":")
    stored = table["split"].astype(str).to_numpy()
    if name == ZOO:
        found = Division(name, np.where(np.isin(stored, SPLITS), stored, ""))
    elif kind in ("models", "labels") and what.isdigit():
        found = _few(table, name, int(what), one_each=kind == "labels")
    elif kind == "unseen" and what:
        found = _unseen(table, name, what)
    else:
        raise ValueError(
            f"no division '{name}'; there are zoo, models:<number>, labels:<number>, "
            "unseen:<property> and unseen:<property>=<value>"
        )
    empty = [split for split in SPLITS if not (found.split == split).any()]
    if empty:
        raise ValueError(f"division '{name}' leaves no models for {' and '.join(empty)}")
    return found


def with_sizes(zoo: Zoo) -> pd.DataFrame:
    """The zoo's table with `width` and `depth` of each network's architecture."""
    sizes = {name: size_of(architecture) for name, architecture in zoo.architectures.items()}
    table = zoo.properties
    return table.assign(
        width=table["architecture"].map({name: width for name, (width, _) in sizes.items()}),
        depth=table["architecture"].map({name: depth for name, (_, depth) in sizes.items()}),
    )


def size_of(architecture: Architecture) -> tuple[float, int]:
    """Mean size of the groups of hidden units, and the number of layers with weights."""
    hidden = [units.size for units in architecture.units if not units.fixed]
    return fmean(hidden) if hidden else 0.0, len(weight_layers(architecture))


def weight_layers(architecture: Architecture) -> tuple[str, ...]:
    """The tensors that lead the layers of weights, as layer statistics count them."""
    return tuple(
        dict.fromkeys(
            block.leader or block.tensor
            for block in architecture.blocks
            if block.kind in ("dense", "lookup", "opaque") and block.num_edges
        )
    )


def _few(table: pd.DataFrame, name: str, num: int, *, one_each: bool) -> Division:
    """So many models, of which a part validates; fewer are among those of more."""
    split = np.where(table["split"] == "test", "test", "").astype(object)
    wanted = {"validation": max(1, round(NUM_VALIDATION * num))}
    wanted["train"] = num - wanted["validation"]
    for part, count in wanted.items():
        rows = table["split"] == part
        models = _shuffled(table.loc[rows, "model"])
        if count < 1 or len(models) < count:
            raise ValueError(
                f"division '{name}' wants {count} models of the {part} split, which has "
                f"{len(models)}"
            )
        chosen = rows & table["model"].isin(models[:count])
        if one_each:
            chosen &= table.index.isin(_one_each(table[chosen]))
        split[chosen.to_numpy()] = part
    return Division(name, split.astype(str))


def _one_each(table: pd.DataFrame) -> np.ndarray:
    """A row of each model, drawn at random."""
    return table.sample(frac=1, random_state=0).groupby("model").head(1).index.to_numpy()


def _unseen(table: pd.DataFrame, name: str, what: str) -> Division:
    """Test models that have what no model of training and validation has."""
    held_out, _, value = what.partition("=")
    if held_out not in table:
        raise ValueError(f"division '{name}': no property '{held_out}' in the zoo's table")
    column, training = table[held_out], (table["split"] == "train").to_numpy()
    if value or column.dtype.kind not in "iuf":
        values, known = column.astype(str).to_numpy(), column.notna().to_numpy()
        unseen = known & (values == (value or _rarest(table[training], held_out)))
    else:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        known = np.isfinite(values)
        unseen = known & (values > _middle(values[training & known], name))
    stored = table["split"].astype(str).to_numpy()
    kept = np.isin(stored, SPLITS) & known & (unseen == (stored == "test"))
    return Division(name, np.where(kept, stored, ""), held_out)


def _rarest(table: pd.DataFrame, name: str) -> str:
    counts = table.groupby(table[name].astype(str))["model"].nunique()
    return str(counts.sort_index().idxmin())


def _middle(values: np.ndarray, name: str) -> float:
    """The largest value of the lower part, with cuts between different values only."""
    different, counts = np.unique(values, return_counts=True)
    if len(different) < 2:
        raise ValueError(f"division '{name}': all models of training have the same value")
    below = np.cumsum(counts)[:-1] / len(values)
    return float(different[np.abs(below - 0.5).argmin()])


def _shuffled(models: pd.Series) -> np.ndarray:
    """The different models in an order that depends on nothing else."""
    return np.random.default_rng(0).permutation(np.unique(models.to_numpy()))
