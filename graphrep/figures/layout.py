"""Where the boxes of an architecture's picture go.

The main rows follow the order of computation, top down, in one column or several. A
stream is a tall bar with its branches in rows beside it.

Lengths are in inches, y grows downwards; draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .boxes import BOX_WIDTH, Box, Stream, boxes_of, in_order, streams_of

if TYPE_CHECKING:
    import networkx as nx

    from ..architecture import Architecture

GAP = 0.62  # between rows of boxes, room for an arrow's label
ARROW = 1.75  # length of arrows beside a stream, room for a label
LANE = 0.3  # between arrows that pass rows by
COLUMN_HEIGHT = 9.5  # a longer chain goes on in another column, or in longer ones
_ASPECT = 1.6  # width over height that very long chains tend to


@dataclass(kw_only=True)
class Layout:
    """Boxes in their places, and what arrows need to know to find their ways."""

    boxes: dict[str, Box]
    streams: dict[str, Stream]  # by hub
    graph: nx.MultiDiGraph  # all dense blocks between different unit groups

    def column(self, number: int) -> list[Box]:
        """The boxes of a main column, with those beside its streams."""
        return [box for box in self.boxes.values() if box.column == number]

    @property
    def width(self) -> float:
        return max(box.x + box.width for box in self.boxes.values())

    @property
    def height(self) -> float:
        return max(box.bottom for box in self.boxes.values())


def lay_out(architecture: Architecture) -> Layout:
    """Boxes row by row in the order of computation, long chains in several columns."""
    import networkx as nx

    graph = nx.MultiDiGraph()
    graph.add_nodes_from(units.name for units in architecture.units)
    for block in architecture.blocks:
        if block.source and block.target and block.source != block.target:
            graph.add_edge(block.source, block.target, block=block)
    boxes = boxes_of(architecture)
    layout = Layout(boxes=boxes, streams=streams_of(graph, boxes), graph=graph)
    _place(layout)
    return layout


def lanes(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A lane for each span of rows, so that spans which overlap lie in different lanes.

    Short spans come first, hence nearest to the boxes.

    >>> lanes([(0, 2), (1, 3), (0, 3), (3, 5)])
    [0, 1, 2, 0]
    """
    chosen = [0] * len(spans)
    taken: list[list[tuple[int, int]]] = []
    for i in sorted(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0]):
        start, end = spans[i]
        free = (all(end <= a or start >= b for a, b in lane) for lane in taken)
        chosen[i] = next((lane for lane, is_free in enumerate(free) if is_free), len(taken))
        if chosen[i] == len(taken):
            taken.append([])
        taken[chosen[i]].append((start, end))
    return chosen


def _place(layout: Layout) -> None:
    """Give all boxes their places: main rows in columns, branches beside their bars."""
    import networkx as nx

    boxes, streams = layout.boxes, layout.streams
    hub_of = {member: stream.hub for stream in streams.values() for member in stream.members}
    merged = nx.DiGraph()
    merged.add_nodes_from(hub_of.get(name, name) for name in layout.graph)
    ends = [(hub_of.get(a, a), hub_of.get(b, b)) for a, b in layout.graph.edges()]
    merged.add_edges_from((a, b) for a, b in ends if a != b)
    rows = list(nx.topological_generations(merged))
    row_of = {name: i for i, row in enumerate(rows) for name in row}
    edges = [(row_of[a], row_of[b]) for a, b in merged.edges()]
    heights = [max(_height(layout, name) for name in row) for row in rows]
    widest = max((len(b) for s in streams.values() for b in s.branches), default=0) + 1
    area = (sum(heights) + GAP * len(heights)) * widest * (BOX_WIDTH + ARROW)
    starts = _column_starts(heights, edges, max(COLUMN_HEIGHT, math.sqrt(area / _ASPECT)))

    x = y = width = 0.0
    for i, row in enumerate(rows):
        if i in starts:
            passing = [(a, b) for a, b in edges if b - a > 1 and a >= i]
            passing_room = LANE * (1 + max(lanes(passing))) + 1.0 if passing else 0.0
            x, y, width = x + width + ARROW + passing_room, 0.0, 0.0
        row_x = x
        for name in in_order(row, boxes):
            box = boxes[name]
            box.x, box.y, box.row = row_x, y, i
            box.column = sum(start <= i for start in starts)
            if name in streams:
                row_x += _place_branches(layout, streams[name]) + 0.5
            else:
                row_x += BOX_WIDTH + 0.5
        width = max(width, row_x - 0.5 - x)
        y += heights[i] + GAP


def _column_starts(
    heights: Sequence[float], edges: Sequence[tuple[int, int]], limit: float
) -> list[int]:
    """Rows that begin another column: where the fewest arrows must change columns.

    Looks back from the row that would be too low over as many rows as fill a third of a
    column.
    """
    starts: list[int] = []
    first = 0
    while True:
        depth, options = 0.0, []
        for i in range(first, len(heights)):
            depth += heights[i] + GAP
            if i > first and depth - heights[i] > limit * 2 / 3:
                options.append(i)
            if depth - GAP > limit and i > first:
                break
        else:
            return starts
        options = options or [i]
        first = min(options, key=lambda row: (sum(a < row <= b for a, b in edges), -row))
        starts.append(first)


def _height(layout: Layout, name: str) -> float:
    own = layout.boxes[name].height
    if name not in layout.streams:
        return own
    branches = layout.streams[name].branches
    return max(own, sum(_branch_height(layout, branch) + 0.3 for branch in branches))


def _branch_height(layout: Layout, branch: list[list[str]]) -> float:
    return max(sum(layout.boxes[units].height + 0.15 for units in column) for column in branch)


def _place_branches(layout: Layout, stream: Stream) -> float:
    """Put the branches beside the bar; returns the width that bar and branches take."""
    bar = layout.boxes[stream.hub]
    bar.height = _height(layout, stream.hub)
    y, width = bar.y + 0.15, bar.width
    for branch in stream.branches:
        for i, column in enumerate(branch):
            left, column_y = (i + 1) * (BOX_WIDTH + ARROW), y
            for box in (layout.boxes[units] for units in column):
                box.x, box.y, box.column = bar.x + left, column_y, bar.column
                column_y += box.height + 0.15
            width = max(width, left + BOX_WIDTH)
        y += _branch_height(layout, branch) + 0.3
    return width
