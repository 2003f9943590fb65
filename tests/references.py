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
from graphrep.architecture.spec import Block
from graphrep.encoders import Batch, GraphEncoder
from graphrep.encoders.layout import layout_of
from graphrep.encoders.message_passing import Round
from graphrep.graph import ParameterGraph
from graphrep.scaling import ROLES


def explicit_units(encoder: GraphEncoder, architecture: Architecture, values: Tensor) -> Tensor:
    """Unit states [N, C] of one network by gathering and scattering along explicit edges.

    Reads the PyG view: edges that share block, source and target are one bundle.
    """
    data = ParameterGraph(architecture, values).to_pyg()
    num_nodes = sum(u.size for u in architecture.units)
    state = _start_without_numbers(encoder, architecture, values)
    bundles: list[tuple[Block, Tensor, Tensor]] = []
    for number, block in enumerate(architecture.blocks):
        chosen = data.edge_block == number
        ends = data.edge_index[:, chosen]
        number_of = data.edge_attr[chosen, :1]
        role = encoder.role.weight[ROLES.index(block.role) if block.role in ROLES else -1]
        position = data.edge_attr[chosen, 1:]
        feature = torch.cat([position, role.expand(len(position), -1)], 1)
        if block.source is not None:
            functions = encoder.kernel(feature) / block.num_features**0.5
            pair, where = torch.unique(ends, dim=1, return_inverse=True)
            total = scatter(number_of * functions, where, 0, pair.shape[1], "sum")
            bundles.append((block, pair, total))
        elif block.target is not None:
            functions = encoder.diagonal(feature) / block.num_features**0.5
            state += scatter(number_of * functions, ends[1], 0, num_nodes, "sum")
    for number, layer in enumerate(encoder.rounds):
        assert isinstance(layer, Round)
        chunk = [
            (b, pair, total.chunk(len(encoder.rounds), 1)[number]) for b, pair, total in bundles
        ]
        state = _round(layer, architecture, state, chunk)
    return state


def _start_without_numbers(
    encoder: GraphEncoder, architecture: Architecture, values: Tensor
) -> Tensor:
    """The encoder's own start on a network whose diagonal numbers are all zero."""
    zero = Batch(architecture, torch.zeros_like(values).unsqueeze(0), 8)
    return encoder._start(zero, layout_of(architecture))[0].clone()


def _round(
    layer: Round,
    architecture: Architecture,
    state: Tensor,
    bundles: list[tuple[Block, Tensor, Tensor]],
) -> Tensor:
    normal = layer.norm(state)
    names = {u.name: i for i, u in enumerate(architecture.units)}
    owner = torch.cat([torch.full((u.size,), i) for i, u in enumerate(architecture.units)])
    forward, backward = layer.say(normal)
    width = (bundles[0][2].shape[1] if bundles else 0) * layer.value_dim
    incoming, outgoing = state.new_zeros(len(state), width), state.new_zeros(len(state), width)
    count_in, count_out = torch.zeros(len(names)), torch.zeros(len(names))
    for block, pair, mixed in bundles:
        linear = layer.num_linear
        bent = mixed[:, linear:] + backward.bend[pair[1]] + forward.bend[pair[0]]
        said = torch.cat([mixed[:, :linear], F.gelu(bent)], 1)
        for heard, at, values in (
            (incoming, pair[1], forward.values[pair[0]]),
            (outgoing, pair[0], backward.values[pair[1]]),
        ):
            message = said.unsqueeze(2) * values.unsqueeze(1)  # [edges, E, V]
            total = scatter(message, at, 0, len(state), "sum")
            degree = scatter(torch.ones(len(at)).to(state), at, 0, len(state), "sum")
            degree = degree.clamp(min=1).view(-1, 1, 1)
            means = torch.cat([total[:, :linear] / degree.sqrt(), total[:, linear:] / degree], 1)
            heard += means.flatten(1)
        count_in[names[block.target]] += 1
        count_out[names[block.source]] += 1
    incoming = incoming / count_in.clamp(min=1)[owner].unsqueeze(1)
    outgoing = outgoing / count_out.clamp(min=1)[owner].unsqueeze(1)
    heard = F.linear(_kin(architecture, normal, names, owner), layer.kin)
    return layer.update(state, normal, incoming, outgoing, heard)


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
