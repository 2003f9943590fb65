"""An architecture as two tables: what a network is made of, for reading and for pandas.

Knows `Architecture`; values play no part, so graphs of modules on `meta` have a summary too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lgamma, log
from typing import TYPE_CHECKING, Any

import torch

from .architecture import Architecture, Block, Units
from .architecture.nesting import family, log10_symmetries

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROWS = 40  # of a printed table; the rest is folded in its middle
_MAX_NAME = 48  # characters of a printed name; longer ones are cut at their start
_MAX_END = 36  # of a block's source or target
_UNITS = ("name", "size", "kind", "within", "activations", "num_parameters", "log10_symmetries")
_HEADINGS = {  # of the columns of numbers
    "size": "size",
    "num_parameters": "parameters",
    "log10_symmetries": "log10 orders",
}
_BLOCKS = ("name", "kind", "role", "source", "target", "shape", "num_parameters")


@dataclass(frozen=True, eq=False)
class Summary:
    """What `graph.summary()` gives: print it, or read `units` and `blocks` as DataFrames."""

    architecture: Architecture

    @cached_property
    def units(self) -> pd.DataFrame:
        """A row a unit group, in order of execution.

        `within` names the groups that it sits within ("12 × 64 in heads": 64 members in each
        of 12), `num_parameters` counts the numbers of the blocks that lead to it, and
        `log10_symmetries` how many orders it may take while what it sits within stays.
        """
        import pandas as pd

        own: dict[str | None, int] = {}
        for block in self.architecture.blocks:
            own[block.target] = own.get(block.target, 0) + block.num_edges
        rows = [
            (
                units.name,
                units.size,
                units.kind,
                ", ".join(within(self.architecture, units)),
                ", ".join(units.activations),
                own.get(units.name, 0),
                _log10_orders(self.architecture, units),
            )
            for units in self.architecture.units
        ]
        return pd.DataFrame(rows, columns=list(_UNITS))

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """A row a block, in order of execution; `shape` is that of its part of the tensor."""
        import pandas as pd

        rows = [
            (b.name, b.kind, b.role, b.source or "", b.target or "", shape(b), b.num_edges)
            for b in self.architecture.blocks
        ]
        return pd.DataFrame(rows, columns=list(_BLOCKS))

    @property
    def num_parameters(self) -> int:
        """P, the length of theta: parameters and normalisation statistics."""
        return self.architecture.num_parameters

    @property
    def num_statistics(self) -> int:
        """How many of these numbers are normalisation statistics."""
        return sum(t.numel for t in self.architecture.stored if t.role == "statistic")

    @property
    def num_opaque(self) -> int:
        """How many numbers no rule could place; they are kept and never move."""
        return sum(b.num_edges for b in self.architecture.blocks if b.kind == "opaque")

    @property
    def log10_symmetries(self) -> float:
        """How many reorderings leave the function as it is, log10."""
        return log10_symmetries(self.architecture)

    def totals(self) -> dict[str, Any]:
        """The numbers at the summary's end, by name."""
        return {
            "fingerprint": self.architecture.fingerprint,
            "num_parameters": self.num_parameters,
            "num_statistics": self.num_statistics,
            "num_opaque": self.num_opaque,
            "num_unit_groups": len(self.architecture.units),
            "num_blocks": len(self.architecture.blocks),
            "log10_symmetries": round(self.log10_symmetries, 3),
            "verified": self.architecture.verified,
        }

    def __str__(self) -> str:
        a = self.architecture
        ends = zip(self.blocks["source"], self.blocks["target"], strict=True)
        arrows = [" -> ".join(_cut(end, _MAX_END) for end in pair if end) for pair in ends]
        units = self.units.assign(
            name=self.units["name"].map(_cut),
            log10_symmetries=self.units["log10_symmetries"].map("{:,.1f}".format),
        )
        blocks = self.blocks.drop(columns=["source", "target"])
        blocks["name"] = blocks["name"].map(_cut)
        blocks.insert(3, "source -> target", arrows)
        statistics = f", {self.num_statistics:,} of them statistics" * (self.num_statistics > 0)
        checked = "verified numerically" if a.verified else "not verified numerically"
        opaque = f"{self.num_opaque:,}" if self.num_opaque else "none"
        return "\n".join(
            [
                f"{a.name} ({a.fingerprint})",
                "",
                f"{len(a.units)} unit groups",
                *_table(units),
                "",
                f"{len(a.blocks)} blocks",
                *_table(blocks),
                "",
                f"parameters  {self.num_parameters:,}{statistics}",
                f"opaque      {opaque}",
                f"symmetry    10^{self.log10_symmetries:.1f} permutations, {checked}",
            ]
        )

    def __repr__(self) -> str:
        return str(self)


def summarize(architecture: Architecture) -> Summary:
    """The summary of an architecture; `graph.summary()` is this of the graph's own."""
    return Summary(architecture)


def within(architecture: Architecture, units: Units) -> list[str]:
    """What units sit within, a text a parent: "12 × 64 in heads", or "in heads" if uneven."""
    texts = []
    for parent in units.parents:
        num = architecture.unit[parent.units].size
        counts = torch.bincount(parent.of(units.size), minlength=num)
        even = units.size > 0 and bool((counts == counts[0]).all())
        texts.append(
            f"{num} × {int(counts[0])} in {parent.units}" if even else f"in {parent.units}"
        )
    return texts


def shape(block: Block) -> str:
    """Sizes of a block's axes, as in 16×8×3×3; those of a part, where it is one."""
    return "×".join(str(span.size * span.slots) for span in block.axes) or "1"


def _log10_orders(architecture: Architecture, units: Units) -> float:
    if units.fixed:
        return 0.0
    number, num = family(architecture, units.name)
    sizes = torch.bincount(number, minlength=num).tolist()
    return sum(lgamma(size + 1) for size in sizes) / log(10)


def _table(table: pd.DataFrame) -> list[str]:
    """Lines of plain text: numbers to the right, long tables folded in their middle."""
    head, tail = 2 * _MAX_ROWS // 3, _MAX_ROWS // 3
    num_folded = len(table) - head - tail
    shown = [*range(head), *range(len(table) - tail, len(table))]
    rows = (table.iloc[shown] if num_folded > 1 else table).itertuples(index=False, name=None)
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row] for row in rows]
    text = [[_HEADINGS.get(str(c), str(c)) for c in table.columns], *cells]
    widths = [max(len(row[i]) for row in text) for i in range(len(table.columns))]
    to_right = [str(c) in _HEADINGS for c in table.columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        )
        for row in [*text[:1], ["-" * width for width in widths], *text[1:]]
    ]
    if num_folded > 1:
        lines.insert(2 + head, f"... {num_folded:,} more ...")
    return [f"  {line}".rstrip() for line in lines]


def _cut(text: str, limit: int = _MAX_NAME) -> str:
    """Shorten a name at its start: modules that are alike differ at their ends."""
    return text if len(text) <= limit else f"…{text[len(text) - limit + 1 :]}"
