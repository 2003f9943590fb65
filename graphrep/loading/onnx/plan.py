"""A graph made ready for inputs of certain shapes, without computing on weights.

What follows from shapes and constants alone is computed here, once; everything else runs
on `meta`, which gives its shape and shows how much memory a run would take. So a graph
that would fill the memory is refused before it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .call import OPERATORS, Call, Known, Unsupported
from .file import DEFAULT_DOMAINS, Graph, Node

MOST_BYTES = 4 << 30  # of values at one time, beside four times the weights
FROM_SHAPES = ("Shape", "Size")  # of any input, whatever its values
INSTEAD = (
    "Build the network in Python and pass --model package.module:factory; the file's tensors "
    "are then matched by name"
)


@dataclass(frozen=True, eq=False)
class Step:
    """A node to run, what is known of its inputs, and the values that nobody needs after it."""

    node: Node
    known: tuple[Known | None, ...]
    done: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps that depend on inputs or weights, and the values that do not."""

    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]


def require_known(graph: Graph) -> None:
    """Raise ValueError naming the first operator that is not in the table."""
    nodes = list(all_nodes(graph))
    for number, node in enumerate(nodes):
        standard = node.domain in DEFAULT_DOMAINS or node.op == "Gelu"
        if not (standard and (node.op in OPERATORS or node.op == "If")):
            raise ValueError(
                f"{node.shown}, number {number + 1} of {len(nodes)}, is not one that graphrep "
                f"runs. {INSTEAD}."
            )


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of its branches."""
    for node in graph.nodes:
        yield node
        for value in node.attributes.values():
            if isinstance(value, Graph):
                yield from all_nodes(value)


def make_plan(
    graph: Graph,
    constants: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
) -> Plan:
    """Plan a run.

    Args:
        constants: Values that never change.
        tensors: Inputs and weights; only their shapes and types are looked at.
        dtype: Float type that replaces float32, while symmetries are checked in it.

    Raises:
        ValueError: a node does not run on these shapes, or memory would not suffice.
    """
    planner = _Planner(tensors, dtype)
    planner.keep({n: v for n, v in constants.items()})
    planner.add(graph)
    for name in graph.outputs:
        planner.value(name, "the graph")
    steps = _with_ends(planner.steps, set(graph.outputs))
    _check_memory(steps, planner.sizes, planner.most)
    used = {n for s in steps for n in s.node.inputs} | set(graph.outputs)
    return Plan(steps, {n: k.tensor for n, k in planner.known.items() if n in used})


class _Planner:
    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.values = {n: v.to("meta") for n, v in tensors.items()}
        self.known: dict[str, Known] = {}
        self.steps: list[Step] = []
        self.sizes: dict[str, int] = {}
        self.most = MOST_BYTES + 4 * sum(_bytes(v) for v in self.values.values())
        self.kept = 0

    def value(self, name: str, taker: str) -> Tensor:
        if name in self.known:
            return self.known[name].tensor
        if name not in self.values:
            raise ValueError(f"{taker} takes '{name:.80}', which nothing gives")
        return self.values[name]

    def keep(self, found: Mapping[str, Tensor]) -> None:
        for name, value in found.items():
            wide = self.dtype is not None and value.dtype == torch.float32
            self.known[name] = Known.of(value.to(self.dtype) if wide else value)

    def add(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.op == "If":
                self.branch(node)
            else:
                self.node(node)

    def branch(self, node: Node) -> None:
        """The side of an `If` that its known condition picks, in place of the node."""
        condition = self.known.get(node.inputs[0]) if node.inputs else None
        if condition is None or not condition.numbers:
            raise ValueError(
                f"{node.shown} decides by values that inputs or weights give. {INSTEAD}."
            )
        side = node.attributes.get("then_branch" if condition.numbers[0] else "else_branch")
        if not isinstance(side, Graph):
            raise ValueError(f"{node.shown} lacks a branch")
        self.keep(side.initializers)
        self.add(side)
        for given, name in zip(side.outputs, node.outputs, strict=False):
            self.node(replace(node, op="Identity", inputs=(given,), outputs=(name,)))

    def node(self, node: Node) -> None:
        values = [self.value(n, node.shown) if n else None for n in node.inputs]
        known = tuple(self.known.get(n) if n else None for n in node.inputs)
        if node.op in FROM_SHAPES:
            self.keep(self.run(node, values, known))
            return
        with torch.device("meta"):
            shapes = [None if v is None else v.to("meta") for v in values]
            given = [k for k, v in zip(known, values, strict=True) if v is not None]
            certain = all(k is not None for k in given)
            try:
                found = self.run(node, shapes, known)
            except _NoShape:
                if not certain:
                    raise
                found = {}
        for name, value in found.items():
            self.require_space(node, _bytes(value))
            self.sizes[name] = _bytes(value)
        if certain:
            real = self.run(node, values, known)
            self.kept += sum(_bytes(v) for v in real.values())
            self.require_space(node, self.kept)
            self.keep(real)
        else:
            self.values.update(found)
            self.steps.append(Step(node, known))

    def require_space(self, node: Node, needed: int) -> None:
        if needed > self.most:
            raise ValueError(
                f"{node.shown} would take {needed:,} bytes, more than {self.most:,}. Pass a "
                "smaller --input"
            )

    def run(
        self, node: Node, values: Sequence[Tensor | None], known: Sequence[Known | None]
    ) -> dict[str, Tensor]:
        return run_node(Call(node, values, known, self.dtype))


class _NoShape(ValueError):
    """The size of a result cannot be told from the sizes of inputs."""


def run_node(call: Call) -> dict[str, Tensor]:
    """The results of a node by name.

    Raises:
        ValueError: the node does not run; names it and its inputs' shapes.
    """
    node = call.node
    try:
        found = OPERATORS[node.op](call)
    except Unsupported as error:
        raise ValueError(f"{node.shown} {error}, which graphrep does not run. {INSTEAD}") from error
    except NotImplementedError as error:
        raise _NoShape(f"{node.shown} gives a size that only values decide. {INSTEAD}") from error
    except Exception as error:  # torch's, on shapes and settings that do not go together
        shapes = [None if v is None else list(v.shape) for v in call.values]
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"{node.shown} does not run on shapes {shapes}: {text}") from error
    results = [found] if isinstance(found, Tensor) else list(found)
    return {n: v for n, v in zip(node.outputs, results, strict=False) if n}


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _with_ends(steps: Sequence[Step], outputs: set[str]) -> tuple[Step, ...]:
    """The steps, each with the values that are used for the last time in it."""
    seen = set(outputs)
    result = []
    for step in reversed(steps):
        names = dict.fromkeys(n for n in (*step.node.inputs, *step.node.outputs) if n)
        done = tuple(n for n in names if n not in seen)
        seen.update(names)
        result.append(replace(step, done=done))
    return tuple(reversed(result))


def _check_memory(steps: Sequence[Step], sizes: Mapping[str, int], most: int) -> None:
    held = 0
    for step in steps:
        held += sum(sizes.get(n, 0) for n in step.node.outputs)
        if held > most:
            raise ValueError(
                f"running it would take more than {most:,} bytes at once, in {step.node.shown}. "
                "Pass a smaller --input"
            )
        held -= sum(sizes.get(n, 0) for n in step.done)
