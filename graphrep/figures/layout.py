"""Where the boxes of an architecture's picture go.

The main rows follow the order of computation, top down, in one column or several. A stream
is a tall bar with its branches below each other beside it. An architecture that comes back
to what it left (a U-Net) goes down in one column and up in the next.

Lengths are in inches, y grows downwards; draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING

from .boxes import INNER_GAP, Box, boxes_of
from .streams import Stream, contracted, streams_of

if TYPE_CHECKING:
    import networkx as nx

    from ..architecture import Architecture

GAP = 0.55  # between rows of boxes, room for an arrow's label
ARROW = 1.45  # length of arrows beside a stream, room for a label
BESIDE = 0.4  # between boxes of a row
_BRANCH_GAP = 0.3
COLUMN_HEIGHT = 10.5  # a lower picture has one column
_MAX_COLUMNS = 12
_CROSSING = 0.3  # height that one arrow less between columns is worth
_CHANNEL = 1.4  # between columns, about
_ASPECT = 1.5  # width over height that pictures of several columns tend to
_MIN_RETURN = 4  # rows that an arrow passes by, for a picture shaped as a U


@dataclass(kw_only=True)
class Column:
    """Main rows below each other, or above each other where `up`."""

    rows: list[list[str]]
    up: bool = False
    x: float = 0.0
    width: float = 0.0
    height: float = 0.0


@dataclass(kw_only=True)
class Layout:
    """Boxes in their places, and what arrows need to know to find their ways."""

    boxes: dict[str, Box]
    streams: dict[str, Stream]  # by hub
    graph: nx.MultiDiGraph  # all blocks between different unit groups
    architecture: Architecture
    columns: list[Column] = field(default_factory=list)

    def stream_of(self, name: str) -> str | None:
        """The hub of the stream beside which a box stands."""
        item = self.boxes[name].item.units
        beside = (s.hub for s in self.streams.values() if item in s.members and item != s.hub)
        return next(beside, None)

    def items(self, column: int) -> list[Box]:
        """The outermost boxes of a column, those beside its streams among them."""
        return [b for b in self.boxes.values() if b.top is None and b.column == column]

    @property
    def left(self) -> float:
        return min((box.x for box in self.boxes.values()), default=0.0)

    @property
    def right(self) -> float:
        return max((box.right for box in self.boxes.values()), default=0.0)

    @property
    def bottom(self) -> float:
        return max((box.bottom for box in self.boxes.values()), default=0.0)


def lay_out(architecture: Architecture) -> Layout:
    """Boxes row by row in the order of computation; x counts from each column's left edge."""
    import networkx as nx

    graph = nx.MultiDiGraph()
    graph.add_nodes_from(units.name for units in architecture.units)
    for block in architecture.blocks:
        if block.source and block.target and block.source != block.target:
            graph.add_edge(block.source, block.target, block=block)
    boxes = boxes_of(architecture, graph)
    streams = streams_of(graph, boxes)
    layout = Layout(boxes=boxes, streams=streams, graph=graph, architecture=architecture)
    rows, edges = _rows(layout)
    layout.columns = _columns(layout, rows, edges)
    place(layout)
    return layout


def place(layout: Layout) -> None:
    """Give all boxes their places from their heights and their columns' x; may be repeated."""
    number = 0
    for index, column in enumerate(layout.columns):
        _place_column(layout, index, GAP)
        for i, row in enumerate(column.rows):
            for box in (b for name in row for b in layout.boxes[name].walk()):
                box.column, box.row = index, number + i
        number += len(column.rows)
    if any(column.up for column in layout.columns):  # both sides of a U are equally high
        height = max(column.height for column in layout.columns)
        for index, column in enumerate(layout.columns):
            room = (height - column.height) / max(1, len(column.rows) - 1)
            _place_column(layout, index, GAP + room)


def _place_column(layout: Layout, index: int, gap: float) -> None:
    column = layout.columns[index]
    y = column.width = 0.0
    for row in reversed(column.rows) if column.up else column.rows:
        x = column.x
        for name in row:
            box = layout.boxes[name]
            box.place(x, y)
            right = box.right
            if name in layout.streams:
                right = max(right, _place_branches(layout, layout.streams[name], index))
            x = right + BESIDE
        column.width = max(column.width, x - BESIDE - column.x)
        column.height = y + _row_height(layout, row)
        y = column.height + gap


def _place_branches(layout: Layout, stream: Stream, column: int) -> float:
    """Put the branches beside the bar, below each other; their right edge."""
    bar = layout.boxes[stream.hub]
    x, y, right = bar.right + ARROW, bar.y + 0.1, bar.right
    for branch in stream.branches:
        for before, name in zip([None, *branch], branch, strict=False):
            if before is not None:
                y += _gap(layout, before, name)
            box = layout.boxes[name]
            box.place(x, y)
            for part in box.walk():
                part.column, part.row = column, -1
            y, right = y + box.height, max(right, box.right)
        y += _BRANCH_GAP
    bar.min_height = max(bar.min_height, y - _BRANCH_GAP + 0.1 - bar.y)
    return right


