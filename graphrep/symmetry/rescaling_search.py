"""Which rescalings a module has: found by trial, with no rule about any operation.

A *column* is what one unit group owns of one block. To find a rescaling, the first column is
multiplied by a number a unit and the module is run. As long as each number of each operation's
result is only multiplied (by a power of two, or by a sign), later columns may still make up for
it. The first result for which that fails, say a ReLU of negated numbers or a sum of scaled and
unscaled ones, must be mended by a column that was used before it. That leaves a search over few
choices, none of which depends on what the operation is, and what comes further is tried first.
One search from each column gives a basis (in echelon form: each starts where no other does).
Whatever is found is checked on other random weights with other scales, alone and all together.

Scales are powers of two, which sums and products carry without rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..architecture import Architecture
from ..architecture.spec import Block
from .rehearsal import Parting, Rehearsal
from .rescaling import End, Kind, Part, Rescaling, end_units, ends_of

EXPONENTS: dict[Kind, tuple[int, ...]] = {"positive": (-1, 1), "sign": (1,)}
MOST_SLOTS = 3  # q, k and v
MAX_RUNS = 400  # for each start of a search
PATIENCE = 1  # columns that may be chosen without coming further
NEAR = 4  # columns that may mend what the last one broke
END = 1 << 60  # after all operations
NOWHERE = Parting(-1, 0, False)

Column = tuple[Part, ...]  # what is multiplied together, with exponents for a scale to the one
Choice = dict[int, Column]  # by number, raised to the power that was chosen


class Search:
    """The search for one kind of rescalings of one unit group."""

    def __init__(
        self, architecture: Architecture, rehearsal: Rehearsal, units: str, kind: Kind
    ) -> None:
        self.rehearsal, self.units, self.kind = rehearsal, units, kind
        self.size = architecture.unit[units].size
        self.columns = _columns(architecture, rehearsal, units)
        blocks = {b.name: b for b in architecture.blocks}
        self.first_use = [
            min(rehearsal.first_use.get(blocks[p.block].tensor, END) for p in variants[0])
            for variants in self.columns
        ]
        order = sorted(range(len(self.columns)), key=lambda i: self.first_use[i])
        self.columns = [self.columns[i] for i in order]
        self.first_use = [self.first_use[i] for i in order]
        self.runs = 0
        self.exhausted = False
        self.found: dict[int, Rescaling] = {}  # by the column that it starts with
        self.failed: list[Rescaling] = []  # what seemed to hold and did not, nor led further
        self._wrong: list[Rescaling] = []
        self._tried: set[frozenset[tuple[int, Column]]] = set()

    def basis(self) -> list[Rescaling]:
        """A rescaling for each column that one can start with.

        From the last to the first: a column that starts one may be left out of those before
        it, since they could be divided by that one.
        """
        for start in reversed(range(len(self.columns))):
            self.runs, self._tried, self._wrong = 0, set(), []
            for column in self.columns[start]:
                chosen = self._extend({start: _power(column, 1)}, NOWHERE, 0)
                if chosen is not None:
                    self.found[start] = self._factor(chosen)
                    break
            else:
                self.failed += self._wrong[:1]
        return [self.found[start] for start in sorted(self.found)]

    def _extend(
        self, chosen: Choice, furthest: Parting, lost: int, parting: Parting | None = None
    ) -> Choice | None:
        """Complete a choice of columns, or None.

        `furthest` is how far a part of this choice came, `lost` how many columns ago; `parting`
        is where this one ends, if known.
        """
        parting = parting or self._try(chosen)
        if parting is None:
            return chosen
        furthest, lost = (parting, 0) if parting > furthest else (furthest, lost + 1)
        if lost > PATIENCE:
            return None
        later = []
        for option in self._options(chosen, parting, lost):
            if self.runs > MAX_RUNS:
                self.exhausted = True
                return None
            reached = self._try(option)
            if reached is None:
                return option
            if reached.operation <= furthest.operation:
                later.append((option, reached))
                continue
            found = self._extend(option, furthest, lost, reached)
            if found is not None:
                return found
        later.sort(key=lambda pair: pair[1], reverse=True)
        for option, reached in later:
            found = self._extend(option, furthest, lost, reached)
            if found is not None:
                return found
        return None

    def _options(self, chosen: Choice, parting: Parting, lost: int) -> Iterator[Choice]:
        """The choice with one more column, used before the parting; the latest first."""
        exponents = EXPONENTS[self.kind] + ((-2, 2) if parting.squared else ())
        used = [
            number
            for number in range(min(chosen) + 1, len(self.columns))
            if number not in chosen
            and number not in self.found
            and self.first_use[number] <= parting.operation
        ]
        for number in used[: -NEAR - 1 : -1] if lost else used[::-1]:
            for column in self.columns[number]:
                for exponent in exponents:
                    option = {**chosen, number: _power(column, exponent)}
                    key = frozenset(option.items())
                    if key not in self._tried:
                        self._tried.add(key)
                        yield option

    def _try(self, chosen: Choice) -> Parting | None:
        """Where the results part from those of unscaled weights; None if nowhere."""
        self.runs += 1
        factor = self._factor(chosen)
        parting = self.rehearsal.parting(factor)
        if parting is None and not self.rehearsal.holds([factor]):
            self._wrong.append(factor)
            parting = Parting(END, 0, False)
        return parting

    def _factor(self, chosen: Choice) -> Rescaling:
        parts = tuple(
            part
            for number in sorted(chosen)
            for part in chosen[number]
            if self.kind == "positive" or part.exponent % 2
        )
        return Rescaling(units=self.units, size=self.size, kind=self.kind, parts=parts)


def _power(column: Column, exponent: int) -> Column:
    return tuple(replace(part, exponent=part.exponent * exponent) for part in column)


def _columns(architecture: Architecture, rehearsal: Rehearsal, units: str) -> list[list[Column]]:
    """What can be multiplied for these units, each in one or several variants (of eps)."""
    columns: list[list[Column]] = []
    means: dict[tuple[object, ...], int] = {}
    rows: dict[tuple[object, ...], int] = {}
    for block in architecture.blocks:
        if block.kind == "opaque":
            continue
        for end in ends_of(architecture, block, units):
            for slot in _slots(block, end):
                key = block.leader or block.tensor, block.axes, slot
                if block.role == "variance" and key in means:
                    columns[means[key]] = [
                        (*columns[means[key]][0], _part(block, end, slot, 2, eps))
                        for eps in rehearsal.eps_of(end_units(block, end))
                    ]
                    continue
                if block.role == "mean":
                    means[key] = len(columns)
                part = _part(block, end, slot, 1, 0.0)
                if end == "target" and block.target_axis is not None:
                    row = block.tensor, block.axes[block.target_axis], slot
                    if row in rows:  # the rest of the same rows, which reads other units
                        columns[rows[row]] = [(*v, part) for v in columns[rows[row]]]
                        continue
                    rows[row] = len(columns)
                columns.append([(part,)])
    return columns


def _slots(block: Block, end: End) -> list[int | None]:
    """A few rows of one unit are scaled apart; many, as after a flatten, are scaled together."""
    if end == "source" or block.target_axis is None:
        return [None]
    slots = block.axes[block.target_axis].slots
    return list(range(slots)) if 1 < slots <= MOST_SLOTS else [None]


def _part(block: Block, end: End, slot: int | None, exponent: int, offset: float) -> Part:
    return Part(block=block.name, end=end, slot=slot, exponent=exponent, offset=offset)
