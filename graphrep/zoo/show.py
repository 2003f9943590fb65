"""A zoo in the terminal: what it is, its columns with histograms, its copies and leaks.

Numbers come from `population` and `columns`; here is how they are set out, from 80
columns of text upwards. Weights are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .columns import Column, describe_columns
from .importing import read_skipped
from .population import (
    BOOKKEEPING,
    Duplicates,
    count_architectures,
    count_splits,
    find_duplicates,
    main_metric,
)
from .store.shards import total_loss
from .terminal_tables import (
    category_table,
    count_text,
    cut,
    lay_out,
    number_table,
    plural,
    share_text,
    size_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from .store.zoo import Zoo

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
    ) -> Iterator[RenderableType | Segment]:
        folded = options.update(no_wrap=False, overflow="fold")  # also where text is not
        for part in self._parts(options.max_width, console.color_system is not None):
            yield from console.render(part, folded)

    def _parts(self, width: int, coloured: bool) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

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
        for remark in [*_number_remarks(self.columns, coloured), *_remarks(self.columns)]:
            yield Text(remark, style="dim")


def _facts(zoo: Zoo) -> list[tuple[str, str]]:
    """What the header and the rows say of the whole, a line each."""
    table, header = zoo.properties, zoo.header
    num_models = table["model"].nunique()
    whole = f"{plural(num_models, 'model')}, {plural(len(table), 'checkpoint')}"
    if "epoch" in table and table["epoch"].notna().any():
        whole += f", {_epochs(table)}"
    if not header.get("finished", True):
        whole += " (the zoo is unfinished: only these models are there yet)"
    facts = [("path", zoo.url), ("source", _source(header)), ("licence", header.get("licence", ""))]
    facts += [("members", whole), ("storage", _storage(zoo))]
    if num := len(read_skipped(zoo)):
        facts.append(("skipped", f"{num:,} members of the source: skipped.csv"))
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
            about = f"{plural(broken.sum(), 'checkpoint')} of {plural(models, 'model')}"
            facts.append(("diverged", f"{about} with values that are not finite"))
    return [(name, text) for name, text in facts if text]


def _source(header: Mapping[str, Any]) -> str:
    """Where a zoo comes from."""
    recipe, source = header.get("recipe"), header.get("source")
    if recipe:
        return f"made by graphrep: recipe of {recipe.get('kind', 'unknown kind')}, seed " + str(
            recipe.get("seed", "unknown")
        )
    if isinstance(source, Mapping) and source:
        parts = [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in source.items()]
        return "imported: " + ", ".join(cut(part, 60) for part in parts)
    return f"imported: {source}" if source else ""


def _storage(zoo: Zoo) -> str:
    """Bytes on disk, and what float16 costs."""
    header = zoo.header
    text = f"stored as {header['dtype']}" if "dtype" in header else ""
    if zoo.path.is_dir():
        size = sum(f.stat().st_size for f in zoo.path.rglob("*") if f.is_file())
        text = f"{size_text(size)} on disk, {text}".removesuffix(", ")
    if loss := total_loss(header):
        text += (
            f": off by {loss['largest_error']:.2g} at most, "
            f"relatively {loss['largest_relative_error']:.2g}"
        )
        if loss["num_to_zero"]:
            text += f"; {loss['num_to_zero']:,} values became zero"
        if loss["shards_kept"]:
            text += f"; {loss['shards_kept']} shards beyond its range kept as they came"
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
        models = plural(int(rest["models"].sum()), "model")
        note = f"… and {len(rest):,} more of {low:,} to {high:,} parameters, {models}"
    yield from lay_out(headings, rows, width, note=note)


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
        f"{plural(len(duplicates.groups), 'group')} of equal checkpoints "
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
            f"{plural(len(leaks), 'group')} of equal weights cross the splits "
            f"({leaks['checkpoints'].sum():,} checkpoints of {leaks['models'].sum():,} models): "
            "what is trained on is tested on. Drop these models, or take results on this zoo "
            "with doubt.\n" + _groups_text(duplicates, leaks)
        )
        yield Panel(text, title="LEAK", title_align="left", style="bold red", highlight=False)
    inside = copies[copies["splits"] <= 1]
    if len(inside):
        yield Panel(
            f"{plural(len(inside), 'group')} of equal weights within one split\n"
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
            f"{plural(members['model'].nunique(), 'model')} in {', '.join(splits) or 'no split'}"
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


def _number_remarks(columns: Sequence[Column], coloured: bool) -> Iterator[str]:
    """What the histograms cannot show."""
    found = [(c, c.histogram) for c in columns if c.kind == "number" and c.histogram is not None]
    if coloured and found:
        yield "Bright bars: the middle half."
    zeros = [f"{c.name} {share_text(h.num_zero, c.num_rows)}" for c, h in found if h.num_zero]
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
        f"{c.name} {cut(c.common[0][0], 30) or '(empty)'}" for c in columns if c.kind == "constant"
    ]
    if alike:
        yield "The same in all: " + ", ".join(alike)
    texts = [
        f"{c.name} ({count_text(c.num_distinct)} distinct, such as {cut(c.common[0][0], 30)})"
        for c in columns
        if c.kind == "text"
    ]
    if texts:
        yield "Texts: " + ", ".join(texts)
    if empty := [c.name for c in columns if c.kind == "empty"]:
        yield "Empty: " + ", ".join(empty)
