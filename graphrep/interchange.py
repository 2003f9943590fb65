"""Parameter graphs with explicit edges, for PyG, networkx and GraphML.

One node a unit and exactly one edge a number of theta: a weight is an edge from
source to target (a kernel is a bundle of parallel edges told apart by their
positions); biases, norm parameters and depthwise kernels are self-loops; an
opaque tensor has one node of its own with its numbers as self-loops.
On the level of the architecture a node is a unit group and an edge is a block.

The columns of `x` and `edge_attr` are those of `NODE_FEATURES` and `EDGE_FEATURES`.
Source: Lim et al. 2024, arXiv:2312.04501; there a bias is a node, here a self-loop.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .architecture import Architecture, Block
from .architecture.reorder import block_index
from .files import write_whole
from .graph import ParameterGraph

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data

KINDS = ("input", "hidden", "output", "fixed", "opaque")
NODE_FEATURES = {  # columns of x, in order
    **{f"is_{kind}": f"1 for units of kind {kind}, else 0" for kind in KINDS[:-1]},
    "is_opaque": "1 for the node of a tensor that no rule placed, else 0",
    "group_place": "place of the unit group in execution order, 0 to 1",
    "member_place": "place of the unit within a fixed group, 0 to 1; 0 where units can move",
}
EDGE_FEATURES = {  # columns of edge_attr, in order
    "value": "the number of theta",
    "slot": "place after a flatten, -1 to 1",
    "kernel_1": "place along the first kernel axis, -1 to 1; 0 without kernel",
    "kernel_2": "along the second",
    "kernel_3": "along the third",
}
MAX_GRAPHML_EDGES = 2_000_000  # some 500 bytes each, and twice as much memory


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
        feature = torch.zeros(units.size, len(NODE_FEATURES))
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
            feature = torch.zeros(1, len(NODE_FEATURES))
            feature[:, KINDS.index("opaque")] = 1
            nodes.append(feature)
            units_of.append(torch.tensor([len(nodes) - 1]))
            member_of.append(torch.zeros(1, dtype=torch.int64))
        edges.append(_edges(architecture, block, number, first, start))
        start += block.kind == "opaque"
    none = torch.empty(0, dtype=torch.int64)
    nodes.append(torch.empty(0, len(NODE_FEATURES)))
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
    """A PyG graph: `x` [N, 7] and `edge_attr` [P, 5] with the columns that the module names.

    `edge_index` [2, P] leads from source to target. `edge_block` [P] and `node_units` [N] count
    the architecture's blocks and unit groups, `node_member` [N] the members of a group.
    `edge_parameter` [P] says which number of theta an edge carries, so `from_pyg`
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
    places = data.edge_parameter
    if not _is_permutation(places, architecture.num_parameters):
        raise ValueError(
            f"this PyG graph has {len(places)} edges, but architecture '{architecture.name}' needs "
            f"each of its {architecture.num_parameters} parameters once. Was it sampled or pruned?"
        )
    theta = torch.empty(architecture.num_parameters, dtype=data.edge_attr.dtype)
    theta[places] = data.edge_attr[:, 0]
    return ParameterGraph(architecture, theta, data.buffers)


def _is_permutation(places: Tensor, num: int) -> bool:
    """Whether each number below `num` is there once; sorting would take eight times as long."""
    if len(places) != num:
        return False
    if num == 0:
        return True
    least, greatest = places.aminmax()
    if least < 0 or greatest >= num:
        return False
    seen = torch.zeros(num, dtype=torch.bool)
    seen[places] = True
    return bool(seen.all())


