"""Which boxes of a picture form a stream, and which are alike and drawn once.

A residual stream is one unit group that is read and written many times; each way out of it
and back is a branch. Branches alike are drawn once with their number, and so are units that
stand side by side or in a row.

Knows boxes; knows no places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..summary import shape
from .boxes import Box, hub

if TYPE_CHECKING:
    import networkx as nx

_MAX_ALIKE = 3  # so many alike are drawn each, more become one
_MANY = 12  # unit groups; a picture with more draws any two alike once


@dataclass(kw_only=True)
class Stream:
    """A unit group that is read and written again, with the branches between."""

    hub: str
    members: set[str]  # outermost boxes, the hub among them
    branches: list[list[str]] = field(default_factory=list)  # outermost boxes in order


def contracted(graph: nx.MultiDiGraph, boxes: dict[str, Box]) -> nx.DiGraph:
    """The graph of outermost boxes: arrows within a frame are left out."""
    import networkx as nx

    result = nx.DiGraph()
    result.add_nodes_from(name for name, box in boxes.items() if box.top is None)
    for a, b in graph.edges():
        if a in boxes and b in boxes and boxes[a].item is not boxes[b].item:
            result.add_edge(boxes[a].item.units, boxes[b].item.units)
    return result


def streams_of(graph: nx.MultiDiGraph, boxes: dict[str, Box]) -> dict[str, Stream]:
    """Streams by hub; boxes that are not drawn, since others alike are, are removed."""
    import networkx as nx

    many = len(boxes) > _MANY
    for frame in [box for box in boxes.values() if box.children]:
        inner = [[child.units] for child in frame.children]
        kept = {name for (name,) in _alike(inner, graph, boxes, many)}
        pairs = zip(frame.children, frame.gaps, strict=True)
        left = [(child, gap) for child, gap in pairs if child.units in kept]
        frame.children, frame.gaps = [c for c, _ in left], [g for _, g in left]
    whole = contracted(graph, boxes)
    streams: dict[str, Stream] = {}
    for component in nx.strongly_connected_components(whole):
        if len(component) > 1:
            plain = [name for name in component if not boxes[name].children]
            centre = hub(graph, plain or component)
            streams[centre] = Stream(hub=centre, members=set(component))
    for stream in streams.values():
        for name, box in boxes.items():  # what reads a stream and leads nowhere: queries, keys
            if box.top is None and box.kind in ("hidden", "fixed") and name in whole:
                sources = set(whole.predecessors(name))
                if sources and sources <= stream.members and not any(whole.successors(name)):
                    stream.members.add(name)
        inner = whole.subgraph(stream.members - {stream.hub})
        parts = [_in_order(part, inner, boxes) for part in nx.weakly_connected_components(inner)]
        parts.sort(key=lambda part: list(boxes).index(part[0]))
        for group in _alike(parts, graph, boxes, many):
            stream.branches.append(group)
    taken = {name for stream in streams.values() for name in stream.members}
    _fold_chains(graph, boxes, taken)
    single = [[name] for name in boxes if boxes[name].top is None and name not in taken]
    _alike(single, graph, boxes, False)
    return streams


def _fold_chains(graph: nx.MultiDiGraph, boxes: dict[str, Box], taken: set[str]) -> None:
    """Draw the inner ones of many layers alike in a row once; `graph` skips the others."""

    def plain(name: str) -> bool:
        alone = boxes[name].top is None and not boxes[name].children and name not in taken
        return alone and graph.in_degree(name) == graph.out_degree(name) == 1

    def key(name: str) -> Any:
        (_, _, block), *_ = graph.in_edges(name, data="block")
        return boxes[name].size, boxes[name].kind, len(boxes[name].lines), shape(block)

    seen: set[str] = set()
    for name in list(boxes):
        if name in seen or name not in boxes or not plain(name):
            continue
        run = [name]
        while True:
            following = next(graph.successors(run[-1]))
            if following in run or following not in boxes or not plain(following):
                break
            if key(following) != key(name):
                break
            run.append(following)
        seen |= set(run)
        inner = run[1:-1]
        if len(inner) > _MAX_ALIKE:
            boxes[inner[0]].call(inner)
            (_, _, block), *_ = graph.in_edges(run[-1], data="block")
            graph.remove_nodes_from(inner[1:])
            graph.add_edge(inner[0], run[-1], block=block)
            for other in inner[1:]:
                del boxes[other]


def _in_order(names: Iterable[str], graph: nx.DiGraph, boxes: dict[str, Box]) -> list[str]:
    """In order of computation; edges against the order of execution are left out."""
    import networkx as nx

    wanted = set(names)
    order = {name: i for i, name in enumerate(boxes)}
    forward = nx.DiGraph()
    forward.add_nodes_from(sorted(wanted, key=order.__getitem__))
    forward.add_edges_from(
        (a, b) for a, b in graph.edges() if {a, b} <= wanted and order[a] < order[b]
    )
    return list(nx.lexicographical_topological_sort(forward, key=order.__getitem__))


def _alike(
    parts: Sequence[list[str]], graph: nx.MultiDiGraph, boxes: dict[str, Box], many: bool
) -> list[list[str]]:
    """The parts to draw; the first of several alike stands for all, the others lose their boxes."""
    groups: dict[Any, list[list[str]]] = {}
    for part in parts:
        groups.setdefault(_signature(part, graph, boxes), []).append(part)
    drawn = []
    for group in groups.values():
        if len(group) <= (1 if many else _MAX_ALIKE):
            drawn += group
            continue
        drawn.append(group[0])
        walks = [[box for name in part for box in boxes[name].walk()] for part in group]
        for same in zip(*walks, strict=True):
            same[0].call([name for box in same for name in box.alike])
            for box in same[1:]:
                boxes.pop(box.units, None)
    return drawn


def _signature(part: list[str], graph: nx.MultiDiGraph, boxes: dict[str, Box]) -> Any:
    """What two parts must share to be drawn once: sizes, blocks, and what they touch."""
    own = [box for name in part for box in boxes[name].walk()]
    place = {box.units: i for i, box in enumerate(own)}
    edges: list[tuple[Any, Any, str]] = []
    for name in place:
        for a, _, block in graph.in_edges(name, data="block"):
            edges.append((place.get(a, a), place[name], shape(block)))
        for _, b, block in graph.out_edges(name, data="block"):
            if b not in place:
                edges.append((place[name], b, shape(block)))
    return (
        tuple((box.size, box.kind, len(box.lines), len(box.children)) for box in own),
        tuple(sorted(map(str, edges))),
    )
