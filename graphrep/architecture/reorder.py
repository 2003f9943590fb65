"""What reordering units does to theta: one gather, the same for every network of a design.

Knows an architecture's spans; knows no values and no groups of permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from .nesting import complete
from .spec import Architecture, Block, TensorSpec


def axis_maps(
    architecture: Architecture, orders: Mapping[str, Tensor]
) -> dict[tuple[str, int], Tensor]:
    """For each axis that moves as a whole: new place -> old place, int64 [axis size].

    `orders[units][i]` is the old unit that becomes unit i. Blocks whose units lie along several
    axes, or in groups, move number by number instead (`reorder_theta`).
    """
    maps: dict[tuple[str, int], Tensor] = {}
    for block in architecture.blocks:
        if _by_number(block):
            continue
        for axis, span in enumerate(block.axes):
            if span.units is None or span.units not in orders:
                continue
            key = (block.tensor, axis)
            if key not in maps:
                maps[key] = torch.arange(architecture.tensor[block.tensor].shape[axis])
            index = span.index()
            maps[key][index.flatten()] = index[orders[span.units]].flatten()
    return maps


def _by_number(block: Block) -> bool:
    return bool(block.layout) or block.groups > 1


def reorder(spec: TensorSpec, value: Tensor, maps: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Apply axis maps to a tensor [..., *shape]; itself when nothing moves."""
    lead = value.dim() - len(spec.shape)
    for axis in range(len(spec.shape)):
        if (spec.name, axis) in maps:
            value = value.index_select(lead + axis, maps[spec.name, axis].to(value.device))
    return value


class Reordering:
    """What a family of orders does to each tensor of an architecture.

    Raises:
        ValueError: unknown or fixed units, not a permutation of their size, or one that
            separates units from what they sit within.
    """

    def __init__(self, architecture: Architecture, orders: Mapping[str, Tensor]) -> None:
        self.orders = complete(architecture, orders)
        self.maps = axis_maps(architecture, self.orders)
        self.moved = {tensor for tensor, _ in self.maps}
        self.by_number: dict[str, list[Block]] = {}
        for block in architecture.blocks:
            if _by_number(block) and any(span.units in self.orders for span in block.axes):
                self.by_number.setdefault(block.tensor, []).append(block)

    def moves(self, name: str) -> bool:
        """Whether a tensor changes at all."""
        return name in self.moved or name in self.by_number

    def apply(self, spec: TensorSpec, value: Tensor) -> Tensor:
        """A tensor [..., *shape] reordered; itself when nothing moves."""
        result = reorder(spec, value, self.maps)
        for block in self.by_number.get(spec.name, ()):
            result = result.clone() if result is value else result
            flat, old = result.flatten(-len(spec.shape)), value.flatten(-len(spec.shape))
            places = torch.arange(spec.numel).view(spec.shape)
            index = read_part(spec, block, places)
            flat[..., index.flatten()] = old[..., self._sources(block, index).flatten()]
        return result

    def _sources(self, block: Block, index: Tensor) -> Tensor:
        """Where each number comes from, where a row's order depends on its group."""
        moved = index
        if block.target is not None and block.target in self.orders:
            moved = moved[self.orders[block.target]]
        if block.source is not None and block.source in self.orders:
            order = self.orders[block.source].view(block.groups, -1)
            within = order - order.amin(1, keepdim=True)  # each group comes from one group
            rows = len(moved) // block.groups
            chosen = within.repeat_interleave(rows, 0).unsqueeze(-1).expand(moved.shape)
            moved = moved.gather(1, chosen)
        return moved


def reorder_theta(
    architecture: Architecture, theta: Tensor, orders: Mapping[str, Tensor]
) -> Tensor:
    """Reorder units of networks in rows: theta [..., P] -> [..., P].

    Raises:
        ValueError: as `Reordering`.
    """
    reordering = Reordering(architecture, orders)
    result = theta.clone()
    for spec in architecture.stored:
        if reordering.moves(spec.name):
            moved = reordering.apply(spec, tensor_of(spec, theta))
            tensor_of(spec, result).copy_(moved)
    return result


def tensor_of(spec: TensorSpec, theta: Tensor) -> Tensor:
    """A stored tensor as a view of theta: [..., P] -> [..., *shape]."""
    assert spec.offset is not None, f"{spec.name} is not stored in theta"
    return theta.narrow(-1, spec.offset, spec.numel).view((*theta.shape[:-1], *spec.shape))


def read_block(architecture: Architecture, block: Block, theta: Tensor) -> Tensor:
    """A block's numbers, units first.

    theta [B, P] -> dense and lookup [B, target, source, k], diagonal [B, target, k],
    opaque [B, k]; k runs over slots and kernel positions. With groups, `source` is the number
    within the target's group. A view where the spans allow it.
    """
    spec = architecture.tensor[block.tensor]
    return read_part(spec, block, tensor_of(spec, theta))


def read_part(spec: TensorSpec, block: Block, value: Tensor) -> Tensor:
    """As `read_block`, of the block's tensor [..., *shape]."""
    lead = value.dim() - len(spec.shape)
    shape: list[int] = list(value.shape[:lead])
    if block.layout:
        sizes = [prod(spec.shape[a] for a in merged) for merged in block.layout]
        order = [lead + a for merged in block.layout for a in merged]
        value = value.permute((*range(lead), *order)).reshape((*shape, *sizes))
    for axis, span in enumerate(block.axes):
        if not span.covers(value.shape[lead + axis]):
            value = value.index_select(lead + axis, span.index().flatten().to(value.device))
        shape += [span.size, span.slots]
    value = value.reshape(shape)
    ends = [a for a in (block.target_axis, block.source_axis) if a is not None]
    front = [lead + 2 * a for a in ends]
    rest = [d for d in range(lead, value.dim()) if d not in front]
    value = value.permute((*range(lead), *front, *rest))
    return value.reshape(*value.shape[: lead + len(ends)], block.num_features)


def block_index(architecture: Architecture, block: Block) -> Tensor:
    """The places in theta of a block's numbers, int64, shaped as `read_block` without B."""
    spec = architecture.tensor[block.tensor]
    start = spec.offset or 0
    return read_part(spec, block, torch.arange(start, start + spec.numel).view(spec.shape))
