"""Columns of a table as rows in the terminal: numbers with histograms, texts with counts.

Names give way where the width is short, numbers never do. Knows no zoo.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .columns import BINS, Column, Histogram

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_MIN_NAME = 12  # characters of a name that are kept in any case
_FAIR_NAME = 20  # ... before quartiles have columns of their own


def bars(found: Histogram) -> str:
    """A histogram as block characters, BINS wide; a bar a value where it has few.

    An empty bin is blank, any other at least the lowest bar.
    """
    highest = max(1, int(found.counts.max()))
    heights = [
        " " if count == 0 else _BARS[min(7, int(8 * count / highest))]
        for count in found.counts.tolist()
    ]
    width, bar = _bar_width(found)
    return "".join((height * bar).ljust(width) for height in heights).ljust(BINS)


def number_table(columns: Sequence[Column], width: int) -> Iterator[RenderableType]:
    """The numbers, a row each; with quartiles where the width, in characters, allows it."""
    shown = [c for c in columns if c.kind == "number"]
    if not shown:
        return
    headings, rows = _number_rows(shown, wide=True)
    if _natural_width(headings, rows) > width:
        headings, rows = _number_rows(shown, wide=False)
    yield from lay_out(headings, rows, width, num_left=2)


def category_table(columns: Sequence[Column], width: int) -> Iterator[RenderableType]:
    """Texts and truth values with their most common values, a row each."""
    shown = [c for c in columns if c.kind in ("category", "truth")]
    if not shown:
        return
    rows = []
    for column in shown:
        common = [
            f"{cut(value, 24)} {share_text(num, column.num_rows)}" for value, num in column.common
        ]
        if (more := column.num_distinct - len(common)) > 0:
            common.append(f"{count_text(more)} others")
        lacking = share_text(column.num_missing, column.num_rows)
        rows.append([column.name, lacking, count_text(column.num_distinct), ", ".join(common)])
    yield from lay_out(["category", "missing", "distinct", "most common"], rows, width, num_left=1)


def lay_out(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    width: int,
    *,
    num_left: int = 0,
    note: str = "",
) -> Iterator[RenderableType]:
    """A table in which names give way, so that numbers stay whole; empty columns are left out.

    Args:
        num_left: How many of the last columns stand to the left, as the names do. The last of
            them is cut where it is too long.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    kept, sizes = _sizes(headings, rows)
    gap = 2 if _natural_width(headings, rows) <= width else 1
    left = width - gap * (len(kept) - 1)
    longest = sizes[-1]
    sizes[-1] = min(longest, left // 2)  # names have a half
    sizes[0] = max(_MIN_NAME, min(sizes[0], left - sum(sizes[1:])))
    sizes[-1] = max(1, min(longest, left - sum(sizes[:-1])))
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), show_edge=False
    )  # the box itself has one character between columns
    for place, (i, size) in enumerate(zip(kept, sizes, strict=True)):
        to_left = place == 0 or i >= len(headings) - num_left
        table.add_column(
            headings[i],
            justify="left" if to_left else "right",
            no_wrap=True,
            overflow="ellipsis",
            width=size,
        )
    for row in rows:
        cells = [cell if isinstance(cell, Text) else Text(cell) for cell in row]
        name = Text(_cut_middle(str(row[0]), sizes[0]))
        table.add_row(name, *(cells[i] for i in kept[1:]))
    yield Text("")
    yield table
    if note:
        yield Text(note, style="dim")


def number_text(value: float) -> str:
    """A number in at most eight characters: whole ones below 100,000, else two or three digits."""
    if value != value:
        return "–"
    size = abs(value)
    if 1000 <= size < 1e5 or (size < 1000 and value == int(value)):
        return f"{value:,.0f}"
    if 1e-3 <= size < 1000:
        return f"{value:.3g}"
    if size == float("inf"):
        return f"{value}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def count_text(num: int) -> str:
    """A count in at most six characters: 9,999, 12k, 3.4M."""
    if num < 10_000:
        return f"{num:,}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if num >= size:
            return f"{num / size:.3g}{unit}"
    raise AssertionError(num)


def size_text(num_bytes: float) -> str:
    """Bytes as people read them: 1.2 MB."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def _number_rows(
    shown: Sequence[Column], *, wide: bool
) -> tuple[list[str], list[list[str | Text]]]:
    """Headings and cells, with quartiles if wide."""
    headings = ["missing", "distinct", "min"] if wide else ["miss", "dist", "min"]
    headings += ["25 %", "median", "75 %", "max"] if wide else ["median", "max"]
    rows: list[list[str | Text]] = []
    for column in shown:
        numbers = column.quartiles or (float("nan"),) * 5
        cells = [share_text(column.num_missing + column.num_infinite, column.num_rows)]
        cells += [count_text(column.num_distinct)]
        cells += map(number_text, numbers if wide else numbers[::2])
        logarithmic = column.histogram is not None and column.histogram.logarithmic
        rows.append([column.name, *cells, _histogram_text(column), "log" if logarithmic else ""])
    return ["number", *headings, " histogram", ""], rows


def _histogram_text(column: Column) -> Text:
    """The bars, bright between the quartiles, with ‹ and › where values lie beyond."""
    from rich.text import Text

    found = column.histogram
    if found is None:
        return Text("")
    width, _ = _bar_width(found)
    low, high = (found.bin_of(column.quartiles[i]) for i in (1, 3))
    text = Text(bars(found), style="dim cyan")
    text.stylize("bold not dim cyan", low * width, (high + 1) * width)
    return Text("‹" if found.open_below else " ") + text + Text("›" if found.open_above else " ")


def _bar_width(found: Histogram) -> tuple[int, int]:
    """Characters a bin, and how many of them its bar fills."""
    width = BINS // len(found.counts)
    return width, max(1, width - 1)


def _sizes(
    headings: Sequence[str], rows: Sequence[Sequence[str | Text]]
) -> tuple[list[int], list[int]]:
    """The columns that hold anything, and how many characters each needs."""
    kept = [i for i in range(len(headings)) if any(len(row[i]) for row in rows)]
    return kept, [max(len(headings[i]), *(len(row[i]) for row in rows)) for i in kept]


def _natural_width(headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> int:
    """Characters that a table fills with two between columns and names of fair length."""
    _, sizes = _sizes(headings, rows)
    return min(sizes[0], _FAIR_NAME) + sum(sizes[1:]) + 2 * (len(sizes) - 1)


def share_text(num: int, of: int) -> str:
    """A part in percent; empty for none."""
    if num == 0 or of == 0:
        return ""
    percent = 100 * num / of
    if percent < 1:
        return "<1 %"
    return f"{min(percent, 99):.0f} %" if num < of else "100 %"


def cut(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _cut_middle(text: str, limit: int) -> str:
    """Shorten a name in its middle: columns of one source begin and end differently."""
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"


def plural(num: int, noun: str) -> str:
    return f"{num:,} {noun}{'' if num == 1 else 's'}"
