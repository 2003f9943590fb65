"""Explicit edges of an architecture: one a pair of units that a block joins, made once.

Knows units, blocks and what sits within what; knows no values. A kernel is one edge with
several numbers, unlike in `graphrep.interchange`, which has an edge for each number.

Letters in shapes: N nodes, E edges, B networks of a batch.
Source: Kofinas et al. 2024, arXiv:2403.12143. There topology is read from values (a weight of
zero has no edge), a flattened channel is copied for each pixel, and norms, lookups, grouped
convolutions and heads are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from ..architecture import Architecture, Block
from .layout import role_of

KINDS_OF_EDGES = ("forward", "to parent", "from parent", "reversed")


@dataclass(frozen=True, eq=False)
class NumbersOfBlocks:
    """What is known of the numbers of some blocks, whatever their values.

    The numbers that one edge or node of a block has, one block after the other.
    """

    blocks: tuple[Block, ...]
    sizes: tuple[int, ...]  # of each block
    positions: Tensor  # [sum of sizes, 5]: `Block.positions`, and the logarithm of the size
    role: Tensor  # int64 [sum of sizes], of `ROLES`


@dataclass(frozen=True, eq=False)
class ExplicitEdges:
    """Nodes are units in the architecture's order, then one a tensor that no rule placed.

    Edges come first in the order of the blocks, target by target, then those between units and
    what they sit within, then those of the blocks reversed; `order` sorts them by target.
    """

    of_edges: NumbersOfBlocks  # of blocks that join two groups of units
    of_nodes: NumbersOfBlocks  # of blocks whose numbers belong to one node each
    node_of: tuple[int, ...]  # the first node of each of the latter
    num_nodes: int
    num_opaque: int  # nodes that are no units
    outputs: Tensor  # int64, nodes of output units
    num_forward: int  # edges of the blocks, one way
    kin: Tensor  # int64 [edges between units and parents], of KINDS_OF_EDGES
    order: Tensor  # int64 [E]: edge e of `index` is edge order[e] as they come
    in_order: bool  # edges come sorted by target
    index: Tensor  # int64 [2, E], source to target, sorted by target
    degree: Tensor  # int64 [N], incoming edges

    def sort(self, edges: Tensor) -> Tensor:
        """Edges [B, E, d] as they come -> sorted by target."""
        return edges if self.in_order else edges.index_select(1, self.order)

    def unsort(self, edges: Tensor) -> Tensor:
        """The inverse of `sort`."""
        return edges if self.in_order else edges.index_select(1, torch.argsort(self.order))

    def batched(self, num: int) -> tuple[Tensor, Tensor]:
        """Networks side by side: edges int64 [2, B * E], and where each node's incoming begin."""
        shift = torch.arange(num, device=self.index.device).view(1, -1, 1) * self.num_nodes
        counts = self.degree.repeat(num)
        pointer = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return (self.index.unsqueeze(1) + shift).flatten(1), pointer


@lru_cache(maxsize=256)
def explicit_edges(
    architecture: Architecture, reverse: bool, device: torch.device
) -> ExplicitEdges:
    """The edges of an architecture; with `reverse` each block's also from target to source."""
    a, start = architecture, 0
    first = {}
    for units in a.units:
        first[units.name] = start
        start += units.size
    joined = [b for b in a.blocks if b.source is not None and b.target is not None]
    own = [b for b in a.blocks if b.kind == "diagonal" and b.target is not None]
    opaque = [b for b in a.blocks if b.kind == "opaque"]
    none = torch.empty(2, 0, dtype=torch.int64)
    forward = torch.cat([none, *(_pairs(b, first) for b in joined)], 1)
    up = torch.cat([none, *_within(a, first)], 1)
    back = forward.flip(0) if reverse else none
    index = torch.cat([forward, up, up.flip(0), back], 1)
    order = torch.argsort(index[1], stable=True)
    num_nodes = start + len(opaque)
    outputs = [first[u.name] + torch.arange(u.size) for u in a.units if u.kind == "output"]
    return ExplicitEdges(
        of_edges=_numbers(joined, device),
        of_nodes=_numbers([*own, *opaque], device),
        node_of=(*(first[b.target] for b in own if b.target), *range(start, num_nodes)),
        num_nodes=num_nodes,
        num_opaque=len(opaque),
        outputs=torch.cat([none[0], *outputs]).to(device),
        num_forward=forward.shape[1],
        kin=torch.tensor([1, 2]).repeat_interleave(up.shape[1]).to(device),
        order=order.to(device),
        in_order=torch.equal(order, torch.arange(len(order))),
        index=index[:, order].to(device),
        degree=torch.bincount(index[1], minlength=num_nodes).to(device),
    )


def _numbers(blocks: list[Block], device: torch.device) -> NumbersOfBlocks:
    sizes = tuple(b.num_features for b in blocks)
    described = [torch.zeros(0, 5)]
    for block, size in zip(blocks, sizes, strict=True):
        described.append(F.pad(block.positions(), (0, 1), value=log(size)))
    roles = torch.tensor([role_of(b) for b in blocks], dtype=torch.int64)
    return NumbersOfBlocks(
        blocks=tuple(blocks),
        sizes=sizes,
        positions=torch.cat(described).to(device),
        role=roles.repeat_interleave(torch.tensor(sizes, dtype=torch.int64)).to(device),
    )


def _pairs(block: Block, first: dict[str, int]) -> Tensor:
    """Source and target of a block's edges, ordered as `read_block` has its numbers."""
    assert block.source is not None and block.target is not None
    assert block.source_axis is not None and block.target_axis is not None
    rows, columns = (block.axes[i].size for i in (block.target_axis, block.source_axis))
    target = torch.arange(rows).unsqueeze(1).expand(rows, columns)
    source = target // (rows // block.groups) * columns + torch.arange(columns)
    return torch.stack(
        [first[block.source] + source.flatten(), first[block.target] + target.flatten()]
    )


def _within(a: Architecture, first: dict[str, int]) -> list[Tensor]:
    """From units to what they sit within, such as dims to their head."""
    return [
        torch.stack(
            [
                first[units.name] + torch.arange(units.size),
                first[parent.units] + parent.of(units.size),
            ]
        )
        for units in a.units
        for parent in units.parents
    ]
