"""Choosing rows of a zoo: by a condition on its properties, by split, by epoch."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np

from .population import best_rows, last_rows, main_metric
from .recipe import check_choice
from .store.layout import SPLITS

if TYPE_CHECKING:
    import pandas as pd

    from .store.zoo import Zoo

Epoch = int | Literal["last", "best"]
_SHOWN = 12  # columns that a message lists


def select_rows(
    zoo: Zoo,
    where: str | None = None,
    split: str | None = None,
    epoch: Epoch | str | None = None,
) -> np.ndarray:
    """Positions of the rows that meet all conditions, in the order of the zoo; for `zoo.select`.

    Args:
        where: A condition on the columns of `zoo.properties` as `DataFrame.query` takes it:
            "test_accuracy > 0.9 and activation == 'relu'". Names with other characters than
            letters, digits and _ stand between backticks.
        split: train, validation or test.
        epoch: Of the rows that are left then: "last" or "best" for one row a model, the last
            or the best by the zoo's main metric, or a number.

    Raises:
        ValueError: a condition that cannot be read or names no column, an unknown split, an
            epoch that no row has, or conditions that no row meets.
    """
    table = zoo.properties
    chosen = np.ones(len(table), dtype=bool)
    if where:
        chosen &= _meet(table, where)
    if split is not None:
        check_choice("split", split, SPLITS)
        chosen &= (table["split"] == split).fillna(False).to_numpy(bool)
    rows = np.flatnonzero(chosen)
    if epoch is not None and len(rows):
        rows = rows[_of_epoch(table.iloc[rows], epoch)]
    if not len(rows):
        asked = {"where": where, "split": split, "epoch": epoch}
        told = ", ".join(f"{k} {v}" for k, v in asked.items() if v is not None)
        raise ValueError(f"{zoo.url}: none of its {len(table):,} checkpoints has {told or 'rows'}")
    return rows


def _meet(table: pd.DataFrame, where: str) -> np.ndarray:
    """Which rows meet a condition, bool [rows]; missing values meet none."""
    import pandas as pd
    from pandas.errors import UndefinedVariableError

    try:
        met = table.eval(where, local_dict={}, global_dict={})
    except UndefinedVariableError as error:
        found = re.search(r"'(.+)'", str(error))
        raise ValueError(_unknown(table, where, found[1] if found else "")) from error
    except Exception as error:
        raise ValueError(
            f"the condition {where!r} cannot be read: {type(error).__name__}: {error}. Write it "
            "like \"test_accuracy > 0.9 and activation == 'relu'\""
        ) from error
    if not isinstance(met, pd.Series) or not pd.api.types.is_bool_dtype(met):
        raise ValueError(f"the condition {where!r} is not true or false for each row")
    return met.fillna(False).to_numpy(bool)


def _unknown(table: pd.DataFrame, where: str, name: str) -> str:
    columns = [str(column) for column in table.columns]
    near = get_close_matches(name, columns, n=3, cutoff=0.5)
    near += [c for c in columns if name and name in c and c not in near][: 3 - len(near)]
    written = [c if c.isidentifier() else f"`{c}`" for c in near]
    hint = f" Did you mean {', '.join(written)}?" if near else ""
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return (
        f"the condition {where!r} names '{name}', which is no column.{hint} There are "
        f"{', '.join(columns[:_SHOWN])}{more}"
    )


def _of_epoch(table: pd.DataFrame, epoch: Epoch | str) -> np.ndarray:
    """Positions of the rows of one epoch, ascending."""
    match epoch:
        case "last":
            return np.sort(last_rows(table))
        case "best":
            metric = main_metric(table)
            if metric is None:
                raise ValueError("epoch best needs a metric, and the properties have none")
            return np.sort(best_rows(table, metric))
        case int():
            number = epoch
        case _ if re.fullmatch(r"-?\d+", epoch):
            number = int(epoch)
        case _:
            raise ValueError(f"epoch must be last, best or a whole number, got '{epoch}'")
    if "epoch" not in table:
        raise ValueError("the zoo has no epochs")
    found = np.flatnonzero((table["epoch"] == number).fillna(False).to_numpy(bool))
    if not len(found):
        epochs = sorted(table["epoch"].dropna().unique().tolist())
        shown = ", ".join(f"{e:g}" for e in epochs[:_SHOWN])
        raise ValueError(
            f"no checkpoint is of epoch {number}; there are {shown}"
            + (f" and {len(epochs) - _SHOWN} more" if len(epochs) > _SHOWN else "")
        )
    return found
