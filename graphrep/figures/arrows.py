"""Which way the arrows of an architecture's picture take between its boxes.

Neighbours are joined by straight arrows, a stream and its branches by level ones, all others
by lanes (`lanes.py`).

Knows `Layout`; draws nothing. Lengths are in inches, y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from .boxes import Box, label
from .lanes import assign_lanes, draw_lane
from .layout import ARROW, Layout, place
from .lettering import width

if TYPE_CHECKING:
    from ..architecture import Block

Point = tuple[float, float]
Pair = tuple[str, str]

TEXT_LINE = 0.112  # height of a line of a label
_LIMIT = 1.4  # of a label's width


@dataclass(kw_only=True, eq=False)
class Arrow:
    """The blocks from one unit group to another."""

    source: str
    target: str
    way: Literal["down", "out", "back", "lane"]
    lines: list[str]
    points: list[Point] = field(default_factory=list)  # corners
    label_at: Point = (0.0, 0.0)
    label_align: tuple[str, str] = ("left", "center")  # horizontal, vertical
    side: Literal["left", "right"] = "left"  # where a lane enters its target
    lanes: list[float] = field(default_factory=list)  # x of its lanes

    @property
    def label_width(self) -> float:
        return max(width(line) for line in self.lines)

    @property
    def label_height(self) -> float:
        return TEXT_LINE * len(self.lines)


def route(layout: Layout) -> list[Arrow]:
    """All arrows between boxes that are drawn; several blocks between two share one."""
    blocks: dict[Pair, list[Block]] = {}
    for source, target, block in layout.graph.edges(data="block"):
        if source in layout.boxes and target in layout.boxes:
            blocks.setdefault((source, target), []).append(block)
    arrows = []
    for (source, target), found in blocks.items():
        way = _way(layout, source, target)
        limit = ARROW - 0.2 if way in ("out", "back") else _LIMIT
        a, b = layout.boxes[source], layout.boxes[target]
        from_beside = b.row < 0 or (a.row < 0 and a.column == b.column)
        side: Literal["left", "right"] = "right" if from_beside else "left"
        lines = label(found, layout.architecture, limit)
        arrows.append(Arrow(source=source, target=target, way=way, lines=lines, side=side))
    _make_room(layout, arrows)
    place(layout)
    assign_lanes(layout, arrows)
    _draw_down(layout, [arrow for arrow in arrows if arrow.way == "down"])
    for arrow in arrows:
        if arrow.way in ("out", "back"):
            _draw_level(layout, arrow)
        elif arrow.way == "lane":
            draw_lane(layout, arrow, arrows)
    return arrows


def _way(layout: Layout, source: str, target: str) -> Literal["down", "out", "back", "lane"]:
    a, b = layout.boxes[source], layout.boxes[target]
    if layout.stream_of(target) == source:
        return "out"
    if layout.stream_of(source) == target:
        return "back"
    if a.column != b.column:
        return "lane"
    if a.item is b.item:
        for frame in a.item.walk():
            if a in frame.children and b in frame.children:
                below = frame.children.index(b) - frame.children.index(a) == 1
                return "down" if below and not a.children and not b.children else "lane"
        return "lane"
    last = a.top is None or _last(a.item) is a
    if b.top is not None or not last:
        return "lane"
    if a.row >= 0 and b.row >= 0:
        return "down" if b.row - a.row == 1 else "lane"
    if a.row < 0 and b.row < 0:
        for stream in layout.streams.values():
            for branch in stream.branches:
                if (a.item.units, b.units) in pairwise(branch):
                    return "down"
    return "lane"


def _last(box: Box) -> Box:
    return _last(box.children[-1]) if box.children else box


def _make_room(layout: Layout, arrows: Sequence[Arrow]) -> None:
    """Make boxes high enough for the arrows at their sides."""
    for name, box in layout.boxes.items():
        level = [a for a in arrows if a.way in ("out", "back") and name in (a.source, a.target)]
        if layout.stream_of(name) is not None and level:
            box.min_height = max(box.min_height, 0.2 + sum(_reach(arrow) for arrow in level))
        for side in ("left", "right"):
            ins = [a for a in arrows if a.way == "lane" and a.target == name and a.side == side]
            outs = [a for a in arrows if a.way == "lane" and a.source == name]
            need = 0.3 + sum(a.label_height + 0.08 for a in ins[1:]) + 0.12 * len(outs)
            if ins or outs:
                box.min_height = max(box.min_height, need)


def _reach(arrow: Arrow) -> float:
    """How far a level arrow's label needs it to stay from its box's edge."""
    return max(0.2, arrow.label_height - 0.04)


def _draw_down(layout: Layout, arrows: Sequence[Arrow]) -> None:
    """Straight arrows between neighbours; those that meet at a box share its edge."""
    for arrow in arrows:
        a, b = layout.boxes[arrow.source], layout.boxes[arrow.target]
        up = layout.columns[a.column].up and a.row >= 0 and a.item is not b.item
        outs = [x for x in arrows if x.source == arrow.source]
        ins = [x for x in arrows if x.target == arrow.target]
        start_x = _port(layout, a, [layout.boxes[x.target] for x in outs], b)
        end_x = _port(layout, b, [layout.boxes[x.source] for x in ins], a)
        if len(outs) == len(ins) == 1 and a.x < b.right and b.x < a.right:
            start_x = end_x = (max(a.x, b.x) + min(a.right, b.right)) / 2
        start, end = (start_x, a.y if up else a.bottom), (end_x, b.y if not up else b.bottom)
        down = -1 if up else 1
        if abs(start_x - end_x) < 0.02:
            arrow.points = [start, (start_x, end[1])]
        else:
            fan = max(x.label_height for x in outs) + 0.1 if len(ins) == 1 else 0.15
            level = end[1] - down * fan
            arrow.points = [start, (start_x, level), (end_x, level), end]
        at_start = len(ins) > 1 and len(outs) == 1
        x, y = (start_x, start[1] + down * 0.2) if at_start else (end_x, end[1] - down * 0.3)
        if len(ins) == 1 and len(arrow.points) > 2:
            x, y = end_x, end[1] - down * (arrow.label_height / 2 + 0.04)
        arrow.label_at = (x + 0.07, y)


def _port(layout: Layout, box: Box, others: Sequence[Box], other: Box) -> float:
    """Where one of several arrows stands along an edge: in the order of their other ends."""
    order = sorted(others, key=lambda b: b.x + b.width / 2)
    return box.x + box.width * (order.index(other) + 1) / (len(order) + 1)


def _draw_level(layout: Layout, arrow: Arrow) -> None:
    """Between a stream's bar and a box beside it: out high, with its label above; back low."""
    a, b = layout.boxes[arrow.source], layout.boxes[arrow.target]
    if arrow.way == "out":
        y = b.y + _reach(arrow)
        arrow.points = [(a.right, y), (b.x, y)]
        arrow.label_at, arrow.label_align = (a.right + ARROW / 2, y - 0.03), ("center", "bottom")
    else:
        y = a.bottom - _reach(arrow)
        arrow.points = [(a.x, y), (b.right, y)]
        arrow.label_at, arrow.label_align = (b.right + ARROW / 2, y + 0.03), ("center", "top")
