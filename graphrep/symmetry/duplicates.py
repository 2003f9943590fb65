"""Hidden units that compute the same: merged into one, and split into copies.

Units that are copies of one another (`copies.py`) may as well be one unit whose outgoing numbers
are the sums of theirs, in a smaller architecture. A network whose units differ stays as it is.

Letters in shapes: B networks in rows, b some of them, P length of theta, n members of a unit
group, s slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import tensor_of
from ..graph import ParameterGraph
from .copies import can_merge, first_copies
from .resizing import resize


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
