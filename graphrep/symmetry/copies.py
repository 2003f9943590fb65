"""Which hidden units of a network are copies of others, told by values alone.

Two units of a group whose incoming numbers agree compute the same. Copies further on read sums
over copies, so what agrees is compared with what comes before merged, and in loops (recurrences,
residual streams) until nothing changes: the coarsest partition that is stable under incoming
sums.

A random functional of its incoming numbers, in which copies count as one, stands for each unit:
eight random numbers enter at the inputs, pass along all blocks and are bent between layers. Units
that agree in all eight agree in their numbers, with probability one.

Letters in shapes: B networks in rows, P length of theta, n members of a unit group, k features,
Q random functionals.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import read_block
from ..architecture.rules import ACTIVATIONS
from ..architecture.spec import Block, Operation

NUM_FUNCTIONALS = 8
THROUGH_BLOCKS = "addmm baddbmm mm bmm matmul linear convolution _convolution embedding"
MEMBERWISE = (  # what they do to a unit does not depend on the others of its group
    f"{ACTIVATIONS} add sub mul div _prelu_kernel prelu constant_pad_nd mean sum amax amin "
    "native_batch_norm _native_batch_norm_legit_no_training batch_norm cudnn_batch_norm "
    "max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d "
    "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d"
)


@lru_cache(maxsize=1024)
def can_merge(architecture: Architecture) -> tuple[str, ...]:
    """The unit groups in which a copy of a unit is as good as the unit.

    Hidden, neither within other units nor with units within them, placed along one axis of each
    tensor without groups; the numbers that go out can be told from those that come in; and every
    operation on them treats each unit by itself.
    """
    a = architecture
    nested = {p.units for u in a.units for p in u.parents} | {u.name for u in a.units if u.parents}
    found = []
    for units in a.units:
        name, blocks = units.name, list(a.blocks_of(units.name))
        if (
            not units.fixed
            and name not in nested
            and any(b.target == name for b in blocks)
            and all(_is_plain(b, name) for b in blocks)
            and not _is_entangled(a, name)
            and all(_treats_alone(a, o, name) for o in a.operations)
        ):
            found.append(name)
    return tuple(found)


def _is_plain(block: Block, units: str) -> bool:
    """Whether units lie along the axes of a block's target or source, one axis each."""
    along = {axis for axis, span in enumerate(block.axes) if span.units == units}
    ends = ((block.target, block.target_axis), (block.source, block.source_axis))
    return (
        block.groups == 1
        and not block.layout
        and along == {axis for end, axis in ends if end == units}
    )


def _is_entangled(a: Architecture, units: str) -> bool:
    """Whether a place of some tensor belongs to these units at two ends, or to others as well."""
    uses: dict[tuple[str, int], set[tuple[str | None, bool]]] = {}
    for block in a.blocks:
        for axis, span in enumerate(block.axes):
            for place in span.index().flatten().tolist() if _meets(a, block, axis, units) else ():
                outgoing = axis == block.source_axis
                uses.setdefault((f"{block.tensor} {axis}", place), set()).add(
                    (span.units, outgoing)
                )
    return any(len(found) > 1 and units in {u for u, _ in found} for found in uses.values())


def _meets(a: Architecture, block: Block, axis: int, units: str) -> bool:
    """Whether units lie anywhere along this axis of the block's tensor."""
    return any(
        b.tensor == block.tensor and len(b.axes) > axis and b.axes[axis].units == units
        for b in a.blocks
    )


def _treats_alone(a: Architecture, operation: Operation, units: str) -> bool:
    """Whether an operation does to each of these units what it would do without the others."""
    if units not in operation.inputs:
        return True
    if operation.name in THROUGH_BLOCKS.split():
        depthwise = units in operation.outputs
        return depthwise or any(
            b.source == units and b.target in operation.outputs for b in a.blocks
        )
    return operation.name in MEMBERWISE.split() and units in operation.outputs


