"""What reordering units does to theta: one gather, the same for every network of a design.

Knows an architecture's spans; knows no values and no groups of permutations.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .spec import Architecture, Block, TensorSpec


def axis_maps(
    architecture: Architecture, orders: Mapping[str, Tensor]
) -> dict[tuple[str, int], Tensor]:
    """For each tensor axis that moves: new place -> old place, int64 [axis size].

    `orders[units][i]` is the old unit that becomes unit i.

    Raises:
        ValueError: unknown or fixed units, or not a permutation of their size.
    """
    for name, order in orders.items():
        check_order(architecture, name, order)
    maps: dict[tuple[str, int], Tensor] = {}
    for block in architecture.blocks:
        for axis, span in enumerate(block.axes):
            if span.units is None or span.units not in orders:
                continue
            key = (block.tensor, axis)
            if key not in maps:
                maps[key] = torch.arange(architecture.tensor[block.tensor].shape[axis])
            index = span.index()
            maps[key][index.flatten()] = index[orders[span.units]].flatten()
    return maps


def check_order(architecture: Architecture, name: str, order: Tensor) -> None:
    """Raise ValueError unless `order` reorders hidden units of this architecture."""
    units = architecture.unit.get(name)
    hidden = [u.name for u in architecture.units if not u.fixed]
    if units is None:
        raise ValueError(
            f"architecture '{architecture.name}' has no units '{name}'; hidden units: {hidden}"
        )
    if units.fixed:
        raise ValueError(f"units '{name}' are of kind '{units.kind}' and cannot be reordered")
    if not torch.equal(torch.sort(order).values, torch.arange(units.size)):
        raise ValueError(
            f"the order of units '{name}' must hold each of 0..{units.size - 1} once, got "
            f"{tuple(order.shape)} values: {order.tolist()[:8]}..."
        )


def reorder(spec: TensorSpec, value: Tensor, maps: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Apply axis maps to a tensor [..., *shape]; itself when nothing moves."""
    lead = value.dim() - len(spec.shape)
    for axis in range(len(spec.shape)):
        if (spec.name, axis) in maps:
            value = value.index_select(lead + axis, maps[spec.name, axis])
    return value


def reorder_theta(
    architecture: Architecture, theta: Tensor, orders: Mapping[str, Tensor]
) -> Tensor:
    """Reorder units of networks in rows: theta [..., P] -> [..., P].

    Raises:
        ValueError: as `axis_maps`.
    """
    maps = axis_maps(architecture, orders)
    moved = {tensor for tensor, _ in maps}
    result = theta.clone()
    for spec in architecture.stored:
        if spec.name in moved:
            part = tensor_of(spec, theta)
            tensor_of(spec, result).copy_(reorder(spec, part, maps))
    return result


def tensor_of(spec: TensorSpec, theta: Tensor) -> Tensor:
    """A stored tensor as a view of theta: [..., P] -> [..., *shape]."""
    assert spec.offset is not None, f"{spec.name} is not stored in theta"
    return theta.narrow(-1, spec.offset, spec.numel).view((*theta.shape[:-1], *spec.shape))


def read_block(architecture: Architecture, block: Block, theta: Tensor) -> Tensor:
    """A block's numbers, units first.

    theta [B, P] -> dense and lookup [B, target, source, k], diagonal [B, target, k],
    opaque [B, k]; k runs over slots and kernel positions. A view where the
    spans allow it.
    """
    spec = architecture.tensor[block.tensor]
    value = tensor_of(spec, theta)
    lead = value.dim() - len(spec.shape)
    shape: list[int] = list(value.shape[:lead])
    for axis, span in enumerate(block.axes):
        if not span.covers(spec.shape[axis]):
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
    return read_block(architecture, block, torch.arange(architecture.num_parameters))
