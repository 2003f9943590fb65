"""Initializers that an exporter merged because their values were equal, apart again.

Exporters keep one of several equal tensors: the biases of a fresh network, all zero, become
one. Taken as they stand, such tensors would tie layers that have nothing to do with each
other. Weights that a network shares on purpose are not constant, and stay one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor

from .file import Graph, Node


def separate(graph: Graph) -> tuple[Graph, int]:
    """The graph with a tensor for each use of a merged one, and how many were added."""
    tensors = dict(graph.initializers)
    nodes: list[Node] = []
    added = 0
    for node in graph.nodes:
        value = graph.initializers.get(node.inputs[0]) if len(node.inputs) == 1 else None
        copied = node.op == "Identity" and value is not None and value.is_floating_point()
        if copied and value is not None and node.outputs[0] not in graph.outputs:
            tensors[node.outputs[0]] = value.clone()
            added += 1
        else:
            nodes.append(node)
    uses: Counter[str] = Counter()
    for number, node in enumerate(nodes):
        inputs = []
        for name in node.inputs:
            uses[name] += 1
            if uses[name] > 1 and name in tensors and is_flat(tensors[name]):
                new = f"{name}_{uses[name]}"
                while new in tensors:
                    new += "_"
                tensors[new] = tensors[name].clone()
                added += 1
                name = new
            inputs.append(name)
        nodes[number] = replace(node, inputs=tuple(inputs))
    return replace(graph, nodes=tuple(nodes), initializers=tensors), added


def is_flat(value: Tensor) -> bool:
    """Whether floats of at least one axis are all the same number."""
    if not value.is_floating_point() or value.dim() == 0 or value.numel() < 2:
        return False
    return bool((value == value.flatten()[0]).all())
