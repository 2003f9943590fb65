"""What a column of a zoo's properties holds: its kind, its spread, its histogram.

Any table will do: imported zoos bring columns of all sorts. Knows no zoo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "truth", "category", "text", "constant", "empty"]

BINS = 20
_DECADES = 50.0  # the 99th percentile over the 1st, from where on a log scale may read better
_FAR = 0.5  # lengths of the middle 98 %; what lies farther beside it shares the last bin
_MANY = 20  # distinct texts from where on they may be names, one of each
_COMMON = 12  # values that are kept with their counts
_CUT = 200  # characters of a value


@dataclass(frozen=True, eq=False)
class Histogram:
    """How the finite numbers of a column spread.

    `counts` add up, with `num_zero`, to the finite numbers. The first and last bin
    also hold what lies beyond the edges, where `open_below` and `open_above` say so.
    """

    counts: np.ndarray  # int64 [bins]
    edges: np.ndarray  # float64 [bins + 1]; of a bar a value, the values' places 0, 1, 2 ...
    logarithmic: bool = False
    values: np.ndarray | None = None  # float64 [bins] where each bin is one value
    num_zero: int = 0  # zeros, which a logarithmic scale has no place for
    open_below: bool = False
    open_above: bool = False

    def bin_of(self, value: float) -> int:
        """The bin that a value falls in."""
        if self.values is not None:
            return int(np.searchsorted(self.values, value).clip(0, len(self.values) - 1))
        inner = self.edges[1:-1]
        return int(np.searchsorted(inner, value, side="right"))


@dataclass(frozen=True, eq=False)
class Column:
    """One property of a population."""

    name: str
    kind: Kind
    num_rows: int
    num_missing: int
    num_distinct: int  # without missing ones
    num_infinite: int = 0
    quartiles: tuple[float, ...] = ()  # of finite numbers: least, 25 %, median, 75 %, greatest
    histogram: Histogram | None = None  # of a number
    common: tuple[tuple[str, int], ...] = ()  # the most common values and how often they occur
    whole: bool = False  # whole numbers only


def describe_columns(table: pd.DataFrame, names: tuple[str, ...] = ()) -> list[Column]:
    """Every column of a table, in its order; or those named."""
    return [describe_column(table[name], str(name)) for name in names or table.columns]


def describe_column(values: pd.Series, name: str = "") -> Column:
    """What one column holds.

    Columns of true and false, also with missing values, are `truth`; of numbers
    `number`; of text `category`, or `text` where most values occur once.
    """
    import pandas as pd

    name = name or str(values.name)
    if values.dtype == object:
        values = values.infer_objects()
    if _is_truth(values):
        return _describe_texts(values.astype("boolean"), name, truth=True)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values):
        return _describe_numbers(values, name)
    return _describe_texts(values, name)


def histogram(values: np.ndarray, bins: int = BINS) -> Histogram:
    """The histogram of finite numbers, on the scale that shows them best.

    A bar a value where there are few values, each several times; logarithmic where
    they span decades; cut short where a few lie far out.
    """
    return _histogram(np.sort(np.asarray(values, dtype=np.float64)), bins)


def _describe_numbers(values: pd.Series, name: str) -> Column:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.sort(numbers[np.isfinite(numbers)])
    num_missing = int(np.isnan(numbers).sum())
    num_infinite = len(numbers) - len(finite) - num_missing
    first = np.flatnonzero(np.concatenate([[True], finite[1:] != finite[:-1]])[: len(finite)])
    num_distinct = len(first) + len(np.unique(numbers[np.isinf(numbers)]))
    kind: Kind = "number"
    if num_distinct == 0:
        kind = "empty"
    elif num_distinct == 1 and num_missing == 0:
        kind = "constant"
    common: tuple[tuple[str, int], ...] = ()
    if 0 < len(first) <= _COMMON:
        counts = np.diff([*first, len(finite)])
        order = np.argsort(-counts, kind="stable")
        common = tuple((f"{finite[first[i]]:.6g}", int(counts[i])) for i in order)
    elif num_distinct == 1:
        common = ((f"{numbers[np.isinf(numbers)][0]:g}", num_infinite),)
    return Column(
        name=name,
        kind=kind,
        num_rows=len(numbers),
        num_missing=num_missing,
        num_distinct=num_distinct,
        num_infinite=num_infinite,
        quartiles=_quartiles(finite),
        histogram=_histogram(finite, BINS) if len(finite) else None,
        common=common,
        whole=bool(len(finite)) and bool((finite == np.floor(finite)).all()),
    )


def _quartiles(finite: np.ndarray) -> tuple[float, ...]:
    if not len(finite):
        return ()
    with np.errstate(over="ignore", invalid="ignore"):  # between numbers near the largest there are
        return tuple(map(float, np.quantile(finite, (0, 0.25, 0.5, 0.75, 1))))


def _describe_texts(values: pd.Series, name: str, *, truth: bool = False) -> Column:
    import pandas as pd

    if values.dtype == object:
        values = values.map(str, na_action="ignore")  # lists and the like have no order
    codes, distinct = pd.factorize(values)
    num_missing = int((codes < 0).sum())
    counts = np.bincount(codes[codes >= 0], minlength=len(distinct))
    num = len(values) - num_missing
    top = np.argsort(-counts, kind="stable")[:_COMMON]
    kind: Kind = "truth" if truth else "category"
    if num == 0:
        kind = "empty"
    elif len(distinct) == 1 and num_missing == 0:
        kind = "constant"
    elif not truth and len(distinct) > max(_MANY, num / 2):
        kind = "text"
    return Column(
        name=name,
        kind=kind,
        num_rows=len(values),
        num_missing=num_missing,
        num_distinct=len(distinct),
        common=tuple((_text(distinct[i]), int(counts[i])) for i in top),
    )


def _is_truth(values: pd.Series) -> bool:
    import pandas as pd

    if pd.api.types.is_bool_dtype(values):
        return True
    if values.dtype != object:
        return False
    there = values.dropna()
    return len(there) > 0 and all(isinstance(value, bool | np.bool_) for value in there)


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return str(value)[:_CUT]


def _histogram(finite: np.ndarray, bins: int) -> Histogram:
    """Of sorted finite numbers, at least one."""
    first = np.flatnonzero(np.concatenate([[True], finite[1:] != finite[:-1]]))
    if len(first) <= bins and 2 * len(first) <= max(2, len(finite)):
        counts = np.diff([*first, len(finite)])
        places = np.arange(len(first) + 1) - 0.5
        return Histogram(counts=counts, edges=places, values=finite[first])
    logarithmic = spans_decades(finite)
    shown = finite[np.searchsorted(finite, 0, side="right") :] if logarithmic else finite
    scale = np.log10(shown) if logarithmic else shown
    low, high = _ends(scale)
    counts, edges = np.histogram(scale.clip(low, high), bins=bins, range=(low, high))
    return Histogram(
        counts=counts,
        edges=10**edges if logarithmic else edges,
        logarithmic=logarithmic,
        num_zero=len(finite) - len(shown),
        open_below=bool(scale[0] < low),
        open_above=bool(scale[-1] > high),
    )


def spans_decades(values: np.ndarray) -> bool:
    """Whether a logarithmic scale reads better: nothing is negative, the positive numbers
    spread far, and their median lies nearer the middle than on a linear scale.

    Args:
        values: Finite numbers in ascending order.
    """
    if not len(values) or values[0] < 0:
        return False
    positive = values[np.searchsorted(values, 0, side="right") :]
    if len(positive) < max(3, len(values) / 10):
        return False
    if positive[-1] < _DECADES * positive[0]:
        return False
    low, median, high = np.quantile(positive, (0.01, 0.5, 0.99))
    if high < _DECADES * low:
        return False
    linear = (median - low) / (high - low)
    logarithmic = np.log(median / low) / np.log(high / low)
    return bool(abs(logarithmic - 0.5) < abs(linear - 0.5))


def _ends(ascending: np.ndarray) -> tuple[float, float]:
    """Least and greatest, or nearer ones where a hundredth of the values lies far out."""
    least, greatest = float(ascending[0]), float(ascending[-1])
    limit = np.finfo(np.float64).max / 8  # a histogram needs the length between its ends
    least, greatest = max(least, -limit), min(greatest, limit)
    few = max(1, len(ascending) // 100)
    if len(ascending) > 2 * few + 5:
        low, high = max(float(ascending[few]), least), min(float(ascending[-1 - few]), greatest)
        if (length := high - low) > 0:
            least, greatest = max(least, low - _FAR * length), min(greatest, high + _FAR * length)
    return least, greatest
