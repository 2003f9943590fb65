"""Columns of a zoo's table as something to predict: numbers, logarithms or categories.

Knows tables; knows neither embeddings nor models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Property:
    """A column to predict; `log` its logarithm to base 10, `category` even if it is a number."""

    name: str
    log: bool = False
    category: bool = False

    @property
    def label(self) -> str:
        return f"log_{self.name}" if self.log else self.name

    def is_number(self, table: pd.DataFrame) -> bool:
        """Whether it is predicted as a number from this table."""
        return table[self.name].dtype.kind in "fiu" and not self.category

    def varies(self, table: pd.DataFrame) -> bool:
        """Whether the table has it, with two values at least that can be predicted."""
        if self.name not in table:
            return False
        values, known = self.read(table)
        return len(np.unique(values[known])) > 1

    def read(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Values [N], and where they are known, bool [N].

        The logarithm of what is not positive is not known: a weight decay of 0 has none.
        """
        column = table[self.name]
        if not self.is_number(table):
            return column.astype(str).to_numpy(), column.notna().to_numpy()
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(values)
        return values, np.isfinite(values)


@dataclass(frozen=True, eq=False)
class Columns:
    """A property's known values by split, and which rows they are."""

    values: dict[str, np.ndarray]
    known: dict[str, np.ndarray]
    models: np.ndarray  # of the known test rows
    number: bool

    @property
    def most_frequent(self) -> str:
        """The category that training has most of."""
        names, counts = np.unique(self.values["train"], return_counts=True)
        return str(names[counts.argmax()])


def read_columns(tables: Mapping[str, pd.DataFrame], wanted: Property) -> Columns:
    """A property from a table a split.

    Raises:
        ValueError: the property is missing, without a value, or constant over training.
    """
    values, known = {}, {}
    for split in SPLITS:
        if wanted.name not in tables[split]:
            there = sorted(map(str, tables[split]))
            raise ValueError(f"no property '{wanted.name}'; there are {there}")
        found, known[split] = wanted.read(tables[split])
        values[split] = found[known[split]]
        if not len(values[split]):
            raise ValueError(f"property '{wanted.name}' has no value in the {split} split")
    if len(np.unique(values["train"])) < 2:
        raise ValueError(f"property '{wanted.name}' is constant over the training split")
    models = tables["test"]["model"].to_numpy()[known["test"]]
    return Columns(values, known, models, wanted.is_number(tables["train"]))
