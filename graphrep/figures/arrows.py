"""Which way the arrows of an architecture's picture take between its boxes.

Knows `Layout`; draws nothing. Lengths are in inches, y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .boxes import Box, shape
from .layout import ARROW, LANE, Layout, lanes

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """The dense blocks from one unit group to another."""

    source: str
    target: str
    label: str
    points: Sequence[Point]  # corners, or the four points of a Bezier curve
    curved: bool = False
    label_at: Point
    label_align: tuple[str, str]  # horizontal, vertical


def route(layout: Layout) -> list[Arrow]:
    """All arrows between boxes that are drawn; several blocks between two share one."""
    boxes = layout.boxes
    labels: dict[tuple[str, str], list[str]] = {}
    for source, target, block in layout.graph.edges(data="block"):
        if source in boxes and target in boxes:
            name = block.tensor.removesuffix(".weight")
            labels.setdefault((source, target), []).append(f"{name}\n{shape(block)}")
    texts = {
        ends: "\n".join(label) if len(label) < 3 else f"{label[0]}\nand {len(label) - 1} more"
        for ends, label in labels.items()
    }
    passing = [ends for ends in texts if _passes(layout, *ends)]
    spans = [_span(boxes[a], boxes[b]) for a, b in passing]
    lane_of = dict(zip(passing, lanes(spans), strict=True))
    changing = [ends for ends in texts if boxes[ends[0]].column != boxes[ends[1]].column]
    number_of = {  # counted from each column, and into each box
        ends: (
            sum(boxes[a].column == boxes[ends[0]].column for a, _ in changing[:i]),
            sum(b == ends[1] for _, b in changing[:i]),
        )
        for i, ends in enumerate(changing)
    }

    arrows = []
    for ends, text in texts.items():
        a, b = boxes[ends[0]], boxes[ends[1]]
        if ends in lane_of:
            course = _past(a, b, lane_of[ends])
        elif ends in number_of:
            course = _around(layout, a, b, *number_of[ends])
        elif a.row >= 0 and b.row >= 0:
            course = _down(a, b)
        elif b.x > a.x:
            course = _out(a, b)
        else:
            course = _back(a, b)
        points, curved, label_at, align = course
        arrows.append(
            Arrow(
                source=ends[0],
                target=ends[1],
                label=text,
                points=points,
                curved=curved,
                label_at=label_at,
                label_align=align,
            )
        )
    return arrows


Course = tuple[list[Point], bool, Point, tuple[str, str]]


def _passes(layout: Layout, source: str, target: str) -> bool:
    """Whether an arrow must pass rows by, left of the boxes of its column."""
    a, b = layout.boxes[source], layout.boxes[target]
    main = a.row >= 0 and b.row >= 0
    return main and a.column == b.column and b.row - a.row != 1


def _span(a: Box, b: Box) -> tuple[int, int]:
    return min(a.row, b.row), max(a.row, b.row)


def _down(a: Box, b: Box) -> Course:
    start = (a.x + a.width / 2, a.bottom)
    end = (b.x + b.width / 2, b.y)
    return [start, end], False, (_middle(start, end)[0] + 0.08, b.y - 0.31), ("left", "center")


def _past(a: Box, b: Box, lane: int) -> Course:
    start = (a.x, max(a.y + 0.1, a.bottom - 0.2 - 0.1 * lane))
    end = (b.x, min(b.bottom - 0.05, b.y + 0.15 + 0.1 * lane))
    apex = min(a.x, b.x) - 0.3 - LANE * lane
    out = a.x - (a.x - apex) * 4 / 3  # a Bezier curve comes three quarters of the way
    label_at = (apex - 0.06, (start[1] + end[1]) / 2 + 0.34 * lane)
    return [start, (out, start[1]), (out, end[1]), end], True, label_at, ("right", "center")


def _around(layout: Layout, a: Box, b: Box, number: int, entry: int) -> Course:
    """Down below the column, up between the columns, and in from the left."""
    column = layout.column(a.column)
    floor = max(box.bottom for box in column) + 0.18 + 0.13 * number
    between = max(box.x + box.width for box in column) + 0.2 + 0.13 * number
    low = max(box.row for box in column) == a.row
    if low:
        first = [(a.x + a.width / 2 + 0.25 * number, a.bottom)]
    else:
        first = [(a.x, a.bottom - 0.25), (a.x - 0.2 - 0.1 * number, a.bottom - 0.25)]
    end = (b.x, b.y + min(b.height - 0.1, b.height / 2 + 0.3 * entry))
    points = [*first, (first[-1][0], floor), (between, floor), (between, end[1]), end]
    return points, False, (end[0] - 0.15, end[1] - 0.03), ("right", "bottom")


def _out(a: Box, b: Box) -> Course:
    y = b.y + b.height / 2 - 0.1
    start, end = (a.x + a.width, y), (b.x, y)
    return [start, end], False, (b.x - ARROW / 2, y - 0.03), ("center", "bottom")


def _back(a: Box, b: Box) -> Course:
    if a.x - (b.x + b.width) <= ARROW + 1e-6:
        y = a.y + a.height / 2 + 0.1
        start, end = (a.x, y), (b.x + b.width, y)
        return [start, end], False, (a.x - ARROW / 2, y + 0.03), ("center", "top")
    y = a.bottom + 0.13  # under the boxes between
    points = [(a.x + 0.4, a.bottom), (a.x + 0.4, y), (b.x + b.width, y)]
    return points, False, (a.x - ARROW / 2, y - 0.03), ("center", "bottom")


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
