"""The picture of a small network's neurons: every unit a dot, every weight a line.

Knows `ParameterGraph`; a large network is drawn by `architecture_picture` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..architecture import Units
from ..interchange import topology
from .lettering import SMALL, title, width
from .picture import picture
from .style import INK, PALETTE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..graph import ParameterGraph

MAX_UNITS = 400
MAX_LINES = 20_000
POSITIVE, NEGATIVE = PALETTE[0], PALETTE[1]
_FACES = {"input": "#C9C9C9", "output": "#F0A860", "hidden": "#9CC4E4", "fixed": "#E4E4E4"}
_COLUMN = 1.9  # inches between unit groups
_PITCH = 0.2  # inches between dots, less where there are many
_BETWEEN = 0.6  # inches between groups of one column, room for a name
_HEIGHT = 7.0  # of the tallest column, at most
_HEAD, _FOOT, _MARGIN = 0.75, 0.55, 0.3


def neuron_picture(graph: ParameterGraph) -> Figure:
    """Draw every unit as a dot and every weight between two units as a line.

    Columns are unit groups in steps of computation. Blue lines are positive weights, orange
    ones negative; the stronger a line, the larger the weight within its block. A kernel is
    one line with its strongest entry; a dashed line passes a column by. A dot's ring is what
    the unit carries by itself, its largest number (bias, norm) coloured the same way. Opaque
    tensors are left out.

    Raises:
        ValueError: no values, or more than `MAX_UNITS` units or `MAX_LINES` lines.
    """
    problem = obstacle(graph)
    if problem:
        raise ValueError(problem)
    architecture = graph.architecture
    num_units = sum(units.size for units in architecture.units)
    ends, strength = _lines(graph)
    between = ends[0] != ends[1]
    columns = _columns(graph)
    tallest = max((sum(u.size for u in c) for c in columns), default=1)
    pitch = min(_PITCH, _HEIGHT / max(tallest, 1))
    places = _places(columns, pitch)
    height = max([1.0, *(2 * float(y.abs().max()) for y in (p[:, 1] for p in places.values()))])
    limit = _COLUMN - 0.25
    right = max(_COLUMN * (len(columns) - 1), 3.2)
    with style():
        figure = picture(right + _COLUMN, height + _HEAD + _FOOT + 2 * _MARGIN)
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.set_axis_off()
        ax.set(
            xlim=(-_COLUMN / 2, right + _COLUMN / 2),
            ylim=(height / 2 + _FOOT + _MARGIN, -height / 2 - _HEAD - _MARGIN),
        )
        nodes = torch.cat([torch.zeros(0, 2), *(places[u.name] for u in architecture.units)])
        _draw_lines(ax, nodes, ends[:, between], strength[between])
        _draw_dots(ax, architecture.units, nodes, pitch, ends[:, ~between], strength[~between])
        for units in (u for u in architecture.units if u.size):
            x, y = places[units.name][-1].tolist()
            y += 0.12
            for text, bold in _name(units, limit):
                weight: Any = "bold" if bold else "normal"
                ax.text(x, y, text, fontsize=SMALL, weight=weight, ha="center", va="top", color=INK)
                y += 0.13
        left = -_COLUMN / 2 + _MARGIN
        top = -height / 2 - _HEAD
        ax.text(left, top, architecture.name, fontsize=12, weight="bold", color=INK, va="center")
        counts = f"{num_units:,} units, {architecture.num_parameters:,} parameters"
        ax.text(left, top + 0.24, counts, fontsize=8.5, color=INK, va="center")
        x = left
        for text, colour in (("positive weight", POSITIVE), ("negative weight", NEGATIVE)):
            ax.plot([x, x + 0.3], [top + 0.48] * 2, color=colour, linewidth=1.8)
            ax.text(x + 0.36, top + 0.48, text, fontsize=7.5, color=INK, va="center")
            x += 0.36 + width(text, 7.5) + 0.25
    return figure


def obstacle(graph: ParameterGraph) -> str:
    """Why `neuron_picture` cannot draw a graph, for people; empty if it can."""
    name = graph.architecture.name
    instead = (
        "draw the architecture instead: graphrep.figures.architecture_picture(graph.architecture), "
        "or --picture"
    )
    if graph.theta.is_meta:
        return f"'{name}' was traced on the meta device and has no values; {instead}"
    num_units = sum(units.size for units in graph.architecture.units)
    if num_units > MAX_UNITS:
        return (
            f"'{name}' has {num_units:,} units, more than the {MAX_UNITS} that can be told apart "
            f"as dots; {instead}"
        )
    ends, _ = _lines(graph)
    num_lines = int((ends[0] != ends[1]).sum())
    if num_lines > MAX_LINES:
        return (
            f"'{name}' has {num_lines:,} weights between units, more than the {MAX_LINES:,} that "
            f"can be drawn as lines; {instead}"
        )
    return ""


def _lines(graph: ParameterGraph) -> tuple[Tensor, Tensor]:
    """Pairs of nodes int64 [2, L], and the strongest number of each in [-1, 1] of its block."""
    t = topology(graph.architecture)
    placed = [i for i, b in enumerate(graph.architecture.blocks) if b.kind != "opaque"]
    kept = torch.isin(t.edge_block, torch.tensor(placed, dtype=torch.int64))
    value = graph.theta[t.edge_parameter][kept].double().nan_to_num(0.0, 0.0, 0.0)
    block, index = t.edge_block[kept], t.edge_index[:, kept]
    largest = torch.zeros(len(graph.architecture.blocks), dtype=torch.float64)
    largest.scatter_reduce_(0, block, value.abs(), "amax")
    value = value / largest[block].clamp_min(1e-30)
    order = torch.argsort(value.abs())  # the strongest comes last and wins
    pairs, number = torch.unique(index[:, order], dim=1, return_inverse=True)
    strength = torch.zeros(pairs.shape[1], dtype=torch.float64)
    last = torch.zeros(pairs.shape[1], dtype=torch.int64)
    last.scatter_reduce_(0, number, torch.arange(len(number)), "amax")
    strength[:] = value[order][last] if len(number) else 0.0
    return pairs, strength


def _columns(graph: ParameterGraph) -> list[list[Units]]:
    """Unit groups in steps of computation: each right of the groups it reads from."""
    order = {u.name: i for i, u in enumerate(graph.architecture.units)}
    step = dict.fromkeys(order, 0)
    ends = [(b.source, b.target) for b in graph.architecture.blocks if b.source and b.target]
    for _ in order:  # blocks against the order of execution (a residual's way back) do not count
        for source, target in ends:
            if order[source] < order[target]:
                step[target] = max(step[target], step[source] + 1)
    last = max(step.values(), default=0)
    inner = any(step[u.name] == last for u in graph.architecture.units if u.kind != "output")
    for units in graph.architecture.units:
        if units.kind == "output" and not any(source == units.name for source, _ in ends):
            step[units.name] = last + inner
    used = sorted(set(step.values()))
    return [[u for u in graph.architecture.units if step[u.name] == i] for i in used]


def _places(columns: list[list[Units]], pitch: float) -> dict[str, Tensor]:
    """Where each group's dots stand, float64 [n, 2], in inches; columns are centred."""
    result = {}
    for i, column in enumerate(columns):
        y = -(sum(u.size for u in column) * pitch + _BETWEEN * (len(column) - 1)) / 2
        for group in column:
            rows = (torch.arange(group.size, dtype=torch.float64) + 0.5) * pitch + y
            result[group.name] = torch.stack([torch.full_like(rows, i * _COLUMN), rows], 1)
            y += group.size * pitch + _BETWEEN
    return result


