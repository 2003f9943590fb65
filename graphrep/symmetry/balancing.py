"""Scales of least Euclidean norm: what positive rescalings of a network are settled to.

With log-scales u each squared number is multiplied by exp(2 e u), so the norm is convex in u
and its minimiser unique up to what moves no number. Units that are dead, or whose numbers only
grow with their scale, get unit norm instead of vanishing.

Letters in shapes: B networks in rows, P length of theta, n members of a unit group, V scales of
all rescalings. What is done to a row does not depend on its company: rows that have converged
stay while others go on.
Source: the objective is that of Stock et al. 2019, arXiv:1902.10416, equation 4 (solved there by
cycles over layers, as in `_cycle`; Newton's method follows here, since laws need all digits).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.spec import Block
from .rescaling import (
    End,
    Part,
    Rescaling,
    chosen,
    parts_of,
    places,
    spread_along,
    sum_along,
)

CYCLES = 30
NEWTON_STEPS = 60
CLOSE = 1e-13  # a step in log-scale that no longer counts


class Balance:
    """The least sum of squares over the log-scales u [B, V] of some positive rescalings.

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
                term = part, (members + size).to(theta.device), chosen(block, part).to(theta.device)
                self.terms.setdefault(block.name, []).append(term)
            size += factor.size
        for name, (_, index) in places(architecture).items():
            if name in self.terms:
                squares = torch.nan_to_num(theta[:, index], 0.0, 0.0, 0.0).square()
                if all(part.slot is None for part, _, _ in self.terms[name]):  # these scale alike
                    squares = squares.sum(-1, keepdim=True)
                    self.terms[name] = [(p, at, on[:1]) for p, at, on in self.terms[name]]
                self.squares[name] = squares
        self.nothing = theta.new_zeros(len(theta), size)

    def solve(self) -> list[Tensor]:
        """The scales of each rescaling, [B, n] each."""
        everything, live = self.squares, self._live()
        self.squares = {n: m * self._product(n, live.double()) for n, m in everything.items()}
        u, moves = self.nothing.clone(), _all_rows(self.nothing)
        for _ in range(CYCLES):
            before = u.clone()
            for own, factor in zip(self.own, self.factors, strict=True):
                u[:, own] += moves * self._cycle(u, factor)[:, own]
            moves = moves & _is_far(u - before)
            if not bool(moves.any()):
                break
        moves = _all_rows(u)
        for _ in range(NEWTON_STEPS):
            step = torch.where(moves, self._newton(u, moves), 0.0)
            u = u + step
            moves = moves & _is_far(step)
            if not bool(moves.any()):
                break
        self._settle_dead(u, live, everything)
        return [torch.exp(u[:, own]) for own in self.own]

    def _live(self) -> Tensor:
        """The units that have something on both sides, without those that have not: bool [B, V]."""
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
            mine[:, own] = ~settled[:, own]
            if not bool(mine.any()):
                continue
            known = settled.double()
            for part in factor.parts:
                mask = self._product(part.block, known, leave_out=(part.end, own))
                self.squares[part.block] = everything[part.block] * mask
            names, moves = {p.block for p in factor.parts}, _all_rows(u)
            for _ in range(NEWTON_STEPS):
                step = torch.where(mine & moves, self._cycle(u, factor), 0.0)
                u += step
                moves = moves & _is_far(step)
                if not bool(moves.any()):
                    break
            grows, shrinks = self._sides(u, names)
            settled |= mine & ((grows > 0) | (shrinks > 0))

    def _product(
        self, name: str, values: Tensor, leave_out: tuple[End, slice] | None = None
    ) -> Tensor:
        """Values [B, V] of all scales that a block takes, multiplied; all but one's, if asked."""
        block, total = self.blocks[name], values.new_ones(())
        for part, at, on in self.terms[name]:
            inside = leave_out and leave_out[1].start <= int(at[0]) < leave_out[1].stop
            if not (inside and leave_out and part.end == leave_out[0]):
                spread = spread_along(block, part.end, values[:, at])
                total = total * torch.where(on, spread, 1.0)
        return total

    def _exponent(self, name: str, u: Tensor) -> Tensor:
        """x(u) of one block, shaped to meet its squares."""
        block, total = self.blocks[name], u.new_zeros(())
        for part, at, on in self.terms[name]:
            total = total + on * spread_along(block, part.end, part.exponent * u[:, at])
        return total

    def _scaled(self, u: Tensor, names: set[str]) -> dict[str, Tensor]:
        """The squares of some blocks under scales u."""
        return {n: self.squares[n] * torch.exp(2 * self._exponent(n, u)) for n in sorted(names)}

    def _gather(self, numbers: dict[str, Tensor], power: int) -> Tensor:
        """For each scale [B, V], the sum of what takes it, times its exponent to a power."""
        total = self.nothing.clone()
        for name, values in numbers.items():
            for part, at, on in self.terms[name]:
                sums = sum_along(self.blocks[name], part.end, values * on)
                total.index_add_(1, at, float(part.exponent**power) * sums)
        return total

    def _sides(self, u: Tensor, names: set[str]) -> tuple[Tensor, Tensor]:
        """Squares that grow with each scale, and those that shrink, times |exponent| [B, V]."""
        grows, shrinks = self.nothing.clone(), self.nothing.clone()
        for name, values in self._scaled(u, names).items():
            for part, at, on in self.terms[name]:
                side = grows if part.exponent > 0 else shrinks
                sums = sum_along(self.blocks[name], part.end, values * on)
                side.index_add_(1, at, abs(part.exponent) * sums)
        return grows, shrinks

    def _cycle(self, u: Tensor, factor: Rescaling) -> Tensor:
        """The step [B, V] to the minimum over one rescaling's scales, the others held.

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

    def _newton(self, u: Tensor, rows: Tensor) -> Tensor:
        """One damped Newton step [B, V] of some rows [B, 1], by conjugate gradients."""
        scaled = self._scaled(u, set(self.blocks))

        def curve(v: Tensor) -> Tensor:
            return 4 * self._gather({n: m * self._exponent(n, v) for n, m in scaled.items()}, 1)

        slope, diagonal = 2 * self._gather(scaled, 1), 4 * self._gather(scaled, 2)
        step = _conjugate_gradients(curve, -slope * rows, diagonal)
        value, length = self._value(u), torch.ones_like(rows, dtype=u.dtype)
        while True:
            longer = self._value(u + length * step) > value * (1 + 1e-12)
            longer &= rows & (length > 1e-6)
            if not bool(longer.any()):
                return length * step
            length = torch.where(longer, length / 2, length)

    def _value(self, u: Tensor) -> Tensor:
        """F(u) of each row, [B, 1]."""
        parts = [m.flatten(1).sum(1) for m in self._scaled(u, set(self.blocks)).values()]
        return torch.stack(parts).sum(0).unsqueeze(1)


def _all_rows(u: Tensor) -> Tensor:
    return torch.ones(len(u), 1, dtype=torch.bool, device=u.device)


def _is_far(step: Tensor) -> Tensor:
    """Which rows still move, bool [B, 1]; those with NaN do not."""
    return (step.abs() > CLOSE).any(1, keepdim=True)


def _conjugate_gradients(
    curve: Callable[[Tensor], Tensor], goal: Tensor, diagonal: Tensor
) -> Tensor:
    """Solve curve(x) = goal [B, V] for positive semi-definite maps, scaled by their diagonals."""
    safe = torch.where(diagonal > 0, diagonal, 1.0)
    x, rest = torch.zeros_like(goal), goal.clone()
    scaled = rest / safe
    direction, power = scaled, (rest * scaled).sum(1, keepdim=True)
    first = power
    size = goal.shape[1]
    for _ in range(10 * size if size < 100 else 1000):
        go = power > 1e-30 * first
        if not bool(go.any()):
            break
        image = curve(direction)
        length = torch.where(go, power / (direction * image).sum(1, keepdim=True), 0.0)
        x, rest = x + length * direction, rest - length * image
        scaled = rest / safe
        power, before = torch.where(go, (rest * scaled).sum(1, keepdim=True), power), power
        direction = torch.where(go, scaled + power / before * direction, direction)
    return x
