"""What the boxes of an architecture's picture are, and what stands in them.

Unit groups are boxes; everything a unit carries by itself (bias, norm, depthwise kernel) is
a line inside its box. Units that only hold others (heads of their dims) are frames around
them.

Knows `Architecture`; knows neither places nor matplotlib's figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..summary import shape, within
from .lettering import merged, relative, title, width, wrap

if TYPE_CHECKING:
    import networkx as nx

    from ..architecture import Architecture, Block

BOX_WIDTH = 2.3
INSET = 0.1  # between a box's edge and its text
LINE = 0.14  # height of a line of text
PAD = 0.13  # between a frame and what it holds
STACK = 0.14  # between boxes of a frame that no arrow joins
INNER_GAP = 0.5  # ... that an arrow joins
_MAX_LINES = 8
_MAX_NAMES = 3  # of unit groups alike that no range puts together
_INDENT = "\u00a0" * 4  # SVG would drop plain spaces
_MAX_LABEL = 3  # lines at an arrow


@dataclass(kw_only=True, eq=False)
class Box:
    """A unit group; (x, y) is its upper left corner. With `children` it is a frame."""

    units: str
    kind: str
    size: int
    title: list[tuple[str, bool]]  # lines of the name; True for the bold one
    lines: list[str]
    children: list[Box] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # above each child
    x: float = 0.0
    y: float = 0.0
    min_height: float = 0.0
    row: int = -1  # in the main columns; -1 beside a stream
    column: int = 0
    alike: list[str] = field(default_factory=list)  # units it stands for, its own first
    top: Box | None = None  # the outermost frame it lies in

    @property
    def repeats(self) -> int:
        return len(self.alike)

    @property
    def counted(self) -> bool:
        """Whether its number stands in it: not where its frame's says the same."""
        return len(self.alike) > 1 and (self.top is None or self.top.repeats != self.repeats)

    @property
    def text_height(self) -> float:
        return LINE * (len(self.title) + len(self.lines)) + 0.12

    @property
    def head_height(self) -> float:
        """Of the part above what a frame holds."""
        return max(self.text_height, self.min_height)

    @property
    def width(self) -> float:
        return max([BOX_WIDTH, *(child.width + 2 * PAD for child in self.children)])

    @property
    def height(self) -> float:
        if not self.children:
            return max(self.text_height, self.min_height)
        held = sum(c.height + g for c, g in zip(self.children, self.gaps, strict=True))
        return self.head_height + held + PAD

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def item(self) -> Box:
        """What is placed as one: the outermost frame, or the box itself."""
        return self.top or self

    def walk(self) -> Iterator[Box]:
        yield self
        for child in self.children:
            yield from child.walk()

    def place(self, x: float, y: float) -> None:
        """Put the box and what it holds; children stand below each other."""
        self.x, self.y = x, y
        y += self.head_height
        for child, gap in zip(self.children, self.gaps, strict=True):
            child.place(x + PAD, y + gap)
            y += gap + child.height

    def call(self, names: Sequence[str]) -> None:
        """Let the box stand for several unit groups alike, its own first."""
        self.alike = list(names)
        badge = width(f"×{len(names)}", 9, True) + 0.08 if self.counted else 0.0
        limit = BOX_WIDTH - 2 * INSET - badge
        whole = [name for name, _ in merged([(name, "") for name in names])]
        if len(whole) > _MAX_NAMES:
            whole = [whole[0], "…"]
        self.title = [line for name in whole for line in title(name, limit)]


def boxes_of(architecture: Architecture, graph: nx.MultiDiGraph) -> dict[str, Box]:
    """A box a unit group, in order of execution; frames hold their boxes."""
    boxes = {}
    holder = _holders(architecture, graph)
    for units in architecture.units:
        limit = BOX_WIDTH - 2 * INSET
        texts = [_count(units.size, units.fixed)]
        sits = within(architecture, units)
        for text, parent in zip(sits, units.parents, strict=True):
            if parent.units == holder.get(units.name):
                if "×" in text:
                    texts[0] = f"{text.split(' in ')[0]} units"
            else:
                texts.append(f"within {relative(parent.units, units.name) or parent.units}")
        texts += _carried(architecture, units.name)
        if units.activations:
            texts.append("→ " + ", ".join(dict.fromkeys(units.activations)))
        if len(texts) > _MAX_LINES:
            texts[_MAX_LINES - 1 :] = [f"… and {len(texts) - _MAX_LINES + 1} more"]
        lines = [
            line if i == 0 else _INDENT + line
            for text in texts
            for i, line in enumerate(wrap(text, limit - 0.15))
        ]
        box = Box(units=units.name, kind=units.kind, size=units.size, title=[], lines=lines)
        box.call([units.name])
        boxes[units.name] = box
    for name, above in holder.items():
        frame = boxes[above]
        before = frame.children[-1].units if frame.children else None
        joined = before is not None and graph.has_edge(before, name)
        frame.gaps.append(INNER_GAP if joined else STACK if before else 0.03)
        frame.children.append(boxes[name])
    for name in boxes:
        outer = name
        while outer in holder:
            outer = holder[outer]
        boxes[name].top = boxes[outer] if outer != name else None
    return boxes


