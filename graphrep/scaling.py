"""Weights on a common scale: asinh of (weight - centre) / scale, and back.

A scale for each role, fitted on the training split only and multiplied by
1/sqrt(fan-in) for weights and their biases, so one fit serves any architecture.
asinh is linear near zero and logarithmic far out: a few extreme networks do not
drown the rest. Knows theta and roles; knows no encoder.

SANE standardises each layer of one architecture by mean and deviation, and fits
that on every split apart; here it is fitted once, on the training split.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .architecture.reorder import tensor_of

ROLES = (
    "weight", "bias", "scale", "shift", "mean", "variance",
    "slope", "position", "table", "opaque", "other",
)  # fmt: skip
FIT_SIZE = 200_000  # numbers a role at most; quantiles of more would not be sharper
FIT_VALUES = 20_000_000  # numbers of one architecture that are read for it


class Thetas(Protocol):
    """Networks of one architecture in rows [M, P]: a tensor, or a zoo's rows on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor: ...

    def split(self, num: int, /) -> Iterable[Tensor]: ...


@lru_cache(maxsize=64)
def _roles_and_gains(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """For each number of theta its role's index and the gain sqrt(fan-in), [P] each."""
    role = torch.full((architecture.num_parameters,), ROLES.index("other"))
    gain = torch.ones(architecture.num_parameters)
    fan_in: dict[str, int] = {}
    for block in architecture.blocks:
        spec = architecture.tensor[block.tensor]
        number = ROLES.index(block.role) if block.role in ROLES else ROLES.index("other")
        tensor_of(spec, role).fill_(number)
        if block.role == "weight" and block.target_axis is not None:
            axes = block.layout[block.target_axis] if block.layout else (block.target_axis,)
            num_rows = prod(spec.shape[axis] for axis in axes)
            fan_in[block.tensor] = max(1, spec.numel // max(1, num_rows))
    for block in architecture.blocks:
        source = block.tensor if block.role == "weight" else block.leader
        if block.role in ("weight", "bias") and source in fan_in:
            tensor_of(architecture.tensor[block.tensor], gain).fill_(fan_in[source] ** 0.5)
    return role, gain


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
            role, gain = _roles_and_gains(architecture)
            step = max(1, len(theta) * architecture.num_parameters // FIT_VALUES)
            some = theta[torch.arange(0, len(theta), step)]
            for number in torch.unique(role).tolist():
                chosen = (some * gain)[:, role == number].flatten()
                values.setdefault(number, []).append(chosen[torch.isfinite(chosen)])
        for number, parts in values.items():
            found = torch.cat(parts)
            found = found[:: max(1, len(found) // FIT_SIZE)].double()
            if len(found) == 0:
                continue
            low, middle, high = torch.quantile(found, torch.tensor([0.1, 0.5, 0.9]).double())
            self.centre[number] = middle
            self.scale[number] = max(float(high - low) / 2.5631, 1e-6)  # a normal's deviation
        return self

    def _terms(self, architecture: Architecture, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        role, gain = (t.to(like.device) for t in _roles_and_gains(architecture))
        return (
            gain.to(like.dtype),
            self.centre[role].to(like.dtype),
            self.scale[role].to(like.dtype),
        )

    def forward(self, theta: Tensor, architecture: Architecture) -> Tensor:
        """theta [B, P] -> scaled [B, P]; NaN becomes 0 and infinities stay finite."""
        gain, centre, scale = self._terms(architecture, theta)
        return torch.asinh(torch.nan_to_num((theta * gain - centre) / scale))

    def inverse(self, scaled: Tensor, architecture: Architecture) -> Tensor:
        """The inverse of `forward`; variances come back positive."""
        gain, centre, scale = self._terms(architecture, scaled)
        theta = (torch.sinh(scaled) * scale + centre) / gain
        role, _ = _roles_and_gains(architecture)
        variance = (role == ROLES.index("variance")).to(theta.device)
        return torch.where(variance, theta.clamp(min=1e-6), theta)
