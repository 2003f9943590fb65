"""One representative for all rescaled copies of a network.

Positive scales: the copy of least Euclidean norm. With log-scales u each squared number is
multiplied by exp(2 e u), so the norm is convex in u and its minimiser unique up to what moves
no number. Units that are dead, or whose numbers only grow with their scale, get unit norm
instead of vanishing; a batch norm's channel gets running variance 1 - eps. Signs: the sum of
cubes of a unit's incoming numbers becomes positive. Nothing here depends on the order of
units, so the canonical form of a permuted network is the permuted canonical form.

Letters in shapes: P length of theta, n members of a unit group, V scales of all rescalings.
Source: the objective is that of Stock et al. 2019, arXiv:1902.10416, equation 4 (solved there by
cycles over layers, as in `_cycle`; Newton's method follows here, since laws need all digits).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.spec import Block
from ..graph import ParameterGraph
from .rescaling import (
    End,
    Part,
    Rescaling,
    Rescalings,
    chosen,
    multiply,
    parts_of,
    places,
    spread_along,
    sum_along,
)

CYCLES = 30
NEWTON_STEPS = 60
CLOSE = 1e-13  # a step in log-scale that no longer counts
TIE = 1e-9  # of the sum of absolute cubes: a sum below it has no sign


def canonical(graph: ParameterGraph, rescalings: Rescalings) -> ParameterGraph:
    """The representative of all rescaled copies of a network; the function stays the same.

    Idempotent, and it commutes with permutations. Numbers that are not finite count as
    absent. A sign whose units have no sum of cubes to go by is left alone. The work is done
    in float64, so half precision is only rounded once.

    Raises:
        ValueError: the rescalings are another architecture's, or the graph has no values.
    """
    rescalings.check(graph.architecture)
    graph.require_values("canonical")
    theta = graph.theta.double().clone()
    positive = rescalings.of_kind("positive")
    normed = [f for f in positive if any(p.offset for p in f.parts)]
    for factor in reversed(normed):  # each leads a variance that those before it do not touch
        _normalise_variance(graph.architecture, theta, factor)
    free = [f for f in positive if f not in normed]
    if free:
        scales = _Balance(graph.architecture, theta, free).solve()
        for factor, scale in zip(free, scales, strict=True):
            multiply(graph.architecture, theta, factor, scale)
    _settle_signs(graph.architecture, theta, rescalings.of_kind("sign"))
    return replace(graph, theta=theta.to(graph.theta.dtype))


def _normalise_variance(architecture: Architecture, theta: Tensor, factor: Rescaling) -> None:
    """Bring a channel's running variance to 1 - eps, so that its norm divides by one."""
    for part, _, index, members in parts_of(architecture, factor):
        if part.offset:
            variance = theta[index].flatten(1) + part.offset
            usable = torch.isfinite(variance) & (variance > 0)
            logs = torch.where(usable, variance, 1.0).log().sum(1) / usable.sum(1).clamp_min(1)
            count = torch.bincount(members, minlength=factor.size).clamp_min(1)
            mean = torch.zeros(factor.size).double().index_add(0, members, logs) / count
            multiply(architecture, theta, factor, torch.exp(-mean / part.exponent))
            return