def first_copies(theta: Tensor, architecture: Architecture) -> dict[str, Tensor]:
    """For each unit the first that it is a copy of, or itself: int64 [B, n] by group, on the CPU.

    Only groups that `can_merge`. Numbers count as equal within eps^(3/4) of their group's.
    """
    a = architecture
    names = can_merge(a)
    if not names:
        return {}
    close = torch.finfo(theta.dtype).eps ** 0.75
    numbers = torch.nan_to_num(theta.detach().cpu().double())
    said, mixes = _random_parts(a)
    B = len(theta)
    states = {
        u.name: torch.ones(B, u.size, NUM_FUNCTIONALS, dtype=torch.float64)
        if u.name in names
        else said[u.name].expand(B, -1, -1)
        for u in a.units
    }
    found: dict[str, Tensor] = {}
    num_classes = -1
    while True:
        for name in names:
            heard = _hear(a, name, numbers, states, mixes)
            size = heard.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-300)
            heard = heard / size
            found[name] = _first_close(heard, close)
            heard = heard.gather(1, found[name].unsqueeze(2).expand(heard.shape))
            states[name] = heard / (1 + heard.abs())
        before, num_classes = num_classes, sum(_num_classes(f) for f in found.values())
        if num_classes == before or not _has_loops(a):
            return found


def _hear(
    a: Architecture,
    name: str,
    numbers: Tensor,
    states: Mapping[str, Tensor],
    mixes: Mapping[str, Tensor],
) -> Tensor:
    """Random functionals of the incoming numbers of a group's units, [B, n, Q]."""
    total = numbers.new_zeros(len(numbers), a.unit[name].size, NUM_FUNCTIONALS)
    for block in a.blocks:
        if block.target != name:
            continue
        values, mix = read_block(a, block, numbers), mixes[block.name]  # [k, Q]
        if block.source is None:
            total = total + values @ mix
        else:
            state = states[block.source].unsqueeze(2) * mix  # [B, s, k, Q]
            total = total + values.flatten(2) @ state.flatten(1, 2)
    return total


def _first_close(values: Tensor, close: float) -> Tensor:
    """For each row of points [B, n, Q] the first point of each one's cluster, int64 [B, n].

    Points are of one cluster when in each coordinate a chain of steps of at most `close` joins
    them, among points that share all the others; the order of points plays no part.
    """
    B, n, Q = values.shape
    cluster = torch.zeros(B, n, dtype=torch.int64)
    count, since, coordinate = B, 0, 0
    while since < Q and count < B * n:
        x = values[:, :, coordinate % Q]
        order = x.argsort(1)
        order = order.gather(1, cluster.gather(1, order).argsort(stable=True, dim=1))
        x, own = x.gather(1, order), cluster.gather(1, order)
        new = (own.diff(dim=1) != 0) | (x.diff(dim=1) > close)
        number = torch.cat([new.new_zeros(B, 1), new], 1).cumsum(1)
        cluster = torch.zeros_like(cluster).scatter(1, order, number)
        before, count = count, int((number[:, -1] + 1).sum())
        since, coordinate = (since + 1 if count == before else 0), coordinate + 1
    everything = torch.arange(n).expand(B, n)
    first = torch.full((B, n), n).scatter_reduce(1, cluster, everything, "amin")
    return first.gather(1, cluster)


def _num_classes(first: Tensor) -> int:
    return int((first == torch.arange(first.shape[1])).sum())


@lru_cache(maxsize=1024)
def _random_parts(a: Architecture) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random numbers of units [n, Q] that are told apart, and of each block's features [k, Q]."""
    generator = torch.Generator().manual_seed(0)

    def draw(num: int) -> Tensor:
        return torch.randn(num, NUM_FUNCTIONALS, generator=generator, dtype=torch.float64)

    said = {u.name: draw(u.size) for u in a.units if u.name not in can_merge(a)}
    return said, {b.name: draw(b.num_features) for b in a.blocks}


@lru_cache(maxsize=1024)
def _has_loops(a: Architecture) -> bool:
    """Whether some mergeable units hear of units that come later, or of themselves."""
    place = {u.name: i for i, u in enumerate(a.units)}
    merged = can_merge(a)
    return any(
        b.source in merged and b.target in merged and place[b.source] >= place[b.target]
        for b in a.blocks
        if b.source is not None and b.target is not None
    )
