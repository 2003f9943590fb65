"""Hidden units that compute the same: merged into one, and split into copies.

Two units of a group whose incoming numbers agree compute the same, and may as well be one unit
whose outgoing numbers are the sums of theirs. Copies further on read sums over copies, so what
agrees is compared after merging what comes before, and in loops (recurrences, residual streams)
until nothing changes: the coarsest partition that is stable under incoming sums. Nothing
but values tells; a network whose units differ stays as it is.

A random functional of its incoming numbers, in which copies count as one, stands for each unit:
eight random numbers enter at the inputs, pass along all blocks and are bent between layers. Units
that agree in all eight agree in their numbers, with probability one.

Letters in shapes: B networks in rows, P length of theta, n members of a unit group, t targets,
s sources, k features, Q random functionals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import read_block, tensor_of
from ..architecture.rules import ACTIVATIONS
from ..architecture.spec import Block, Operation
from ..graph import ParameterGraph
from .resizing import resize

NUM_FUNCTIONALS = 8
THROUGH_BLOCKS = "addmm baddbmm mm bmm matmul linear convolution _convolution embedding"
MEMBERWISE = (  # what they do to a unit does not depend on the others of its group
    f"{ACTIVATIONS} add sub mul div _prelu_kernel prelu constant_pad_nd mean sum amax amin "
    "native_batch_norm _native_batch_norm_legit_no_training batch_norm cudnn_batch_norm "
    "max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d "
    "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d"
)


@dataclass(frozen=True, eq=False)
class Merged:
    """Some of the networks in rows, without copies: theta [b, P'] of a smaller architecture."""

    architecture: Architecture
    rows: Tensor  # int64 [b]
    theta: Tensor


def merge_copies(graph: ParameterGraph) -> ParameterGraph:
    """The network with one unit for all copies of it; the function stays the same.

    Of some copies the first stays. Groups whose units something else than their numbers could
    tell apart, or that some operation mixes (a layer norm divides by a mean over units, so a
    copy changes all), stay as they are: see `can_merge`. The inverse of `split_units`.

    Raises:
        ValueError: the graph has no values.
    """
    graph.require_values("merge_copies")
    found = merge_rows(graph.theta.unsqueeze(0), graph.architecture)
    if not found:
        return graph
    return replace(graph, architecture=found[0].architecture, theta=found[0].theta[0])


@torch.no_grad()
def merge_rows(theta: Tensor, architecture: Architecture) -> list[Merged]:
    """As `merge_copies`, theta [B, P]: the networks that have copies, by what they become."""
    first = first_copies(theta, architecture)
    has_copies = torch.zeros(len(theta), dtype=torch.bool)
    for members in first.values():
        has_copies |= (members != torch.arange(members.shape[1])).any(1)
    groups: dict[Architecture, tuple[list[int], list[Tensor]]] = {}
    for row in torch.nonzero(has_copies).flatten().tolist():
        own = {name: members[row] for name, members in first.items()}
        smaller, values = _merge(theta[row], architecture, own)
        rows, parts = groups.setdefault(smaller, ([], []))
        rows.append(row)
        parts.append(values)
    return [
        Merged(smaller, torch.tensor(rows), torch.stack(parts))
        for smaller, (rows, parts) in groups.items()
    ]


def split_units(
    graph: ParameterGraph, copies: Mapping[str, Tensor], generator: torch.Generator | None = None
) -> ParameterGraph:
    """A wider network of the same function: copies of units, which share what goes out.

    Args:
        copies: Members that get another copy, int64, by unit group; one named twice gets two.
            Copies go behind the other units.
        generator: Of the shares, drawn between 0.2 and 1 for each copy and scaled to sum to 1.

    Raises:
        ValueError: the graph has no values, no such units, or units that cannot be split.
    """
    graph.require_values("split_units")
    a = graph.architecture
    for name, chosen in copies.items():
        if name not in can_merge(a):
            known = ", ".join(can_merge(a)) or "none"
            raise ValueError(f"units '{name}' of '{a.name}' cannot be split; can be: {known}")
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < a.unit[name].size:
            raise ValueError(f"copies of '{name}' must lie in [0, {a.unit[name].size})")
    members = {n: torch.cat([torch.arange(a.unit[n].size), m]) for n, m in copies.items()}
    wider, index = resize(a, members)
    theta = graph.theta.double()[index]
    for name, own in members.items():
        drawn = 0.2 + 0.8 * torch.rand(len(own), generator=generator, dtype=torch.float64)
        total = torch.zeros(a.unit[name].size, dtype=torch.float64).index_add(0, own, drawn)
        share = drawn / total[own]
        for tensor, axis, places in _outgoing(wider, name):
            value = tensor_of(wider.tensor[tensor], theta)
            factor = torch.ones(value.shape[axis], dtype=torch.float64)
            factor[places] = share.unsqueeze(1).expand(places.shape)
            value.mul_(factor.view(-1, *[1] * (value.dim() - axis - 1)))
    return replace(graph, architecture=wider, theta=theta.to(graph.theta.dtype))


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


def _outgoing(a: Architecture, units: str) -> list[tuple[str, int, Tensor]]:
    """Tensors and axes along which a group's outgoing numbers lie, and its places [n, s] there."""
    found = {
        (b.tensor, b.source_axis, b.axes[b.source_axis])
        for b in a.blocks
        if b.source == units and b.source_axis is not None
    }
    return [(tensor, axis, span.index()) for tensor, axis, span in found]


def _merge(
    theta: Tensor, architecture: Architecture, first: Mapping[str, Tensor]
) -> tuple[Architecture, Tensor]:
    """One network [P] without its copies: the smaller design and its theta [P']."""
    total = theta.double().clone()
    kept = {}
    for name, members in first.items():
        stays = members == torch.arange(len(members))
        if bool(stays.all()):
            continue
        kept[name] = torch.nonzero(stays).flatten()
        for tensor, axis, places in _outgoing(architecture, name):
            value = tensor_of(architecture.tensor[tensor], total)
            part = value.index_select(axis, places.flatten())
            value.index_fill_(axis, places.flatten(), 0)
            value.index_add_(axis, places[members].flatten(), part)
    smaller, index = resize(architecture, kept)
    return smaller, total[index.to(total.device)].to(theta.dtype)


# Which units are copies -------------------------------------------------------


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