class _Balance:
    """The least sum of squares over the log-scales u [V] of some positive rescalings.

    F(u) = sum_i m_i exp(2 x_i(u)), with m_i a squared number (or the sum of those that scale
    alike) and x_i(u) the sum of the log-scales that it takes, times their exponents. Only *live*
    units take part: both what grows with their scale and what shrinks has numbers that are
    not zero and meet live units at their other end. Then F has a minimum.
    """

    def __init__(self, architecture: Architecture, theta: Tensor, factors: list[Rescaling]) -> None:
        self.factors = factors
        self.blocks: dict[str, Block] = {}
        self.squares: dict[str, Tensor] = {}
        # parts, whose scales they take (places in u), and which features they mean
        self.terms: dict[str, list[tuple[Part, Tensor, Tensor]]] = {}
        self.own: list[slice] = []
        size = 0
        for factor in factors:
            self.own.append(slice(size, size + factor.size))
            for part, block, _, members in parts_of(architecture, factor):
                self.blocks[block.name] = block
                term = part, members + size, chosen(block, part)
                self.terms.setdefault(block.name, []).append(term)
            size += factor.size
        for name, (_, index) in places(architecture).items():
            if name in self.terms:
                self.squares[name] = torch.nan_to_num(theta[index], 0.0, 0.0, 0.0).square()
                if all(part.slot is None for part, _, _ in self.terms[name]):  # these scale alike
                    self.squares[name] = self.squares[name].sum(-1, keepdim=True)
                    self.terms[name] = [(p, at, on[:1]) for p, at, on in self.terms[name]]
        self.nothing = torch.zeros(size, dtype=torch.float64)

    def solve(self) -> list[Tensor]:
        """The scales of each rescaling, [n] each."""
        everything, live = self.squares, self._live()
        self.squares = {n: m * self._product(n, live.double()) for n, m in everything.items()}
        u = self.nothing.clone()
        for _ in range(CYCLES):
            before = u.clone()
            for own, factor in zip(self.own, self.factors, strict=True):
                u[own] += self._cycle(u, factor)[own]
            if not bool((u - before).abs().max() > CLOSE):
                break
        for _ in range(NEWTON_STEPS):
            step = self._newton(u)
            u = u + step
            if not bool(step.abs().max() > CLOSE):
                break
        self._settle_dead(u, live, everything)
        return [torch.exp(u[own]) for own in self.own]

    def _live(self) -> Tensor:
        """The units that have something on both sides, without those that have not: bool [V]."""
        everything, live = self.squares, torch.ones_like(self.nothing, dtype=torch.bool)
        while True:
            self.squares = {n: m * self._product(n, live.double()) for n, m in everything.items()}
            grows, shrinks = self._sides(self.nothing, set(self.blocks))
            left = live & (grows > 0) & (shrinks > 0)
            if torch.equal(left, live):
                self.squares = everything
                return live
            live = left

    def _settle_dead(self, u: Tensor, settled: Tensor, everything: dict[str, Tensor]) -> None:
        """Give the other units numbers of unit norm (or balanced ones), in order, in place.

        Only numbers count whose other scale is settled; units without any keep theirs.
        """
        settled = settled.clone()
        for own, factor in zip(self.own, self.factors, strict=True):
            mine = torch.zeros_like(settled)
            mine[own] = ~settled[own]
            if not bool(mine.any()):
                continue
            known = settled.double()
            for part in factor.parts:
                mask = self._product(part.block, known, leave_out=(part.end, own))
                self.squares[part.block] = everything[part.block] * mask
            names = {p.block for p in factor.parts}
            for _ in range(NEWTON_STEPS):
                step = torch.where(mine, self._cycle(u, factor), 0.0)
                u += step
                if not bool(step.abs().max() > CLOSE):
                    break
            grows, shrinks = self._sides(u, names)
            settled |= mine & ((grows > 0) | (shrinks > 0))

    def _product(
        self, name: str, values: Tensor, leave_out: tuple[End, slice] | None = None
    ) -> Tensor:
        """Values [V] of all scales that a block takes, multiplied; all but one's, if asked."""
        block, total = self.blocks[name], torch.ones((), dtype=torch.float64)
        for part, at, on in self.terms[name]:
            inside = leave_out and leave_out[1].start <= int(at[0]) < leave_out[1].stop
            if not (inside and leave_out and part.end == leave_out[0]):
                total = total * torch.where(on, spread_along(block, part.end, values[at]), 1.0)
        return total

    def _exponent(self, name: str, u: Tensor) -> Tensor:
        """x(u) of one block, shaped to meet its squares."""
        block, total = self.blocks[name], torch.zeros((), dtype=torch.float64)
        for part, at, on in self.terms[name]:
            total = total + on * spread_along(block, part.end, part.exponent * u[at])
        return total

    def _scaled(self, u: Tensor, names: set[str]) -> dict[str, Tensor]:
        """The squares of some blocks under scales u."""
        return {n: self.squares[n] * torch.exp(2 * self._exponent(n, u)) for n in sorted(names)}

    def _gather(self, numbers: dict[str, Tensor], power: int) -> Tensor:
        """For each scale [V], the sum of what takes it, times its exponent to a power."""
        total = self.nothing.clone()
        for name, values in numbers.items():
            for part, at, on in self.terms[name]:
                sums = sum_along(self.blocks[name], part.end, values * on)
                total.index_add_(0, at, float(part.exponent**power) * sums)
        return total

    def _sides(self, u: Tensor, names: set[str]) -> tuple[Tensor, Tensor]:
        """Squares that grow with each scale, and those that shrink, times |exponent| [V]."""
        grows, shrinks = self.nothing.clone(), self.nothing.clone()
        for name, values in self._scaled(u, names).items():
            for part, at, on in self.terms[name]:
                side = grows if part.exponent > 0 else shrinks
                sums = sum_along(self.blocks[name], part.end, values * on)
                side.index_add_(0, at, abs(part.exponent) * sums)
        return grows, shrinks

    def _cycle(self, u: Tensor, factor: Rescaling) -> Tensor:
        """The step [V] to the minimum over one rescaling's scales, the others held.

        Exact where all exponents are 1 or -1 and no member meets another. Where only one side
        has numbers, the step to unit norm.
        """
        grows, shrinks = self._sides(u, {p.block for p in factor.parts})
        up, down = (max((p.exponent * s for p in factor.parts), default=0) for s in (1, -1))
        width = torch.where(grows > 0, max(up, 0), 0) + torch.where(shrinks > 0, max(down, 0), 0)
        grows_, shrinks_ = (torch.where(side > 0, side, 1.0) for side in (grows, shrinks))
        loops = len({(p.block, p.end) for p in factor.parts}) > len({p.block for p in factor.parts})
        step = torch.log(shrinks_ / grows_) / (2 * width.clamp_min(1))
        return step * 0.5 if loops else step

    def _newton(self, u: Tensor) -> Tensor:
        """One damped Newton step [V], by conjugate gradients."""
        scaled = self._scaled(u, set(self.blocks))

        def curve(v: Tensor) -> Tensor:
            return 4 * self._gather({n: m * self._exponent(n, v) for n, m in scaled.items()}, 1)

        slope, diagonal = 2 * self._gather(scaled, 1), 4 * self._gather(scaled, 2)
        step = _conjugate_gradients(curve, -slope, diagonal)
        value, length = self._value(u), 1.0
        while self._value(u + length * step) > value * (1 + 1e-12) and length > 1e-6:
            length /= 2
        return length * step

    def _value(self, u: Tensor) -> float:
        return float(sum(m.sum() for m in self._scaled(u, set(self.blocks)).values()))


