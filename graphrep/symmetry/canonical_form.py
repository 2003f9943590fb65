"""One representative for all rescaled copies of a network.

Positive scales: the copy of least Euclidean norm (`balancing.py`); a batch norm's channel gets
running variance 1 - eps. Signs: the sum of cubes of a unit's incoming numbers becomes positive.
Nothing here depends on the order of units, so the canonical form of a permuted network is the
permuted canonical form.

Letters in shapes: B networks in rows, P length of theta, n members of a unit group.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..architecture import Architecture
from ..graph import ParameterGraph
from .balancing import Balance
from .rescaling import (
    Part,
    Rescaling,
    Rescalings,
    chosen,
    multiply,
    parts_of,
    spread_along,
    sum_along,
)

TIE = 1e-9  # of the sum of absolute cubes: a sum below it has no sign


def canonical(graph: ParameterGraph, rescalings: Rescalings) -> ParameterGraph:
    """The representative of all rescaled copies of a network; the function stays the same.

    Idempotent, and it commutes with permutations. Numbers that are not finite count as
    absent. A sign whose units have no sum of cubes to go by is left alone. The work is done
    in float64, so half precision is only rounded once.

    Raises:
        ValueError: the rescalings are another architecture's, or the graph has no values.
    """
    graph.require_values("canonical")
    theta = canonical_rows(graph.theta.unsqueeze(0), graph.architecture, rescalings)
    return replace(graph, theta=theta[0])


@torch.no_grad()
def canonical_rows(theta: Tensor, architecture: Architecture, rescalings: Rescalings) -> Tensor:
    """As `canonical`, for networks of one architecture in rows: [B, P] -> [B, P] of its type.

    Raises:
        ValueError: the rescalings are another architecture's.
    """
    rescalings.check(architecture)
    dtype, theta = theta.dtype, theta.double().clone()
    positive = rescalings.of_kind("positive")
    normed = [f for f in positive if any(p.offset for p in f.parts)]
    for factor in reversed(normed):  # each leads a variance that those before it do not touch
        _normalise_variance(architecture, theta, factor)
    free = [f for f in positive if f not in normed]
    if free:
        scales = Balance(architecture, theta, free).solve()
        for factor, scale in zip(free, scales, strict=True):
            multiply(architecture, theta, factor, scale)
    _settle_signs(architecture, theta, rescalings.of_kind("sign"))
    return theta.to(dtype)


def _normalise_variance(architecture: Architecture, theta: Tensor, factor: Rescaling) -> None:
    """Bring a channel's running variance to 1 - eps, so that its norm divides by one."""
    for part, _, index, members in parts_of(architecture, factor):
        if part.offset:
            variance = theta[:, index].flatten(2) + part.offset
            usable = torch.isfinite(variance) & (variance > 0)
            logs = torch.where(usable, variance, 1.0).log().sum(2) / usable.sum(2).clamp_min(1)
            members = members.to(theta.device)
            count = torch.bincount(members, minlength=factor.size).clamp_min(1)
            mean = _by_member(factor, members, logs) / count
            multiply(architecture, theta, factor, torch.exp(-mean / part.exponent))
            return


def _settle_signs(architecture: Architecture, theta: Tensor, factors: list[Rescaling]) -> None:
    """Make the sum of cubes positive for each unit, in order of execution, in place.

    A unit goes by the first of its blocks that has a sum; only numbers count that no other
    sign, not settled yet, may still flip.
    """
    B = len(theta)
    settled = {f: theta.new_zeros(B, f.size, dtype=torch.bool) for f in factors}
    touching: dict[str, list[tuple[Rescaling, Part, Tensor]]] = {}
    for factor in factors:
        for part, block, _, members in parts_of(architecture, factor):
            touching.setdefault(block.name, []).append((factor, part, members))
    for factor in factors:
        flip = theta.new_ones(B, factor.size)
        for part, block, index, members in parts_of(architecture, factor):
            on = chosen(block, part)
            values = torch.nan_to_num(theta[:, index], 0.0, 0.0, 0.0)
            for other, at, others in touching[block.name]:
                if other is factor and at == part:
                    continue
                known = settled[other][:, others].double() * (other is not factor)
                too = chosen(block, at)[on].to(theta.device)
                values = values * torch.where(too, spread_along(block, at.end, known), 1.0)
            largest = values.flatten(1).abs().amax(1).clamp_min(1e-300)
            cubes = (values / largest.view(-1, *[1] * (values.dim() - 1))) ** 3
            sums = _by_member(factor, members, sum_along(block, part.end, cubes))
            sizes = _by_member(factor, members, sum_along(block, part.end, cubes.abs()))
            clear = ~settled[factor] & (sums.abs() > TIE * sizes)
            flip = torch.where(clear, torch.sign(sums), flip)
            settled[factor] |= clear
        multiply(architecture, theta, factor, flip)


def _by_member(factor: Rescaling, members: Tensor, sums: Tensor) -> Tensor:
    """Sums over the units of each member, [B, units] -> [B, n]."""
    total = sums.new_zeros(len(sums), factor.size)
    return total.index_add(1, members.to(sums.device), sums)