def _draw_lines(ax: Axes, places: Tensor, ends: Tensor, strength: Tensor) -> None:
    from matplotlib.collections import LineCollection

    order = torch.argsort(strength.abs())  # strong ones on top
    ends, strength = ends[:, order], strength[order]
    segments = torch.stack([places[ends[0]], places[ends[1]]], 1)
    far = (segments[:, 1, 0] - segments[:, 0, 0]).abs() > 1.5 * _COLUMN
    for chosen, dashes in ((~far, "solid"), (far, (0, (4, 3)))):
        lines: Any = LineCollection(
            list(segments[chosen].numpy()),
            colors=_colours(strength[chosen]),
            linewidths=(0.3 + 1.3 * strength[chosen].abs()).numpy(),
            linestyles=[dashes],
            gid="weights",
        )
        ax.add_collection(lines, autolim=False)


def _draw_dots(
    ax: Axes, units: Sequence[Units], places: Tensor, pitch: float, loops: Tensor, own: Tensor
) -> None:
    rings = torch.zeros(len(places), dtype=torch.float64)
    rings[loops[0]] = own
    size = min(0.13, pitch * 0.8) * 72
    start = 0
    for group in units:
        mine = slice(start, start + group.size)
        start += group.size
        ax.scatter(
            places[mine, 0].numpy(),
            places[mine, 1].numpy(),
            s=size**2,
            c=_FACES[group.kind],
            edgecolors=_colours(rings[mine]),
            linewidths=max(0.5, size / 9),
            zorder=3,
            gid=group.name,
        )


def _colours(strength: Tensor) -> list[tuple[float, float, float, float]]:
    """Blue or orange, the fainter the weaker."""
    from matplotlib.colors import to_rgb

    positive, negative = to_rgb(POSITIVE), to_rgb(NEGATIVE)
    return [
        (*(positive if value >= 0 else negative), 0.06 + 0.84 * abs(value))
        for value in strength.tolist()
    ]


def _name(units: Units, limit: float) -> list[tuple[str, bool]]:
    activations = f" → {', '.join(units.activations)}" if units.activations else ""
    return [*title(units.name, limit), (f"{units.size}{activations}", False)]