def _conjugate_gradients(
    curve: Callable[[Tensor], Tensor], goal: Tensor, diagonal: Tensor
) -> Tensor:
    """Solve curve(x) = goal for a positive semi-definite map, scaled by its diagonal."""
    safe = torch.where(diagonal > 0, diagonal, 1.0)
    x, rest = torch.zeros_like(goal), goal.clone()
    scaled = rest / safe
    direction, power = scaled, rest @ scaled
    first = power
    for _ in range(10 * len(goal) if len(goal) < 100 else 1000):
        if not bool(power > 1e-30 * first):
            break
        image = curve(direction)
        length = power / (direction @ image)
        x, rest = x + length * direction, rest - length * image
        scaled = rest / safe
        power, before = rest @ scaled, power
        direction = scaled + power / before * direction
    return x


def _settle_signs(architecture: Architecture, theta: Tensor, factors: list[Rescaling]) -> None:
    """Make the sum of cubes positive for each unit, in order of execution, in place.

    A unit goes by the first of its blocks that has a sum; only numbers count that no other
    sign, not settled yet, may still flip.
    """
    settled = {f: torch.zeros(f.size, dtype=torch.bool) for f in factors}
    touching: dict[str, list[tuple[Rescaling, Part, Tensor]]] = {}
    for factor in factors:
        for part, block, _, members in parts_of(architecture, factor):
            touching.setdefault(block.name, []).append((factor, part, members))
    for factor in factors:
        flip = torch.ones(factor.size, dtype=torch.float64)
        for part, block, index, members in parts_of(architecture, factor):
            on = chosen(block, part)
            values = torch.nan_to_num(theta[index], 0.0, 0.0, 0.0)
            for other, at, others in touching[block.name]:
                if other is factor and at == part:
                    continue
                known = settled[other][others].double() * (other is not factor)
                too = chosen(block, at)[on]
                values = values * torch.where(too, spread_along(block, at.end, known), 1.0)
            cubes = (values / values.abs().max().clamp_min(1e-300)) ** 3
            sums = _by_member(factor, members, sum_along(block, part.end, cubes))
            sizes = _by_member(factor, members, sum_along(block, part.end, cubes.abs()))
            clear = ~settled[factor] & (sums.abs() > TIE * sizes)
            flip = torch.where(clear, torch.sign(sums), flip)
            settled[factor] |= clear
        multiply(architecture, theta, factor, flip)


def _by_member(factor: Rescaling, members: Tensor, sums: Tensor) -> Tensor:
    return torch.zeros(factor.size, dtype=torch.float64).index_add(0, members, sums)
