"""Views of networks for self-supervised training: reordered, noised, partly hidden.

Everything is drawn on the fly from one generator; no view is stored. The target
is always the clean reordered network (SANE's code reconstructs the noised view).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...architecture import Architecture
from ...architecture.reorder import block_index, reorder_theta
from ...symmetry.permutation import random_permutation
from ...tokens import TokenGrid, token_grid

# a token; all numbers of a pair of units (or of one unit); a single number
MASK_UNITS = ("token", "edge", "number")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How a view differs from its network."""

    permute: bool = True
    noise: float = 0.05  # relative deviation of the multiplicative noise
    mask_ratio: float = 0.3  # share hidden
    mask_unit: str = "token"  # what is hidden at a time: one of MASK_UNITS
    erase: float = 0.0  # probability of hiding one contiguous 2 to 33 % of theta (2021)

    def __post_init__(self) -> None:
        for name in ("mask_ratio", "erase"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"views.{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.mask_unit not in MASK_UNITS:
            units = ", ".join(MASK_UNITS)
            raise ValueError(f"views.mask_unit must be one of {units}, got '{self.mask_unit}'")


@dataclass(frozen=True, eq=False)
class View:
    """`target` is clean; `values` is what the encoder sees, 0 where not `visible`; [B, P] each."""

    target: Tensor
    values: Tensor
    visible: Tensor


def make_view(
    theta: Tensor,
    architecture: Architecture,
    scale: Callable[[Tensor, Architecture], Tensor],
    config: ViewConfig,
    token_size: int,
    generator: torch.Generator,
) -> View:
    """One view of networks in rows, theta [B, P]; one reordering for the whole batch.

    Args:
        scale: theta to values, `WeightModel.values`.
    """
    if config.permute:
        theta = reorder_theta(architecture, theta, random_permutation(architecture, generator))
    target = scale(theta, architecture)
    noise = 1 + config.noise * torch.randn(target.shape, generator=generator)
    match config.mask_unit:
        case "token":
            grid = token_grid(architecture, token_size)
            visible = _masked(grid, len(theta), config.mask_ratio, generator)
        case "edge":
            edge = edges_of(architecture)
            scores = torch.rand(len(theta), int(edge.max()) + 1, generator=generator)
            visible = (scores >= config.mask_ratio)[:, edge]
        case _:
            visible = torch.rand(target.shape, generator=generator) >= config.mask_ratio
    if config.erase:
        visible = visible & _erased(target.shape, config.erase, generator)
    visible = visible.to(target.device)
    return View(target, target * noise.to(target) * visible, visible)


def _masked(grid: TokenGrid, num: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide whole tokens, the same share of each network: bool [B, P], True where visible."""
    scores = torch.rand(num, grid.num_tokens, generator=generator)
    seen = scores.argsort(1).argsort(1) >= round(ratio * grid.num_tokens)
    return grid.join(seen.unsqueeze(-1).expand(-1, -1, grid.index.shape[1]).contiguous())


@lru_cache(maxsize=256)
def edges_of(architecture: Architecture) -> Tensor:
    """Which edge (pair of units, unit of a diagonal block) each number belongs to, int64 [P]."""
    edge = torch.zeros(architecture.num_parameters, dtype=torch.int64)
    total = 0
    for block in architecture.blocks:
        places = block_index(architecture, block)
        number = torch.arange(places[..., 0].numel()).view(places.shape[:-1]).unsqueeze(-1)
        edge[places] = total + number.expand(places.shape)
        total += number.numel()
    return edge


def _erased(shape: torch.Size, probability: float, generator: torch.Generator) -> Tensor:
    """Hide one contiguous part of some networks (Hyper-Representations 2021, arXiv:2110.15288)."""
    num, length = shape
    share = 0.02 + 0.31 * torch.rand(num, 1, generator=generator)
    start = torch.rand(num, 1, generator=generator) * (1 - share)
    chosen = torch.rand(num, 1, generator=generator) < probability
    place = torch.arange(length) / length
    return ~(chosen & (place >= start) & (place < start + share))