def to_networkx(graph: ParameterGraph, level: str = "neurons") -> networkx.MultiDiGraph:
    """A multigraph whose attributes are texts, numbers and truth values, as GraphML wants them.

    Nodes are pairs (units, member) with `units`, `member`, `kind`, `fixed`, `activations` and
    `within`; an edge a number of theta, its key the number's place, with `weight`, `tensor`,
    `block`, `block_kind`, `role`, `parameter`, and the columns of `EDGE_FEATURES` after the value.
    For `level="architecture"` see `architecture_to_networkx`.

    Raises:
        ValueError: unknown level, or a graph without values.
    """
    import networkx

    _check_level(level)
    architecture = graph.architecture
    if level == "architecture":
        return architecture_to_networkx(architecture)
    graph.require_values("to_networkx")
    t = topology(architecture)
    result = networkx.MultiDiGraph(name=architecture.name, fingerprint=architecture.fingerprint)
    keys: list[tuple[str, int]] = []
    for units in architecture.units:
        within = _parents_of_members(architecture, units.name)
        shared = {
            "units": units.name,
            "kind": units.kind,
            "fixed": units.fixed,
            "activations": ", ".join(units.activations),
        }
        for member in range(units.size):
            keys.append((units.name, member))
            result.add_node(keys[-1], **shared, member=member, within=within[member])
    for block in architecture.blocks:
        if block.kind == "opaque":
            keys.append((block.name, 0))
            shared = {"units": block.name, "kind": "opaque", "fixed": True, "activations": ""}
            result.add_node(keys[-1], **shared, member=0, within="")
    blocks = [
        {"tensor": b.tensor, "block": b.name, "block_kind": b.kind, "role": b.role}
        for b in architecture.blocks
    ]
    columns = list(EDGE_FEATURES)[1:]
    result.add_edges_from(
        (
            keys[source],
            keys[target],
            parameter,
            {
                "weight": weight,
                **blocks[block],
                "parameter": parameter,
                **dict(zip(columns, position, strict=True)),
            },
        )
        for source, target, block, parameter, weight, position in zip(
            *t.edge_index.tolist(),
            t.edge_block.tolist(),
            t.edge_parameter.tolist(),
            graph.theta[t.edge_parameter].tolist(),
            t.edge_position.tolist(),
            strict=True,
        )
    )
    return result


def architecture_to_networkx(architecture: Architecture) -> networkx.MultiDiGraph:
    """A node a unit group, an edge a block with the block's name as its key.

    Nodes carry `size`, `kind`, `fixed`, `activations` and `within`; edges `kind`, `role`,
    `tensor`, `shape`, `num_parameters` and `groups`. A block of one unit group alone is a
    self-loop; an opaque one has a node of its own.
    """
    import networkx

    from .summary import shape, within

    result = networkx.MultiDiGraph(name=architecture.name, fingerprint=architecture.fingerprint)
    for units in architecture.units:
        result.add_node(
            units.name,
            size=units.size,
            kind=units.kind,
            fixed=units.fixed,
            activations=", ".join(units.activations),
            within=", ".join(within(architecture, units)),
        )
    for block in architecture.blocks:
        target = block.target or block.source or block.name
        if target not in architecture.unit:
            result.add_node(target, size=1, kind="opaque", fixed=True, activations="", within="")
        result.add_edge(
            block.source or target,
            target,
            block.name,
            kind=block.kind,
            role=block.role,
            tensor=block.tensor,
            shape=shape(block),
            num_parameters=block.num_edges,
            groups=block.groups,
        )
    return result


def to_graphml(graph: ParameterGraph, path: Path | str, level: str = "neurons") -> None:
    """Write what `to_networkx` gives as GraphML, for Gephi, yEd, Cytoscape; whole or not at all.

    Nodes are named by text: "fc1[3]" is member 3 of units fc1.

    Raises:
        ValueError: the path does not end in .graphml or .xml, unknown level, no values, or more
            than `MAX_GRAPHML_EDGES` edges.
    """
    import networkx

    path = Path(path)
    if path.suffix not in (".graphml", ".xml"):
        raise ValueError(
            f"{path}: GraphML is written to a file .graphml or .xml, not '{path.name}'"
        )
    _check_level(level)
    num_edges = graph.architecture.num_parameters
    if level == "neurons" and num_edges > MAX_GRAPHML_EDGES:
        raise ValueError(
            f"{path}: '{graph.architecture.name}' has {num_edges:,} edges, more than the "
            f"{MAX_GRAPHML_EDGES:,} that GraphML is written for; use level='architecture'"
        )
    content = to_networkx(graph, level)
    if level == "neurons":
        names = {node: f"{node[0]}[{node[1]}]" for node in content}
        content = networkx.relabel_nodes(content, names, copy=True)
    write_whole(
        path, lambda unfinished: networkx.write_graphml(content, unfinished, named_key_ids=True)
    )


def _parents_of_members(architecture: Architecture, name: str) -> list[str]:
    """What each member sits within, as text: "heads[3]"."""
    units = architecture.unit[name]
    texts = [
        [f"{parent.units}[{member}]" for member in parent.of(units.size).tolist()]
        for parent in units.parents
    ]
    return [", ".join(parts) for parts in zip(*texts, strict=True)] if texts else [""] * units.size


def _check_level(level: Any) -> None:
    if level not in ("neurons", "architecture"):
        raise ValueError(f"level must be 'neurons' or 'architecture', got {level!r}")
