"""Weights on a common scale: asinh of (weight - centre) / scale, and back.

A scale for each role, fitted on the training split only and multiplied by
1/sqrt(fan-in) for weights and their biases, so one fit serves any architecture.
asinh is linear near zero and logarithmic far out: a few extreme networks do not
drown the rest. Knows theta and roles; knows no encoder.

SANE standardises each layer of one architecture by mean and deviation, and fits
that on every split apart; here it is fitted once, on the training split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from .architecture import Architecture

ROLES = (
    "weight", "bias", "scale", "shift", "mean", "variance",
    "slope", "position", "table", "opaque", "other",
)  # fmt: skip
FIT_SIZE = 200_000  # numbers a role at most; quantiles of more would not be sharper
LARGEST = 1e18  # farther numbers count as this far: their square is finite in float32
CHUNK = 2**16  # numbers scaled at once, near the cache
FIT_VALUES = 20_000_000  # numbers of one architecture that are read for it


class Thetas(Protocol):
    """Networks of one architecture in rows [M, P]: a tensor, or a zoo's rows on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor: ...

    def split(self, num: int, /) -> Iterable[Tensor]: ...


@dataclass(frozen=True)
class Measure:
    """How the numbers of a tensor are measured."""

    role: int  # place in ROLES
    gain: float  # sqrt(fan-in) of weights and their biases, 1 for all else


@lru_cache(maxsize=4096)
def measures(architecture: Architecture) -> Mapping[str, Measure]:
    """The measure of each stored tensor, by name in theta's order."""
    role: dict[str, int] = {}
    gain: dict[str, float] = {}
    fan_in: dict[str, int] = {}
    for block in architecture.blocks:
        spec = architecture.tensor[block.tensor]
        number = ROLES.index(block.role) if block.role in ROLES else ROLES.index("other")
        role[block.tensor] = number
        if block.role == "weight" and block.target_axis is not None:
            axes = block.layout[block.target_axis] if block.layout else (block.target_axis,)
            num_rows = prod(spec.shape[axis] for axis in axes)
            fan_in[block.tensor] = max(1, spec.numel // max(1, num_rows))
    for block in architecture.blocks:
        source = block.tensor if block.role == "weight" else block.leader
        if block.role in ("weight", "bias") and source in fan_in:
            gain[block.tensor] = fan_in[source] ** 0.5
    return {
        spec.name: Measure(role.get(spec.name, ROLES.index("other")), gain.get(spec.name, 1.0))
        for spec in architecture.stored
    }


@lru_cache(maxsize=4096)
def segments(architecture: Architecture) -> tuple[tuple[slice, Measure], ...]:
    """theta from its first number to its last, in parts of one measure."""
    found: list[tuple[slice, Measure]] = []
    for spec in architecture.stored:
        assert spec.offset is not None
        measure = measures(architecture)[spec.name]
        start = spec.offset
        if found and found[-1][1] == measure:
            start = found.pop()[0].start
        found.append((slice(start, spec.offset + spec.numel), measure))
    return tuple(found)


class Scaling(nn.Module):
    """The fitted centre and scale of each role, saved with the model."""

    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        centre = torch.tensor([1.0 if role in ("scale", "variance") else 0.0 for role in ROLES])
        self.register_buffer("centre", centre)
        self.register_buffer("scale", torch.ones(len(ROLES)))

    def fit(self, groups: Iterable[tuple[Architecture, Thetas]]) -> Scaling:
        """Set centre and scale to median and spread of each role over networks in rows.

        Of a large population, rows at equal distances stand for all.
        """
        values: dict[int, list[Tensor]] = {}
        for architecture, theta in groups:
            step = max(1, len(theta) * architecture.num_parameters // FIT_VALUES)
            some = theta[torch.arange(0, len(theta), step)]
            for part, measure in segments(architecture):
                chosen = (some[:, part] * measure.gain).flatten()
                values.setdefault(measure.role, []).append(chosen[torch.isfinite(chosen)])
        for number, parts in values.items():
            found = torch.cat(parts)
            found = found[:: max(1, len(found) // FIT_SIZE)].double()
            if len(found) == 0:
                continue
            low, middle, high = torch.quantile(found, torch.tensor([0.1, 0.5, 0.9]).double())
            self.centre[number] = middle
            self.scale[number] = max(float(high - low) / 2.5631, 1e-6)  # a normal's deviation
        return self

    def forward(self, theta: Tensor, architecture: Architecture) -> Tensor:
        """theta [B, P] -> scaled [B, P]; NaN becomes 0 and infinities stay finite."""
        parts = [self.scale_part(theta[:, part], m) for part, m in segments(architecture)]
        return torch.cat(parts, 1) if parts else theta.clone()

    def scale_part(self, numbers: Tensor, measure: Measure) -> Tensor:
        """Numbers of one measure, in any shape, scaled as `forward` does."""
        scale, centre = (t[measure.role].to(numbers) for t in (self.scale, self.centre))
        factor, shift = measure.gain / scale, centre / scale
        if numbers.numel() <= CHUNK or numbers.requires_grad or not numbers.is_contiguous():
            return _asinh((numbers * factor).sub_(shift))
        result = torch.empty_like(numbers)
        chunks = (x.view(-1).split(CHUNK) for x in (numbers, result))
        for before, after in zip(*chunks, strict=True):
            after.copy_(_asinh((before * factor).sub_(shift)))
        return result

    def inverse(self, scaled: Tensor, architecture: Architecture) -> Tensor:
        """The inverse of `forward`; variances come back positive."""
        parts = []
        for part, m in segments(architecture):
            scale, centre = self.scale[m.role].to(scaled), self.centre[m.role].to(scaled)
            numbers = torch.sinh(scaled[:, part]) * (scale / m.gain) + centre / m.gain
            parts.append(numbers.clamp(min=1e-6) if ROLES[m.role] == "variance" else numbers)
        return torch.cat(parts, 1) if parts else scaled.clone()


def _asinh(x: Tensor) -> Tensor:
    """asinh by log1p, four times as fast as torch's on CPUs; NaN becomes 0."""
    far = torch.nan_to_num(x).abs()
    if torch.is_grad_enabled() and x.requires_grad:
        far = far.clamp(max=LARGEST)
        inner = far.square()
        return torch.copysign(torch.log1p(far + inner / ((inner + 1).sqrt() + 1)), x)
    inner = far.clamp_(max=LARGEST).square()  # the same in place
    below = (inner + 1).sqrt_().add_(1)
    return torch.copysign(far.add_(inner.div_(below)).log1p_(), x)
