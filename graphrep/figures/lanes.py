"""Lanes: the ways of arrows that do not join neighbours.

Such an arrow leaves its box sideways, runs in a lane of its own in the channel between two
columns, and enters its target from the side; who goes further takes the corridor below all
columns. Channel k lies left of column k and right of column k - 1. Columns are moved apart
until the lanes and the labels beside them have room.

Knows `Layout` and the ends of arrows. Lengths are in inches, y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .boxes import Box
from .layout import Layout, place

if TYPE_CHECKING:
    from .arrows import Arrow

Side = Literal["left", "right"]

_LANE = 0.13  # between lanes
_ROOM = 0.16  # between a label and what is beside it


def assign_lanes(layout: Layout, arrows: Sequence[Arrow]) -> None:
    """Choose lanes, move the columns apart to make room for them, and place all boxes again."""
    floor = layout.bottom
    wanted: dict[tuple[int, str], list[tuple[float, float, Arrow, int]]] = {}
    for arrow in (a for a in arrows if a.way == "lane"):
        a, b = layout.boxes[arrow.source], layout.boxes[arrow.target]
        start, end = _exit_y(layout, arrow, arrows), _entry_y(layout, arrow, arrows)
        first = a.column + (_exit(layout, arrow) == "right")
        last = b.column + (arrow.side == "right")
        if first == last:
            arrow.lanes = [0.0]
            wanted.setdefault((last, arrow.side), []).append((start, end, arrow, 0))
        else:
            arrow.lanes = [0.0, 0.0]
            side = _exit(layout, arrow)
            wanted.setdefault((first, side), []).append((start, floor + 9, arrow, 0))
            wanted.setdefault((last, arrow.side), []).append((floor + 9, end, arrow, 1))
    chosen = {
        key: lanes([(min(s, e), max(s, e)) for s, e, *_ in found]) for key, found in wanted.items()
    }
    x = 0.0
    places: dict[tuple[int, str], float] = {}
    for channel in range(len(layout.columns) + 1):
        zones = {}
        for where, column in (("right", channel - 1), ("left", channel)):
            labels = [
                a.label_width for a in arrows
                if a.way == "lane" and a.side == where and layout.boxes[a.target].column == column
            ]  # fmt: skip
            zones[where] = max(labels, default=0.0) + (_ROOM if labels else 0.0) + 0.12
        for where in ("right", "left"):
            number = max(chosen.get((channel, where), [-1])) + 1
            if where == "right":
                places[channel, where] = x + zones["right"]
                x = places[channel, where] + number * _LANE
            else:
                x += number * _LANE + (0.35 if 0 < channel < len(layout.columns) else 0.0)
                places[channel, where] = x
                x += zones["left"]
        if channel < len(layout.columns):
            layout.columns[channel].x = x
            x += layout.columns[channel].width
    for key, found in wanted.items():
        for lane, (_, _, arrow, index) in zip(chosen[key], found, strict=True):
            step = _LANE * lane * (1 if key[1] == "right" else -1)
            arrow.lanes[index] = places[key] + step
    place(layout)


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """A lane for each span, so that spans which overlap lie in different lanes.

    Short spans come first, hence nearest to the boxes.

    >>> lanes([(0, 2), (1, 3), (0, 3), (3, 5)])
    [0, 1, 2, 0]
    """
    chosen = [0] * len(spans)
    taken: list[list[tuple[float, float]]] = []
    for i in sorted(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0]):
        start, end = spans[i]
        free = (all(end <= a or start >= b for a, b in lane) for lane in taken)
        chosen[i] = next((lane for lane, is_free in enumerate(free) if is_free), len(taken))
        if chosen[i] == len(taken):
            taken.append([])
        taken[chosen[i]].append((start, end))
    return chosen


def draw_lane(layout: Layout, arrow: Arrow, arrows: Sequence[Arrow]) -> None:
    """Out of a box sideways, along one lane or two, into a box from the side."""
    a, b = layout.boxes[arrow.source], layout.boxes[arrow.target]
    start_y, end_y = _exit_y(layout, arrow, arrows), _entry_y(layout, arrow, arrows)
    exit_side = _exit(layout, arrow)
    if _free(layout, a, exit_side):
        points = [(a.right if exit_side == "right" else a.x, start_y)]
    else:
        shift = 0.25 + 0.12 * _number(layout, arrow, arrows)  # several leave side by side
        x = a.right - shift if exit_side == "right" else a.x + shift
        points = [(x, a.bottom), (x, start_y)]
    points.append((arrow.lanes[0], start_y))
    if len(arrow.lanes) == 2:
        further = [x for x in arrows if len(x.lanes) == 2]
        corridor = layout.bottom + 0.25 + 0.1 * further.index(arrow)
        points += [(arrow.lanes[0], corridor), (arrow.lanes[1], corridor)]
    points.append((arrow.lanes[-1], end_y))
    right = arrow.side == "right"
    if _free(layout, b, arrow.side):
        end = (b.right if right else b.x, end_y)
        points.append(end)
        arrow.label_at = (b.item.right + 0.1 if right else b.item.x - 0.14, end_y - 0.025)
        arrow.label_align = ("left" if right else "right", "bottom")
    else:
        x = b.right - 0.3 if right else b.x + 0.3
        points += [(x, end_y), (x, b.y)]
        arrow.label_at = (x + (0.05 if right else -0.05), end_y - 0.025)
        arrow.label_align = ("left" if right else "right", "bottom")
    arrow.points = points


def _exit(layout: Layout, arrow: Arrow) -> Side:
    a, b = layout.boxes[arrow.source], layout.boxes[arrow.target]
    if a.column == b.column:
        return arrow.side
    return "right" if b.column > a.column else "left"


def _free(layout: Layout, box: Box, side: str) -> bool:
    """Whether nothing of its column lies on this side of a box."""
    item = box.item
    for other in layout.items(box.column):
        level = other.y < box.bottom and box.y < other.bottom
        beyond = other.x > item.x if side == "right" else other.x < item.x
        if other is not item and level and beyond:
            return False
    return True


def _number(layout: Layout, arrow: Arrow, arrows: Sequence[Arrow]) -> int:
    """Which one it is of the arrows that leave a box on one side."""
    side = _exit(layout, arrow)
    mates = [a for a in arrows if a.way == "lane" and a.source == arrow.source]
    return [a for a in mates if _exit(layout, a) == side].index(arrow)


def _exit_y(layout: Layout, arrow: Arrow, arrows: Sequence[Arrow]) -> float:
    """Where an arrow leaves: low at the side of its box, or in the gap below its row."""
    box = layout.boxes[arrow.source]
    side = _exit(layout, arrow)
    number = _number(layout, arrow, arrows)
    if _free(layout, box, side):
        return box.bottom - 0.12 - 0.12 * number
    row = [layout.boxes[name] for name in _row_of(layout, box)]
    return max(b.bottom for b in [*row, box.item]) + 0.09 + 0.07 * number


def _row_of(layout: Layout, box: Box) -> list[str]:
    for row in layout.columns[box.column].rows:
        if box.item.units in row:
            return row
    return []


def _entry_y(layout: Layout, arrow: Arrow, arrows: Sequence[Arrow]) -> float:
    box = layout.boxes[arrow.target]
    if not _free(layout, box, arrow.side):
        return box.y - 0.1
    y = box.y + 0.16
    for other in arrows:
        if other is arrow:
            break
        if other.way == "lane" and other.target == arrow.target and other.side == arrow.side:
            y += arrow.label_height + 0.08
    return y
