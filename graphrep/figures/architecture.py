"""The picture of an architecture: unit groups as boxes, blocks as arrows with shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..architecture.nesting import log10_symmetries
from ..summary import shape
from .arrows import TEXT_LINE, Arrow, Point, route
from .boxes import INSET, LINE, Box
from .layout import lay_out
from .lettering import SMALL, TITLE, width
from .picture import picture
from .style import INK, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..architecture import Architecture

_FACES = {"input": "#E3E3E3", "output": "#FBE3C8", "hidden": "#DCEBF7", "fixed": "#F3F3F3"}
_EDGES = {"input": "#777777", "output": "#C8731A", "hidden": "#2F74AD", "fixed": "#777777"}
_LINES = "#444444"
_TIP = "-|>,head_length=4,head_width=2.2"
_WARNING = "#A03010"
_MARGIN = 0.3
_HEAD = 0.75  # height of the title
_FOOT = 0.45  # height of the legend
_MAX_NOTES = 12
_LEGEND = (
    ("hidden", "units, can be reordered"),
    ("input", "input units"),
    ("fixed", "fixed units"),
    ("output", "output units"),
    ("frame", "units of units, such as heads of dims"),
    ("arrow", "weights, with their tensor's shape"),
    ("×3", "three alike, drawn once"),
)


def architecture_picture(architecture: Architecture) -> Figure:
    """Draw unit groups and the parameter blocks between them.

    Boxes are unit groups with what they carry by themselves (bias, norm); grey and orange
    ones are fixed, blue ones can be reordered, dashed frames hold units that sit within
    others. Arrows are blocks with their shapes; without a name they belong to the module
    that the box is named after. A residual stream is a bar with its branches beside it;
    "×12" says that twelve alike are drawn once. Below stand blocks that found no place.
    Text stays text in SVG, and each box's group carries its units' name as id.
    """
    layout = lay_out(architecture)
    arrows = route(layout)
    notes = _notes(architecture)
    xs = [x for arrow in arrows for x, _ in arrow.points]
    xs += [x for arrow in arrows for x in _label_span(arrow)]
    left = min([layout.left, *xs]) - _MARGIN
    right = max([layout.right, *xs, left + 5.2]) + _MARGIN
    floor = max([layout.bottom, *(y for arrow in arrows for _, y in arrow.points)]) + 0.1
    boxes = layout.boxes.values()
    used = {"frame" if box.children else box.kind for box in boxes}
    used |= {
        kind
        for kind, drawn in (("arrow", bool(arrows)), ("×3", any(box.counted for box in boxes)))
        if drawn
    }
    rows = _legend_rows(used, right - left - 2 * _MARGIN)
    height = floor + 0.2 * len(notes) + 0.24 * len(rows) + _HEAD + 0.1 + 2 * _MARGIN
    with style():
        figure = picture(right - left, height)
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.set_axis_off()
        ax.set(xlim=(left, right), ylim=(height - _HEAD - _MARGIN, -_HEAD - _MARGIN))
        for box in (b for b in layout.boxes.values() if b.top is None):
            _draw_box(ax, box)
        for arrow in arrows:
            _draw_arrow(ax, arrow)
        text: dict[str, Any] = {"va": "center", "color": INK}
        left += _MARGIN
        ax.text(left, -_HEAD, architecture.name, fontsize=12, weight="bold", **text)
        ax.text(left, -_HEAD + 0.24, _counts(architecture), fontsize=8.5, **text)
        for i, note in enumerate(notes):
            ax.text(left, floor + 0.2 + 0.2 * i, note, fontsize=8, color=_WARNING)
        for i, row in enumerate(rows):
            y = floor + 0.2 * len(notes) + 0.3 + 0.24 * i
            for x, (kind, meaning) in row:
                _draw_legend(ax, left + x, y, kind, meaning)
    return figure


def _counts(architecture: Architecture) -> str:
    verified = ", verified" if architecture.verified else ""
    return (
        f"{architecture.num_parameters:,} parameters, {len(architecture.units)} unit groups, "
        f"{len(architecture.blocks)} blocks, "
        f"10^{log10_symmetries(architecture):.1f} symmetries{verified}"
    )


def _notes(architecture: Architecture) -> list[str]:
    """Blocks without a place, a line each."""
    notes = [
        f"{block.tensor} {shape(block)}: {block.kind}, kept but not placed"
        for block in architecture.blocks
        if block.source is None and block.target is None
    ]
    if len(notes) > _MAX_NOTES:
        notes = [*notes[:_MAX_NOTES], f"… and {len(notes) - _MAX_NOTES} more without a place"]
    return notes


def _label_span(arrow: Arrow) -> tuple[float, float]:
    x, size = arrow.label_at[0], arrow.label_width
    before = {"left": 0.0, "center": 0.5, "right": 1.0}[arrow.label_align[0]]
    return x - before * size, x + (1 - before) * size


def _draw_box(ax: Axes, box: Box, depth: int = 0) -> None:
    frame = bool(box.children)
    for shift in (0.06, 0.0) if box.counted else (0.0,):  # a second sheet behind
        _draw_outline(ax, box, shift, frame, depth)
    x, y = box.x + INSET, box.y + 0.14
    text: dict[str, Any] = {"va": "center", "zorder": 5}
    if box.counted:
        badge: dict[str, Any] = {"fontsize": 9, "weight": "bold", "ha": "right"}
        ax.text(box.right - 0.07, y, f"×{box.repeats}", color=_EDGES[box.kind], **badge, **text)
    for line, bold in box.title:
        weight, size = ("bold", TITLE) if bold else ("normal", SMALL)
        ax.text(x, y, line, fontsize=size, weight=weight, color=INK, **text)
        y += LINE
    for line in box.lines:
        ax.text(x, y, line, fontsize=SMALL, color="#444444", **text)
        y += LINE
    for child in box.children:
        _draw_box(ax, child, depth + 1)


def _draw_outline(ax: Axes, box: Box, shift: float, frame: bool, depth: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(
        FancyBboxPatch(
            (box.x + shift, box.y - shift),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor="#F4F8FC" if frame else _FACES[box.kind],
            edgecolor=_EDGES[box.kind],
            linewidth=1.1,
            linestyle=(0, (4, 2)) if frame else "solid",
            zorder=1 + 0.1 * depth if frame else 2 if shift else 3,
            gid=None if shift else box.units,
        )
    )


def _draw_arrow(ax: Axes, arrow: Arrow) -> None:
    from matplotlib.patches import FancyArrowPatch

    ax.add_patch(
        FancyArrowPatch(
            path=_rounded(arrow.points),
            arrowstyle=_TIP,
            color=_LINES,
            linewidth=1.0,
            shrinkA=0,
            shrinkB=0,
            zorder=2.5,
            gid=f"{arrow.source} to {arrow.target}",
        )
    )
    horizontal, vertical = arrow.label_align
    ax.text(
        *arrow.label_at,
        "\n".join(arrow.lines),
        fontsize=SMALL,
        ha=horizontal,
        va=vertical,
        color=INK,
        zorder=2.8,
        linespacing=TEXT_LINE * 72 / SMALL / 1.02,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8},
    )


def _rounded(points: list[Point], radius: float = 0.07) -> Any:
    """A path along corners that are rounded."""
    from matplotlib.path import Path

    corners, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for other, code in ((before, Path.LINETO), (after, Path.CURVE3)):
            length = max(abs(other[0] - corner[0]) + abs(other[1] - corner[1]), 1e-9)
            part = min(radius, length / 2) / length
            point = tuple(c + (o - c) * part for c, o in zip(corner, other, strict=True))
            assert len(point) == 2
            if code == Path.CURVE3:
                corners.append(corner)
                codes.append(Path.CURVE3)
            corners.append(point)
            codes.append(code)
    return Path([*corners, points[-1]], [*codes, Path.LINETO])


def _legend_rows(used: set[str], limit: float) -> list[list[tuple[float, tuple[str, str]]]]:
    """The legend's entries with their x, in as many rows as the width asks for."""
    rows: list[list[tuple[float, tuple[str, str]]]] = [[]]
    x = 0.0
    for entry in (e for e in _LEGEND if e[0] in used):
        step = 0.42 + width(entry[1], 7.5) + 0.25
        if rows[-1] and x + step > limit:
            rows.append([])
            x = 0.0
        rows[-1].append((x, entry))
        x += step
    return rows


def _draw_legend(ax: Axes, x: float, y: float, kind: str, meaning: str) -> None:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    if kind == "arrow":
        ax.add_patch(
            FancyArrowPatch(
                (x, y), (x + 0.32, y), arrowstyle=_TIP, color=_LINES, shrinkA=0, shrinkB=0
            )
        )
    elif kind in _FACES or kind == "frame":
        frame = kind == "frame"
        kind = "hidden" if frame else kind
        ax.add_patch(
            FancyBboxPatch(
                (x, y - 0.07),
                0.3,
                0.14,
                boxstyle="round,pad=0,rounding_size=0.04",
                facecolor="#F4F8FC" if frame else _FACES[kind],
                edgecolor=_EDGES[kind],
                linestyle=(0, (3, 2)) if frame else "solid",
                linewidth=1.0,
            )
        )
    else:
        colour = _EDGES["hidden"]
        ax.text(x, y, kind, fontsize=9, weight="bold", va="center", color=colour)
    ax.text(x + 0.4, y, meaning, fontsize=7.5, va="center", color=INK)
