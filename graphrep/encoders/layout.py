"""What the graph encoder reads off an architecture, as tensors, once an architecture.

Knows places, kinds and depths; knows no weights of networks and none of the encoder.

Letters in shapes: N units of all groups, P parameters, K numbers an edge or unit of all
blocks, one block after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..architecture import Architecture, Block
from ..architecture.reorder import block_index
from ..architecture.rules import ACTIVATIONS
from ..scaling import ROLES
from .message_passing import Kin, kin

KINDS = ("input", "hidden", "output", "fixed")
ACTIVATION_NAMES = ("none", "other", *ACTIVATIONS.split())
NUM_FREQUENCIES = 6


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of the numbers of some blocks, whatever their values."""

    blocks: tuple[Block, ...]
    sizes: tuple[int, ...]  # numbers an edge (or unit) of each block
    positions: Tensor  # [K, 4]
    role: Tensor  # int64 [K]
    block_role: Tensor  # int64 [blocks]


@dataclass(frozen=True, eq=False)
class Layout:
    """Units in rows, one group after the other, and the blocks that join them."""

    units: dict[str, slice]  # rows of each group, in the architecture's order
    kind: Tensor  # int64 [N]
    activation: Tensor  # [N, names], the share of each of a unit's activations
    waves: Tensor  # [N, 4 * NUM_FREQUENCIES] of depth, and of place in groups with identities
    edges: Features
    diagonals: Features
    kin: tuple[Kin, ...]
    num_incoming: dict[str, int]  # blocks that read into each group
    num_outgoing: dict[str, int]

    @property
    def sizes(self) -> list[int]:
        """Units of each group."""
        return [rows.stop - rows.start for rows in self.units.values()]


@lru_cache(maxsize=1024)
def layout_of(architecture: Architecture) -> Layout:
    """The layout of an architecture."""
    a = architecture
    edges = [b for b in a.blocks if b.source is not None and b.target is not None]
    diagonals = [b for b in a.blocks if b.kind == "diagonal" and b.target is not None]
    units: dict[str, slice] = {}
    kinds, activations, places = [], [], []
    start = 0
    for number, group in enumerate(a.units):
        units[group.name] = slice(start, start + group.size)
        start += group.size
        kinds.append(torch.full((group.size,), KINDS.index(group.kind)))
        names = [n if n in ACTIVATION_NAMES else "other" for n in group.activations] or ["none"]
        share = torch.zeros(len(ACTIVATION_NAMES))
        for name in names:
            share[ACTIVATION_NAMES.index(name)] += 1 / len(names)
        activations.append(share.expand(group.size, -1))
        fixed = torch.linspace(-1, 1, group.size) if group.fixed else torch.zeros(group.size)
        depth = torch.full((group.size,), number / max(1, len(a.units) - 1))
        places.append(torch.stack([depth, fixed], 1))
    none = torch.zeros(0)
    return Layout(
        units=units,
        kind=torch.cat([none.long(), *kinds]),
        activation=torch.cat([none.view(0, len(ACTIVATION_NAMES)), *activations]),
        waves=_waves(torch.cat([none.view(0, 2), *places])),
        edges=_features(edges),
        diagonals=_features(diagonals),
        kin=tuple(kin(a)),
        num_incoming={n: sum(b.target == n for b in edges) for n in units},
        num_outgoing={n: sum(b.source == n for b in edges) for n in units},
    )


def _features(blocks: list[Block]) -> Features:
    positions = [torch.zeros(0, 4), *(b.positions() for b in blocks)]
    sizes = tuple(b.num_features for b in blocks)
    role = torch.tensor([role_of(b) for b in blocks], dtype=torch.int64)
    return Features(
        tuple(blocks),
        sizes,
        torch.cat(positions),
        role.repeat_interleave(torch.tensor(sizes, dtype=torch.int64)),
        role,
    )


@lru_cache(maxsize=1024)
def places_of_numbers(architecture: Architecture) -> Tensor:
    """Where each number of theta stands once the layout's blocks are laid out one by one.

    int64 [P], among the numbers of edges and then of diagonals; -1 for those of neither.
    """
    layout = layout_of(architecture)
    result = torch.full((architecture.num_parameters,), -1)
    start = 0
    for block in (*layout.edges.blocks, *layout.diagonals.blocks):
        places = block_index(architecture, block).flatten()
        result[places] = start + torch.arange(len(places))
        start += len(places)
    return result


def role_of(block: Block) -> int:
    return ROLES.index(block.role) if block.role in ROLES else ROLES.index("other")


def _waves(values: Tensor) -> Tensor:
    """[n, 2] in [-1, 1] -> sines and cosines of rising frequency [n, 4 * NUM_FREQUENCIES]."""
    angles = values.unsqueeze(-1) * torch.pi * 2.0 ** torch.arange(NUM_FREQUENCIES)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
