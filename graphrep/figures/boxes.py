"""What the boxes of an architecture's picture are, and which of them form a stream.

Unit groups are boxes; everything a unit carries by itself (bias, norm, depthwise kernel,
lookup row) is a line inside its box. A residual stream is one unit group that is read
and written many times; each way out of it and back is a branch, and many branches alike
are drawn once.

Knows `Architecture`; knows neither places nor matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx as nx

    from ..architecture import Architecture, Block

BOX_WIDTH = 2.25
LINE = 0.155  # height of a line of text
_MAX_LINES = 7
_MAX_ALIKE = 3  # so many branches alike are drawn each, more become one


@dataclass(kw_only=True)
class Box:
    """A unit group; (x, y) is its upper left corner."""

    units: str
    kind: str
    lines: list[str]
    x: float = 0.0
    y: float = 0.0
    width: float = BOX_WIDTH
    height: float = 0.0
    row: int = -1  # in the main columns; -1 beside a stream
    column: int = 0
    repeats: int = 1  # how many branches alike it stands for

    def __post_init__(self) -> None:
        self.height = max(self.height, LINE * (len(self.lines) + 1) + 0.12)

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(kw_only=True)
class Stream:
    """A unit group that is read and written again, with the branches between."""

    hub: str
    members: set[str]
    branches: list[list[list[str]]] = field(default_factory=list)  # branch -> columns -> units


def boxes_of(architecture: Architecture) -> dict[str, Box]:
    """A box a unit group, in order of execution."""
    boxes = {}
    for units in architecture.units:
        fixed, plural = "fixed " if units.fixed else "", "" if units.size == 1 else "s"
        lines = [f"{units.size:,} {fixed}unit{plural}", *_carried(architecture, units.name)]
        if units.activations:
            lines.append("→ " + ", ".join(units.activations))
        boxes[units.name] = Box(units=units.name, kind=units.kind, lines=lines)
    return boxes


def streams_of(graph: nx.MultiDiGraph, boxes: dict[str, Box]) -> dict[str, Stream]:
    """Streams by hub; units of branches that are not drawn lose their boxes."""
    import networkx as nx

    streams: dict[str, Stream] = {}
    for component in nx.strongly_connected_components(graph):
        if len(component) > 1:
            hub = max(in_order(component, boxes), key=lambda name: graph.degree(name))
            streams[hub] = Stream(hub=hub, members=set(component))
    for stream in streams.values():
        for units in boxes:  # what reads a stream and leads nowhere: queries and keys
            sources = set(graph.predecessors(units))
            ends = not any(graph.successors(units)) and boxes[units].kind == "hidden"
            if ends and sources and sources <= stream.members:
                stream.members.add(units)
        inner = graph.subgraph(stream.members - {stream.hub})
        parts = [in_order(part, boxes) for part in nx.weakly_connected_components(inner)]
        alike: dict[Any, list[list[list[str]]]] = {}
        for part in sorted(parts, key=lambda part: list(boxes).index(part[0])):
            columns = _generations(graph.subgraph(part), boxes)
            alike.setdefault(_signature(graph, columns, stream.hub), []).append(columns)
        for group in alike.values():
            drawn = group if len(group) <= _MAX_ALIKE else group[:1]
            stream.branches += drawn
            for branch in group[: len(drawn)]:
                for units in (units for column in branch for units in column):
                    boxes[units].repeats = len(group) // len(drawn)
            for branch in group[len(drawn) :]:
                for units in (units for column in branch for units in column):
                    del boxes[units]
    return streams


def _signature(graph: nx.MultiDiGraph, columns: list[list[str]], hub: str) -> Any:
    """What two branches must share to be drawn once."""
    place = {units: (i, j) for i, column in enumerate(columns) for j, units in enumerate(column)}
    place[hub] = (-1, 0)
    between = graph.subgraph(place).edges(data="block")
    return tuple(sorted((place[a], place[b], shape(block)) for a, b, block in between))


def _generations(graph: nx.MultiDiGraph, boxes: Iterable[str]) -> list[list[str]]:
    """Units in steps of computation; edges against the order of execution are left out."""
    import networkx as nx

    order = {name: i for i, name in enumerate(boxes)}
    forward = nx.DiGraph()
    forward.add_nodes_from(graph)
    forward.add_edges_from((a, b) for a, b in graph.edges() if order[a] < order[b])
    return [sorted(units, key=order.__getitem__) for units in nx.topological_generations(forward)]


def shape(block: Block) -> str:
    """Sizes of a block's axes, as in 16×8×3×3."""
    return "×".join(str(span.size * span.slots) for span in block.axes)


def in_order(names: Iterable[str], boxes: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [name for name in boxes if name in wanted]


def _carried(architecture: Architecture, units: str) -> list[str]:
    """What a unit group carries by itself, a line a module, cut where it grows long."""
    roles: dict[str, list[str]] = {}
    for block in architecture.blocks:
        if block.target != units or (block.source and block.source != units):
            continue
        module, _, own_name = block.tensor.rpartition(".")
        if block.source == units:
            text = f"to itself {shape(block)}"
        elif block.kind == "lookup":
            text = f"table {shape(block)}"
        else:
            text = block.role
        roles.setdefault(module or own_name, []).append(text)
    lines = [f"{module}: {', '.join(_in_short(texts))}" for module, texts in roles.items()]
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"... and {len(lines) - _MAX_LINES + 1} modules more"]
    return lines


def _in_short(roles: Sequence[str]) -> Iterable[str]:
    """Roles once each, those of a normalisation by one word."""
    left = dict.fromkeys(roles)
    for word, group in (
        ("norm + statistics", ("scale", "shift", "mean", "variance")),
        ("norm", ("scale", "shift")),
    ):
        if left.keys() >= set(group):
            left = {word: None} | {role: None for role in left if role not in group}
    return left
