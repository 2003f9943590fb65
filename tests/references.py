"""Slow, obvious oracles that fast paths are compared with.

Reductions over explicit edges are PyG's: by torch-scatter where it is installed,
by torch's own otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import scatter

from graphrep.architecture import Architecture
from graphrep.encoders import GraphEncoder
from graphrep.encoders.message_passing import Message, Round
from graphrep.graph import ParameterGraph
from graphrep.scaling import ROLES


def explicit_units(encoder: GraphEncoder, architecture: Architecture, values: Tensor) -> Tensor:
    """Unit states [N, C] of one network by gathering and scattering along explicit edges.

    Reads the PyG view: edges that share block, source and target are one bundle.
    """
    data = ParameterGraph(architecture, values).to_pyg()
    names = {u.name: i for i, u in enumerate(architecture.units)}
    num_nodes = sum(u.size for u in architecture.units)
    state = _start_without_numbers(encoder, architecture, values)
    bundles: dict[int, tuple[Tensor, Tensor]] = {}
    for number, block in enumerate(architecture.blocks):
        chosen = data.edge_block == number
        ends = data.edge_index[:, chosen]
        number_of = data.edge_attr[chosen, 0]
        role = encoder.role.weight[ROLES.index(block.role) if block.role in ROLES else -1]
        position = data.edge_attr[chosen, 1:]
        feature = torch.cat([position, role.expand(len(position), -1)], 1)
        if block.source is None:
            if block.target is not None:
                functions = encoder.diagonal(feature) / block.num_features**0.5
                state += scatter(number_of.unsqueeze(1) * functions, ends[1], 0, num_nodes, "sum")
            continue
        functions = encoder.kernel(feature) / block.num_features**0.5
        pair, where = torch.unique(ends, dim=1, return_inverse=True)
        total = scatter(number_of.unsqueeze(1) * functions, where, 0, pair.shape[1], "sum")
        edge = encoder.edge_start(F.gelu(total)) + total[:, : encoder.config.edge_dim]
        bundles[number] = (pair, edge)
    for layer in encoder.rounds:
        assert isinstance(layer, Round)
        state, bundles = _round(layer, architecture, state, bundles, names, num_nodes)
    return state


def _start_without_numbers(
    encoder: GraphEncoder, architecture: Architecture, values: Tensor
) -> Tensor:
    """The encoder's own start on a network whose diagonal numbers are all zero."""
    from graphrep.encoders import Batch

    zero = Batch(architecture, torch.zeros_like(values).unsqueeze(0), 8)
    start = encoder._start(zero)
    return torch.cat([start[u.name] for u in architecture.units], 1)[0].clone()


def _round(layer, architecture, state, bundles, names, num_nodes):
    normal = layer.norm(state)
    incoming, outgoing = torch.zeros_like(state), torch.zeros_like(state)
    count_in, count_out = torch.zeros(len(names)), torch.zeros(len(names))
    owner = torch.cat([torch.full((u.size,), i) for i, u in enumerate(architecture.units)])
    updated = {}
    for number, (pair, edge) in bundles.items():
        block = architecture.blocks[number]
        source, target = normal[pair[0]], normal[pair[1]]
        inner = layer.edge_in(edge) + layer.edge_target(target) + layer.edge_source(source)
        edge = edge + layer.edge_out(F.gelu(inner))
        updated[number] = (pair, edge)
        reached = owner == names[block.target]
        incoming[reached] += _message(layer.forward_message, edge, source, pair[1], num_nodes)[
            reached
        ]
        reached = owner == names[block.source]
        outgoing[reached] += _message(layer.backward_message, edge, target, pair[0], num_nodes)[
            reached
        ]
        count_in[names[block.target]] += 1
        count_out[names[block.source]] += 1
    incoming = incoming / count_in.clamp(min=1)[owner].unsqueeze(1)
    outgoing = outgoing / count_out.clamp(min=1)[owner].unsqueeze(1)
    heard = F.linear(_kin(architecture, normal, names, owner), layer.kin)
    return layer.units(state, normal, incoming, outgoing, heard), updated


def _kin(architecture, normal, names, owner):
    """Means of a node's children and of its parents, [N, 2C], an edge from child to parent."""
    nodes = [torch.nonzero(owner == i).flatten() for i in range(len(names))]
    children, parents = torch.zeros_like(normal), torch.zeros_like(normal)
    kinds_of_children = torch.zeros(len(names))
    for units in architecture.units:
        for parent in units.parents:
            child_node = nodes[names[units.name]]
            parent_node = nodes[names[parent.units]][parent.of(units.size)]
            children += scatter(normal[child_node], parent_node, 0, len(normal), "mean")
            parents.index_add_(0, child_node, normal[parent_node] / len(units.parents))
            kinds_of_children[names[parent.units]] += 1
    children /= kinds_of_children.clamp(min=1)[owner].unsqueeze(1)
    return torch.cat([children, parents], 1)


def _message(message: Message, edge: Tensor, neighbour: Tensor, at: Tensor, num: int) -> Tensor:
    value = message.value(neighbour).view(-1, message.edge_dim, message.value_dim)
    mixed = (edge.unsqueeze(2) * value).flatten(1)
    carried = torch.cat([mixed, edge, edge.square()], 1)
    return message.out(scatter(carried, at, 0, num, "mean"))
