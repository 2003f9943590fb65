"""An ONNX graph as an `nn.Module`: parameters under their ONNX names, nodes run in order.

What an initializer is follows from its type and use: floats are parameters, a batch
norm's mean and variance and small integers (quantised weights) are buffers, and whole
numbers, settings and lone numbers are constants of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..tree import place, safe_name
from . import operators as operators
from .call import Call
from .file import Graph, Node
from .plan import Plan, all_nodes, make_plan, run_node
from .sharing import is_flat, separate

SETTINGS = {  # inputs that are settings although they are floats
    "Clip": (1, 2),
    "Dropout": (1, 2),
    "OneHot": (1, 2),
    "Pad": (2,),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
WEIGHTS_IN_BYTES = (torch.int8, torch.uint8)
MASKED = -1e4  # what masks add where nothing may be seen, or less
MOST_PLANS = 8  # for different shapes of inputs


class OnnxModule(nn.Module):
    """Runs a graph; takes its inputs in order and returns its outputs as a tuple, one as it is."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        graph, self.num_separated = separate(graph)
        weights, buffers, constants = sort_initializers(graph)
        self.graph = without_stored(graph, {**weights, **buffers, **constants})
        self.constants = constants
        self.plans: dict[object, Plan] = {}
        self.places: dict[str, str] = {}  # ONNX's name -> the module's
        self.float_type = next((v.dtype for v in weights.values()), torch.float32)
        for name in (*weights, *buffers):
            self.places[name] = safe_name(name, set(self.places.values()))
        for name, value in weights.items():
            place(self, self.places[name], nn.Parameter(value, requires_grad=False))
        for name, value in buffers.items():
            place(self, self.places[name], value)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = self._values(inputs)
        plan = self.plan(inputs)
        dtype = self._wide()
        values.update(plan.constants)
        for step in plan.steps:
            taken = [values[n] if n else None for n in step.node.inputs]
            values.update(run_node(Call(step.node, taken, step.known, dtype)))
            for name in step.done:
                values.pop(name, None)
        found = tuple(values[n] for n in self.graph.outputs)
        return found[0] if len(found) == 1 else found

    def plan(self, inputs: tuple[Tensor, ...]) -> Plan:
        """The plan for inputs of these shapes, made once.

        Raises:
            ValueError: the graph does not run on them.
        """
        key = (self._wide(), *((tuple(v.shape), v.dtype) for v in inputs))
        if key not in self.plans:
            while len(self.plans) >= MOST_PLANS:
                del self.plans[next(iter(self.plans))]
            with torch.no_grad():
                self.plans[key] = make_plan(
                    self.graph, self.constants, self._values(inputs), self._wide()
                )
        return self.plans[key]

    def _values(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        if len(inputs) != len(self.graph.inputs):
            names = ", ".join(f"'{i.name}'" for i in self.graph.inputs)
            raise ValueError(f"takes {len(self.graph.inputs)} inputs ({names}), got {len(inputs)}")
        held: dict[str, Tensor] = dict(self.named_parameters(remove_duplicate=False))
        held.update(self.named_buffers(remove_duplicate=False))
        values = {name: held[place] for name, place in self.places.items()}
        return values | {d.name: v for d, v in zip(self.graph.inputs, inputs, strict=True)}

    def _wide(self) -> torch.dtype | None:
        """Double precision, when the module was converted to it."""
        first = next((p.dtype for p in self.parameters()), self.float_type)
        return torch.float64 if first == torch.float64 != self.float_type else None


def sort_initializers(
    graph: Graph,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, buffers and constants of a graph, by name."""
    nodes = list(all_nodes(graph))
    settings = set(named(nodes, SETTINGS))
    states = {n: graph.initializers.get(n) for n in first_states(nodes)}
    settings |= {n for n, v in states.items() if v is not None and is_flat(v)}
    statistics = set(named(nodes, {"BatchNormalization": (3, 4)}))
    weights: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    for name, value in {**stored_weights(graph), **graph.initializers}.items():
        if value.dtype in WEIGHTS_IN_BYTES or name in statistics:
            buffers[name] = value
        elif value.is_floating_point() and value.dim() and not is_setting(name, value, settings):
            weights[name] = value
        else:
            constants[name] = value
    return weights, buffers, constants


def stored_weights(graph: Graph) -> Mapping[str, Tensor]:
    """Weights that some exporters write as `Constant` nodes: floats that are not all equal."""
    found = {}
    for node in graph.nodes:
        if node.op != "Constant" or len(node.outputs) != 1:
            continue
        value = node.attributes.get("value")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.numel() > 1 and not is_flat(value):
            found[node.outputs[0]] = value
    return found


def without_stored(graph: Graph, placed: Mapping[str, object]) -> Graph:
    """The graph without tensors, and without the `Constant` nodes that were taken for such."""
    kept = tuple(
        n for n in graph.nodes if not (n.op == "Constant" and n.outputs and n.outputs[0] in placed)
    )
    return replace(graph, nodes=kept, initializers={})


def named(nodes: list[Node], places: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of values that stand at certain inputs of certain operators."""
    return [
        node.inputs[i] for node in nodes for i in places.get(node.op, ()) if i < len(node.inputs)
    ]


def first_states(nodes: list[Node]) -> set[str]:
    """Names of what recurrent layers start from, also where it is expanded to the batch."""
    maker = {o: n for n in nodes for o in n.outputs}
    found = set()
    for name in named(nodes, {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}):
        while name in maker and maker[name].op in ("Expand", "Identity") and maker[name].inputs:
            name = maker[name].inputs[0]
        found.add(name)
    return found


def is_setting(name: str, value: Tensor, settings: set[str]) -> bool:
    """Whether floats are no weights: by their place, or a mask (0, 1 and very negative)."""
    if name in settings:
        return True
    hidden = value <= MASKED
    return bool(hidden.any()) and bool((hidden | (value == 0) | (value == 1)).all())
