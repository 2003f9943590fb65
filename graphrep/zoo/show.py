"""A zoo in the terminal: what it is, its columns with histograms, its copies and leaks.

Numbers come from `population` and `columns`; here is how they are set out, from 80
columns of text upwards. Weights are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .columns import BINS, Column, Histogram, describe_columns
from .population import (
    BOOKKEEPING,
    Duplicates,
    count_architectures,
    count_splits,
    find_duplicates,
    main_metric,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from .store.zoo import Zoo

_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 100  # columns of a terminal from where on quartiles have columns of their own
_MIN_NAME = 12  # characters of a property's name that are kept in any case
_MAX_ARCHITECTURES = 8
_MAX_GROUPS = 5


def population_text(zoo: Zoo) -> PopulationText:
    """What `graphrep zoo show` prints: hand it to rich's `print`.

    Args:
        zoo: A zoo or a view of one; sizes on disk are the whole zoo's.
    """
    table = zoo.properties
    return PopulationText(
        title=zoo.name,
        facts=_facts(zoo),
        architectures=architecture_table(zoo),
        columns=describe(table),
        duplicates=find_duplicates(table),
        num_rows=len(table),
    )


def describe(properties: pd.DataFrame) -> list[Column]:
    """The columns worth a line: the main metric first, without those that number and name."""
    main = main_metric(properties)
    names = [str(n) for n in properties.columns if n not in BOOKKEEPING or n == "epoch"]
    names.sort(key=lambda name: name != main)
    return describe_columns(properties[names])


@dataclass(frozen=True, eq=False)
class PopulationText:
    """A population that rich can print; it fits the width that it is given."""

    title: str
    facts: Sequence[tuple[str, str]]
    architectures: pd.DataFrame  # name, fingerprint, parameters, models, checkpoints
    columns: Sequence[Column]
    duplicates: Duplicates | None
    num_rows: int

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        width = options.max_width
        yield Text(self.title, style="bold")
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in [*self.facts, ("copies", _about_copies(self.duplicates, self.num_rows))]:
            grid.add_row(name, Text(text))
        yield grid
        yield from _warnings(self.duplicates)
        yield from _architecture_table(self.architectures, width)
        yield from number_table(self.columns, width)
        yield from category_table(self.columns, width)
        remarks = [*_number_remarks(self.columns, console.color_system is not None)]
        for remark in [*remarks, *_remarks(self.columns)]:
            yield Text(remark, style="dim")


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
    wide = width >= _WIDE
    headings = ["missing", "distinct", "min"] if wide else ["miss", "dist", "min"]
    headings += ["25 %", "median", "75 %", "max"] if wide else ["median", "max"]
    rows = []
    for column in shown:
        numbers = column.quartiles or (float("nan"),) * 5
        cells = [_share(column.num_missing + column.num_infinite, column.num_rows)]
        cells += [count_text(column.num_distinct)]
        cells += map(number_text, numbers if wide else numbers[::2])
        logarithmic = column.histogram is not None and column.histogram.logarithmic
        rows.append([column.name, *cells, _histogram_text(column), "log" if logarithmic else ""])
    yield from _table(["number", *headings, " histogram", ""], rows, width, num_left=2)


def category_table(columns: Sequence[Column], width: int) -> Iterator[RenderableType]:
    """Texts and truth values with their most common values, a row each."""
    shown = [c for c in columns if c.kind in ("category", "truth")]
    if not shown:
        return
    rows = []
    for column in shown:
        common = [
            f"{_cut(value, 24)} {_share(num, column.num_rows)}" for value, num in column.common
        ]
        if (more := column.num_distinct - len(common)) > 0:
            common.append(f"{count_text(more)} others")
        lacking = _share(column.num_missing, column.num_rows)
        rows.append([column.name, lacking, count_text(column.num_distinct), ", ".join(common)])
    yield from _table(["category", "missing", "distinct", "most common"], rows, width, num_left=1)


def number_text(value: float) -> str:
    """A number in at most eight characters: whole ones below 100,000, else two or three digits."""
    if value != value:
        return "–"
    size = abs(value)
    if 1000 <= size < 1e5 or (size < 1000 and value == int(value)):
        return f"{value:,.0f}"
    if 1e-3 <= size < 1000:
        return f"{value:.3g}"
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


def _facts(zoo: Zoo) -> list[tuple[str, str]]:
    """What the header and the rows say of the whole, a line each."""
    table, header = zoo.properties, zoo.header
    num_models = table["model"].nunique()
    whole = f"{_plural(num_models, 'model')}, {_plural(len(table), 'checkpoint')}"
    if "epoch" in table and table["epoch"].notna().any():
        whole += f", {_epochs(table)}"
    if not header.get("finished", True):
        whole += " (the zoo is unfinished: only these models are there yet)"
    facts = [("path", zoo.url), ("source", _source(header)), ("licence", header.get("licence", ""))]
    facts += [("members", whole), ("storage", _storage(zoo))]
    if header.get("num_skipped"):
        facts.append(("skipped", f"{header['num_skipped']:,} members of the source: skipped.csv"))
    if "split" in table:
        facts.append(
            (
                "splits",
                ", ".join(f"{row.split} {row.models:,}" for row in count_splits(table).itertuples())
                + " models",
            )
        )
    if "diverged" in table:
        broken = table["diverged"].eq(True).fillna(False).to_numpy(bool)
        if broken.any():
            models = table["model"][broken].nunique()
            about = f"{_plural(broken.sum(), 'checkpoint')} of {_plural(models, 'model')}"
            facts.append(("diverged", f"{about} with values that are not finite"))
    return [(name, text) for name, text in facts if text]


def _source(header: Mapping[str, Any]) -> str:
    """Where a zoo comes from."""
    recipe, source = header.get("recipe"), header.get("source")
    if recipe:
        return f"made by graphrep: recipe of {recipe.get('kind', 'unknown kind')}, seed " + str(
            recipe.get("seed", "unknown")
        )
    if isinstance(source, Mapping):
        parts = [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in source.items()]
        return "imported: " + ", ".join(_cut(part, 60) for part in parts)
    return f"imported: {source}" if source else ""


def _storage(zoo: Zoo) -> str:
    """Bytes on disk, and what float16 costs."""
    header = zoo.header
    text = f"stored as {header['dtype']}" if "dtype" in header else ""
    if zoo.path.is_dir():
        size = sum(f.stat().st_size for f in zoo.path.rglob("*") if f.is_file())
        text = f"{size_text(size)} on disk, {text}".removesuffix(", ")
    loss = header.get("storage_loss") or {}
    if "largest_error" in loss:
        text += (
            f": off by {loss['largest_error']:.2g} at most, "
            f"relatively {loss.get('largest_relative_error', float('nan')):.2g}"
        )
    if kept := loss.get("shards_kept_in_float32"):
        text += f"; {kept} shards beyond its range kept in float32"
    return text


def architecture_table(zoo: Zoo) -> pd.DataFrame:
    """Count, name and size of each architecture, without parsing those that the header knows."""
    table = count_architectures(zoo.properties)
    known = zoo.header.get("architectures", {})
    names, sizes = [], []
    for fingerprint in table["architecture"]:
        if fingerprint in known:
            names.append(str(known[fingerprint]["name"]))
            sizes.append(int(known[fingerprint]["num_parameters"]))
        else:
            architecture = zoo.architectures[fingerprint]
            names.append(architecture.name)
            sizes.append(architecture.num_parameters)
    table = table.rename(columns={"architecture": "fingerprint"})
    return table.assign(name=names, parameters=sizes)


def _architecture_table(architectures: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    shown = architectures[:_MAX_ARCHITECTURES]
    counts = [
        [f"{num:,}" for num in shown[name].tolist()]
        for name in ("parameters", "models", "checkpoints")
    ]
    rows = [list(row) for row in zip(shown["name"], shown["fingerprint"], *counts, strict=True)]
    headings = ["architecture", "fingerprint", "parameters", "models", "checkpoints"]
    rest = architectures[_MAX_ARCHITECTURES:]
    note = ""
    if len(rest):
        low, high = rest["parameters"].min(), rest["parameters"].max()
        models = _plural(int(rest["models"].sum()), "model")
        note = f"… and {len(rest):,} more of {low:,} to {high:,} parameters, {models}"
    yield from _table(headings, rows, width, note=note)


def _about_copies(duplicates: Duplicates | None, num_rows: int) -> str:
    if duplicates is None:
        return "unknown: the zoo has no content hashes"
    if not len(duplicates.groups):
        return f"none: all {num_rows:,} checkpoints differ"
    still = len(duplicates.groups) - len(duplicates.copies)
    parts = [
        f"{len(duplicates.copies):,} across models" if len(duplicates.copies) else "",
        f"{still:,} within one model (it stood still)" if still else "",
    ]
    return (
        f"{_plural(len(duplicates.groups), 'group')} of equal checkpoints "
        f"({duplicates.num_checkpoints:,} of {num_rows:,}): " + ", ".join(filter(None, parts))
    )


def _warnings(duplicates: Duplicates | None) -> Iterator[RenderableType]:
    """Leaks loudly, other copies quietly; the largest groups of each."""
    from rich.panel import Panel

    if duplicates is None:
        return
    leaks, copies = duplicates.leaks, duplicates.copies
    if len(leaks):
        text = (
            f"{_plural(len(leaks), 'group')} of equal weights cross the splits "
            f"({leaks['checkpoints'].sum():,} checkpoints of {leaks['models'].sum():,} models): "
            "what is trained on is tested on. Drop these models, or take results on this zoo "
            "with doubt.\n" + _groups_text(duplicates, leaks)
        )
        yield Panel(text, title="LEAK", title_align="left", style="bold red", highlight=False)
    inside = copies[copies["splits"] <= 1]
    if len(inside):
        yield Panel(
            f"{_plural(len(inside), 'group')} of equal weights within one split\n"
            + _groups_text(duplicates, inside),
            title="copies",
            title_align="left",
            style="yellow",
            highlight=False,
        )


def _groups_text(duplicates: Duplicates, groups: pd.DataFrame) -> str:
    from rich.markup import escape

    lines = []
    for group in groups[:_MAX_GROUPS].itertuples():
        members = duplicates.members(str(group.content_hash))
        splits = sorted(members["split"].dropna().unique()) if "split" in members else []
        names = (members["name"] if "name" in members else members["model"]).astype("str")
        shown = names.drop_duplicates()
        about = [
            f"{_plural(members['model'].nunique(), 'model')} in {', '.join(splits) or 'no split'}"
        ]
        if "epoch" in members and members["epoch"].notna().any():
            about.append(_epochs(members))
        about += ["diverged"] * bool(group.diverged)
        more = f", … {len(shown) - 3:,} more" * (len(shown) > 3)
        lines.append(f"{group.content_hash}  {', '.join(about)}: {', '.join(shown[:3])}{more}")
    if len(groups) > _MAX_GROUPS:
        lines.append(f"… and {len(groups) - _MAX_GROUPS:,} more groups")
    return escape("\n".join(lines))


def _epochs(rows: pd.DataFrame) -> str:
    low, high = float(rows["epoch"].min()), float(rows["epoch"].max())
    return f"epoch {low:g}" if low == high else f"epochs {low:g} to {high:g}"


def _histogram_text(column: Column) -> Text:
    """The bars, bright between the quartiles, with ‹ and › where values lie beyond."""
    from rich.text import Text

    found = column.histogram
    if found is None:
        return Text("")
    width, _ = _bar_width(found)
    low, high = (found.bin_of(column.quartiles[i]) for i in (1, 3))
    text = Text(bars(found), style="dim cyan")
    text.stylize("bold cyan", low * width, (high + 1) * width)
    return Text("‹" if found.open_below else " ") + text + Text("›" if found.open_above else " ")


def _bar_width(found: Histogram) -> tuple[int, int]:
    """Characters a bin, and how many of them its bar fills."""
    width = BINS // len(found.counts)
    return width, max(1, width - 1)


def _number_remarks(columns: Sequence[Column], coloured: bool) -> Iterator[str]:
    """What the histograms cannot show."""
    found = [(c, c.histogram) for c in columns if c.kind == "number" and c.histogram is not None]
    if coloured and found:
        yield "Bright bars: the middle half."
    zeros = [f"{c.name} {_share(h.num_zero, c.num_rows)}" for c, h in found if h.num_zero]
    if zeros:
        yield "Zeros, which have no place on a log scale: " + ", ".join(zeros)
    if any(h.open_below or h.open_above for _, h in found):
        yield "‹ ›: the outermost bar also holds what lies far out."
    infinite = [f"{c.name} {c.num_infinite:,}" for c in columns if c.num_infinite]
    if infinite:
        yield "Infinite, counted as missing: " + ", ".join(infinite)


def _remarks(columns: Sequence[Column]) -> Iterator[str]:
    """Columns that need no line of their own."""
    alike = [
        f"{c.name} {_cut(c.common[0][0], 30) or '(empty)'}" for c in columns if c.kind == "constant"
    ]
    if alike:
        yield "The same in all: " + ", ".join(alike)
    texts = [
        f"{c.name} ({count_text(c.num_distinct)} distinct, such as {_cut(c.common[0][0], 30)})"
        for c in columns
        if c.kind == "text"
    ]
    if texts:
        yield "Texts: " + ", ".join(texts)
    if empty := [c.name for c in columns if c.kind == "empty"]:
        yield "Empty: " + ", ".join(empty)


def _table(
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

    kept = [i for i in range(len(headings)) if any(len(row[i]) for row in rows)]
    sizes = [max(len(headings[i]), *(len(row[i]) for row in rows)) for i in kept]
    gap = 2 if width >= _WIDE else 1
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


def _share(num: int, of: int) -> str:
    """A part in percent; empty for none."""
    if num == 0 or of == 0:
        return ""
    percent = 100 * num / of
    if percent < 1:
        return "<1 %"
    return f"{min(percent, 99):.0f} %" if num < of else "100 %"


def _cut(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _cut_middle(text: str, limit: int) -> str:
    """Shorten a name in its middle: columns of one source begin and end differently."""
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"


def _plural(num: int, noun: str) -> str:
    return f"{num:,} {noun}{'' if num == 1 else 's'}"