def _holders(architecture: Architecture, graph: nx.MultiDiGraph) -> dict[str, str]:
    """The frame that each unit group is drawn in: its first parent, best one without arrows."""
    import networkx as nx

    holder = {}
    linked = nx.MultiDiGraph(graph.edges())
    for units in architecture.units:
        frames = sorted((p.units for p in units.parents), key=lambda name: graph.degree(name) > 0)
        if frames:
            holder[units.name] = frames[0]
            linked.add_edge(frames[0], units.name)

    def outermost(name: str) -> str:
        while name in holder:
            name = holder[name]
        return name

    parts = [part for part in nx.strongly_connected_components(linked) if len(part) > 1]
    hubs = {hub(graph, part) for part in parts}
    drawn = nx.DiGraph()
    for a, b in graph.edges():
        if not {a, b} & hubs and outermost(a) != outermost(b):
            drawn.add_edge(outermost(a), outermost(b))
    torn = set()  # frames that would hold both what comes before and what comes after another
    for part in nx.strongly_connected_components(drawn):
        if len(part) > 1:
            torn |= {frame for frame in part if frame in holder.values()}
    return {name: frame for name, frame in holder.items() if outermost(name) not in torn}


def hub(graph: nx.MultiDiGraph, units: Iterable[str]) -> str:
    """The unit group of a cycle that most blocks read and write: the residual stream."""
    return max(sorted(units), key=lambda name: graph.degree(name))


def _count(size: int, fixed: bool) -> str:
    return f"{size:,} {'fixed ' if fixed else ''}unit{'' if size == 1 else 's'}"


def _carried(architecture: Architecture, units: str) -> list[str]:
    """What a unit group carries by itself, a line a module; modules alike share one."""
    roles: dict[str, list[str]] = {}
    for block in architecture.blocks:
        if block.target != units or (block.source and block.source != units):
            continue
        module, _, own_name = block.tensor.rpartition(".")
        if block.source == units:
            text = f"to itself {shape(block)}"
        elif block.kind == "lookup":
            text = f"table {shape(block)}"
        elif block.role in ("weight", "position", "slope"):
            text = f"{own_name} {shape(block)}".removeprefix("weight ")
        else:
            text = block.role
        roles.setdefault(module or own_name, []).append(text)
    found = [(module, ", ".join(_in_short(texts))) for module, texts in roles.items()]
    lines = []
    for module, text in merged(found):
        name = relative(module, units.split("#")[0])
        lines.append(f"{name}: {text}" if name else text)
    return lines


def _in_short(roles: Sequence[str]) -> Iterable[str]:
    """Roles once each, those of a normalisation by one word."""
    left = dict.fromkeys(roles)
    for word, group in (
        ("batch norm", ("scale", "shift", "mean", "variance")),
        ("norm", ("scale", "shift")),
    ):
        if left.keys() >= set(group):
            left = {word: None} | {role: None for role in left if role not in group}
    return left


def label(blocks: Sequence[Block], architecture: Architecture, limit: float) -> list[str]:
    """What stands at the arrow of these blocks: each one's tensor and shape."""
    texts = []
    for block in blocks:
        module = block.tensor.removesuffix(".weight")
        assert block.source is not None and block.target is not None
        shortened = (relative(module, end.split("#")[0]) for end in (block.target, block.source))
        name = min(shortened, key=len)
        tied = [t.name for t in architecture.tensors if t.tied_to == block.tensor]
        if tied:
            name += f" = {relative(tied[-1].removesuffix('.weight'), module)}"
            name += f" and {len(tied) - 1} more" * (len(tied) > 1)
        texts.append((name, shape(block)))
    lines = []
    for name, text in merged(texts):
        whole = f"{name} {text}".strip()
        if width(whole) <= limit:
            lines.append(whole)
        else:
            lines += [*wrap(name, limit), text]
    if len(lines) > _MAX_LABEL:
        lines = [*lines[: _MAX_LABEL - 1], f"… {len(blocks)} blocks in all"]
    return lines