def _gap(layout: Layout, above: str, below: str) -> float:
    a, b = (list(layout.boxes[name].walk()) for name in (above, below))
    joined = any(layout.graph.has_edge(s.units, t.units) for s in a for t in b)
    return INNER_GAP if joined else 0.2


def _row_height(layout: Layout, row: Sequence[str]) -> float:
    return max(layout.boxes[name].height for name in row)


def _rows(layout: Layout) -> tuple[list[list[str]], list[tuple[int, int]]]:
    """Main rows in order of computation, and the arrows between them as pairs of rows."""
    import networkx as nx

    boxes, streams = layout.boxes, layout.streams
    hub_of = {member: stream.hub for stream in streams.values() for member in stream.members}
    whole = contracted(layout.graph, boxes)
    graph = nx.DiGraph()
    graph.add_nodes_from(hub_of.get(name, name) for name in whole)
    ends = [(hub_of.get(a, a), hub_of.get(b, b)) for a, b in whole.edges()]
    graph.add_edges_from((a, b) for a, b in ends if a != b)
    row_of = {name: i for i, row in enumerate(nx.topological_generations(graph)) for name in row}
    for name in graph:  # what is read late for the first time stands near its reader
        if not graph.in_degree(name) and graph.out_degree(name):
            row_of[name] = min(row_of[b] for b in graph.successors(name)) - 1
    for name in reversed(list(nx.topological_sort(graph))):  # ... and near what reads it
        beside_stream = any(row_of[hub] == row_of[name] for hub in streams if hub != name)
        if beside_stream and name not in streams and graph.out_degree(name):
            row_of[name] = min(row_of[b] for b in graph.successors(name)) - 1
    rows: list[list[str]] = []
    for i in sorted(set(row_of.values())):
        row = [name for name in boxes if row_of.get(name) == i]
        plain = [name for name in row if name not in streams]
        rows += [[name] for name in row if name in streams]  # a stream has a row of its own
        rows += [plain] if plain else []
    place_of = {name: i for i, row in enumerate(rows) for name in row}
    return rows, [(place_of[a], place_of[b]) for a, b in graph.edges()]


def _columns(
    layout: Layout, rows: list[list[str]], edges: Sequence[tuple[int, int]]
) -> list[Column]:
    if not rows:
        return []
    turn = _turn(rows, edges)
    if turn is not None:
        return [Column(rows=rows[:turn]), Column(rows=rows[turn:], up=True)]
    best, least = [Column(rows=rows)], float("inf")
    for num in range(1, min(len(rows), _MAX_COLUMNS) + 1):
        layout.columns = best if num == 1 else _broken(layout, rows, edges, num)
        place(layout)
        height = max(column.height for column in layout.columns)
        width = sum(column.width for column in layout.columns) + _CHANNEL * len(layout.columns)
        misfit = abs(log(width / height / _ASPECT))
        if misfit < least:
            best, least = layout.columns, misfit
        if height <= (COLUMN_HEIGHT if num == 1 else COLUMN_HEIGHT / 3):
            break
    return best


def _broken(
    layout: Layout, rows: list[list[str]], edges: Sequence[tuple[int, int]], num: int
) -> list[Column]:
    """The rows in about so many columns of about one height."""
    heights = [_row_height(layout, row) for row in rows]
    ends = [0, *_cuts(heights, edges, num), len(rows)]
    return [Column(rows=rows[a:b]) for a, b in pairwise(ends)]


def _turn(rows: Sequence[list[str]], edges: Sequence[tuple[int, int]]) -> int | None:
    """The first row of the way up, if arrows lie within each other around one row."""
    long = sorted({(a, b) for a, b in edges if b - a > 1})
    around = [(a, b) for a, b in long if b - a >= _MIN_RETURN]
    nested = all(a < c and d < b for (a, b), (c, d) in pairwise(around))
    if len(around) < 2 or not nested or any(len(row) > 2 for row in rows):
        return None
    a, b = around[-1]
    return (a + b) // 2 + 1


def _cuts(heights: Sequence[float], edges: Sequence[tuple[int, int]], num: int) -> list[int]:
    """Rows that begin another of `num` columns: low columns, few arrows between them."""
    crossing = [sum(a < row <= b for a, b in edges) for row in range(len(heights))]
    limit = max(2 * (sum(heights) + GAP * len(heights)) / num, max(heights))
    best: list[tuple[float, float, list[int]]] = []  # cost of arrows, tallest column, cuts
    for used in range(num):
        following: list[tuple[float, float, list[int]]] = []
        for end in range(1, len(heights) + 1):
            options: list[tuple[float, float, list[int]]] = []
            height = -GAP
            for start in range(end - 1, -1 if used == 0 else used - 1, -1):
                height += heights[start] + GAP
                if height > limit and options:
                    break
                if used == 0 and start > 0:
                    continue
                arrows, tallest, cuts = best[start - 1] if used else (0.0, 0.0, [])
                if used:
                    arrows, cuts = arrows + _CROSSING * crossing[start], [*cuts, start]
                options.append((arrows, max(tallest, height), cuts))
            none = (float("inf"), float("inf"), [0])
            following.append(min(options, key=lambda o: o[0] + o[1], default=none))
        best = following
    return best[-1][2]
