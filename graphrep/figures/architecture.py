"""The picture of an architecture: unit groups as boxes, weight tensors as arrows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arrows import Arrow, route
from .boxes import LINE, Box, shape
from .layout import lay_out
from .style import INK, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..architecture import Architecture

_FACES = {"input": "#E3E3E3", "output": "#FBE3C8", "hidden": "#DCEBF7", "fixed": "#E3E3E3"}
_EDGES = {"input": "#777777", "output": "#C8731A", "hidden": "#2F74AD", "fixed": "#777777"}
_LINES = "#444444"
_MARGIN = 0.35
_HEAD = 0.6
_SMALL = 6.8  # points


def architecture_picture(architecture: Architecture) -> Figure:
    """Draw unit groups and the parameter blocks between them.

    Boxes are unit groups with what they carry by themselves (bias, norm); grey and orange
    ones are fixed, blue ones can be reordered. Arrows are dense blocks with their shapes.
    A residual stream is a bar with its branches beside it; "×12" says that twelve
    branches alike are drawn once. Below stand blocks that found no place.
    """
    from matplotlib.figure import Figure

    layout = lay_out(architecture)
    arrows = route(layout)
    notes = [
        f"{block.tensor} {shape(block)}: {block.kind}, kept but not placed"
        for block in architecture.blocks
        if block.source is None and block.target is None
    ]
    ends = [point for arrow in arrows for point in arrow.points]
    passing = [arrow.label_at[0] - 1.5 for arrow in arrows if arrow.curved]
    left = min([0.0, *passing]) - _MARGIN
    right = max(layout.width, 3.4) + _MARGIN
    floor = max([layout.height, *(y for _, y in ends)])
    with style():
        height = floor + 0.2 * len(notes) + _HEAD + 2 * _MARGIN
        figure = Figure(figsize=(right - left, height))
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.set_axis_off()
        ax.set(xlim=(left, right), ylim=(height - _HEAD - _MARGIN, -_HEAD - _MARGIN))
        for arrow in arrows:
            _draw_arrow(ax, arrow)
        for box in layout.boxes.values():
            _draw_box(ax, box)
        text: dict[str, Any] = {"va": "center", "color": INK}
        left += _MARGIN
        ax.text(left, -_HEAD, architecture.name, fontsize=12, weight="bold", **text)
        counts = (
            f"{architecture.num_parameters:,} parameters, "
            f"{len(architecture.units)} unit groups, {len(architecture.blocks)} blocks"
        )
        ax.text(left, -_HEAD + 0.24, counts, fontsize=8.5, **text)
        for i, note in enumerate(notes):
            ax.text(left, floor + 0.25 + 0.2 * i, note, fontsize=8, color="#A03010")
    return figure


def _draw_box(ax: Axes, box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    for shift in (0.07, 0.0) if box.repeats > 1 else (0.0,):  # a second sheet behind
        ax.add_patch(
            FancyBboxPatch(
                (box.x + shift, box.y - shift),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=0.07",
                facecolor=_FACES[box.kind],
                edgecolor=_EDGES[box.kind],
                linewidth=1.1,
                zorder=3,
            )
        )
    text: dict[str, Any] = {"va": "center", "zorder": 4}
    top, title = box.y + 0.15, _fit(box.units, 26 if box.repeats > 1 else 31)
    ax.text(box.x + 0.1, top, title, fontsize=8, weight="bold", color=INK, **text)
    if box.repeats > 1:
        badge: dict[str, Any] = {"fontsize": 9, "weight": "bold", "ha": "right"}
        colour = _EDGES[box.kind]
        ax.text(box.x + box.width - 0.08, top, f"×{box.repeats}", color=colour, **badge, **text)
    for i, line in enumerate(box.lines):
        place = (box.x + 0.1, top + (i + 1) * LINE)
        ax.text(*place, _fit(line, 37), fontsize=_SMALL, color=INK, **text)


def _draw_arrow(ax: Axes, arrow: Arrow) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    rest = Path.CURVE4 if arrow.curved else Path.LINETO
    codes = [Path.MOVETO, *[rest] * (len(arrow.points) - 1)]
    ax.add_patch(
        FancyArrowPatch(
            path=Path(arrow.points, codes),
            arrowstyle="-|>,head_length=4,head_width=2.2",
            color=_LINES,
            linewidth=1.0,
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )
    horizontal, vertical = arrow.label_align
    ax.text(
        *arrow.label_at,
        "\n".join(_fit(line, 31) for line in arrow.label.split("\n")),
        fontsize=_SMALL,
        ha=horizontal,
        va=vertical,
        color=INK,
        zorder=2.5,
        linespacing=1.15,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )


def _fit(text: str, limit: int) -> str:
    """Shorten a name in its middle: its start and its end say most."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 3]}…{text[len(text) - (limit - limit // 3 - 1) :]}"
