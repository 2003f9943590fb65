"""Parameter graphs with explicit edges, for PyG and networkx.

One node a unit and exactly one edge a number of theta: a weight is an edge from
source to target (a kernel is a bundle of parallel edges told apart by their
positions); biases, norm parameters and depthwise kernels are self-loops; an
opaque tensor has one node of its own with its numbers as self-loops.

`edge_attr` columns: value, slot position, three kernel positions (in [-1, 1]).
`x` columns: is input, hidden, output, fixed, opaque; place of the unit group in
execution order in [0, 1]; place of the unit within a fixed group in [0, 1].
Source: Lim et al. 2024, arXiv:2312.04501; there a bias is a node, here a self-loop.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .architecture import Architecture, Block
from .architecture.reorder import block_index
from .graph import ParameterGraph

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data

KINDS = ("input", "hidden", "output", "fixed", "opaque")


class Topology(NamedTuple):
    """Nodes and edges of an architecture, without values."""

    x: Tensor  # float32 [N, 7]
    node_units: Tensor  # int64 [N], index into architecture.units; beyond them opaque tensors
    node_member: Tensor  # int64 [N], index within the unit group
    edge_index: Tensor  # int64 [2, P], source to target
    edge_position: Tensor  # float32 [P, 4]
    edge_block: Tensor  # int64 [P], index into architecture.blocks
    edge_parameter: Tensor  # int64 [P], place in theta


@lru_cache(maxsize=8)
def topology(architecture: Architecture) -> Topology:
    """Nodes and edges; equal for all networks of one architecture."""
    start, first = 0, {}
    nodes, units_of, member_of = [], [], []
    num_groups = max(1, len(architecture.units) - 1)
    for number, units in enumerate(architecture.units):
        first[units.name] = start
        start += units.size
        feature = torch.zeros(units.size, len(KINDS) + 2)
        feature[:, KINDS.index(units.kind)] = 1
        feature[:, -2] = number / num_groups
        if units.fixed:
            feature[:, -1] = torch.linspace(0, 1, units.size)
        nodes.append(feature)
        units_of.append(torch.full((units.size,), number))
        member_of.append(torch.arange(units.size))
    edges = []
    for number, block in enumerate(architecture.blocks):
        if block.kind == "opaque":
            feature = torch.zeros(1, len(KINDS) + 2)
            feature[:, KINDS.index("opaque")] = 1
            nodes.append(feature)
            units_of.append(torch.tensor([len(nodes) - 1]))
            member_of.append(torch.zeros(1, dtype=torch.int64))
        edges.append(_edges(architecture, block, number, first, start))
        start += block.kind == "opaque"
    none = torch.empty(0, dtype=torch.int64)
    nodes.append(torch.empty(0, len(KINDS) + 2))
    edges.append((none.view(2, 0), torch.empty(0, 4), none, none))
    index, position, block_of, parameter = zip(*edges, strict=True)
    return Topology(
        torch.cat(nodes),
        torch.cat([*units_of, none]),
        torch.cat([*member_of, none]),
        torch.cat(index, dim=1),
        torch.cat(position),
        torch.cat(block_of),
        torch.cat(parameter),
    )


def _edges(
    architecture: Architecture, block: Block, number: int, first: dict[str, int], new: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parameter = block_index(architecture, block)
    target = torch.full(parameter.shape, new)
    source = target
    if block.target is not None:
        members = torch.arange(parameter.shape[0])
        target = (first[block.target] + members).view(-1, *[1] * (parameter.dim() - 1))
        target = source = target.expand(parameter.shape)
    if block.source is not None:
        rows, columns = parameter.shape[:2]
        own_group = torch.arange(rows) // (rows // block.groups)
        members = own_group.unsqueeze(1) * columns + torch.arange(columns)
        source = (first[block.source] + members).unsqueeze(-1).expand(parameter.shape)
    position = block.positions() if parameter.numel() else torch.empty(0, 4)
    return (
        torch.stack([source.reshape(-1), target.reshape(-1)]),
        position.expand(*parameter.shape, 4).reshape(-1, 4),
        torch.full((parameter.numel(),), number),
        parameter.reshape(-1),
    )


def to_pyg(graph: ParameterGraph) -> Data:
    """A PyG graph: `x` [N, 7], `edge_index` [2, P], `edge_attr` [P, 5] as the module says.

    `edge_parameter` says which number of theta an edge carries, so `from_pyg`
    restores the network bit for bit.
    """
    from torch_geometric.data import Data

    graph.require_values("to_pyg")
    t = topology(graph.architecture)
    value = graph.theta[t.edge_parameter].unsqueeze(1)
    return Data(
        x=t.x,
        edge_index=t.edge_index,
        edge_attr=torch.cat([value, t.edge_position.to(value.dtype)], dim=1),
        edge_block=t.edge_block,
        edge_parameter=t.edge_parameter,
        node_units=t.node_units,
        node_member=t.node_member,
        buffers=dict(graph.buffers),
        architecture=graph.architecture.fingerprint,
        num_nodes=len(t.x),
    )


def from_pyg(data: Data, architecture: Architecture) -> ParameterGraph:
    """The inverse of `to_pyg`, whatever the order of the edges.

    Raises:
        ValueError: the graph is of another architecture or has lost edges.
    """
    if data.architecture != architecture.fingerprint:
        raise ValueError(
            f"this PyG graph is of architecture {data.architecture}, not of "
            f"'{architecture.name}' ({architecture.fingerprint})"
        )
    order = torch.sort(data.edge_parameter).values
    if not torch.equal(order, torch.arange(architecture.num_parameters)):
        raise ValueError(
            f"this PyG graph has {len(order)} edges, but architecture '{architecture.name}' needs "
            f"each of its {architecture.num_parameters} parameters once. Was it sampled or pruned?"
        )
    theta = torch.empty(architecture.num_parameters, dtype=data.edge_attr.dtype)
    theta[data.edge_parameter] = data.edge_attr[:, 0]
    return ParameterGraph(architecture, theta, data.buffers)


def to_networkx(graph: ParameterGraph) -> networkx.MultiDiGraph:
    """A multigraph with nodes (units name, member) and edges with weight, tensor and parameter."""
    import networkx

    graph.require_values("to_networkx")
    t = topology(graph.architecture)
    result = networkx.MultiDiGraph(name=graph.architecture.name)
    names = [u.name for u in graph.architecture.units]
    names += [b.name for b in graph.architecture.blocks if b.kind == "opaque"]
    keys = [
        (names[u], m) for u, m in zip(t.node_units.tolist(), t.node_member.tolist(), strict=True)
    ]
    kinds = t.x[:, : len(KINDS)].argmax(1).tolist()
    result.add_nodes_from((key, {"kind": KINDS[k]}) for key, k in zip(keys, kinds, strict=True))
    blocks = graph.architecture.blocks
    result.add_edges_from(
        (keys[s], keys[d], p, {"weight": w, "tensor": blocks[b].tensor, "role": blocks[b].role})
        for s, d, b, p, w in zip(
            *t.edge_index.tolist(),
            t.edge_block.tolist(),
            t.edge_parameter.tolist(),
            graph.theta[t.edge_parameter].tolist(),
            strict=True,
        )
    )
    return result
