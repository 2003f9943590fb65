"""Layer statistics s(W): what a table of moments and quantiles knows of a network.

Letters in shapes: B batch, n numbers of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture, Block
from .base import Batch, depth_weights

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
EXACT = 2**16  # numbers of a row that are sorted
TOGETHER = 2**12  # numbers of a row up to which layers of one size are taken in one go
CHUNK = 2**17  # numbers of rows of many at once, near the cache
NUM_BINS = 2**12
REACH = 12.0  # scaled numbers beyond count as this far
NUM_MOMENTS = 2 * (2 + len(QUANTILES))


def layer_moments(batch: Batch, num_slots: int) -> Tensor:
    """s(W): mean, variance and quantiles of each layer's numbers, [B, slots * 14].

    Weights and the diagonal numbers (biases, norms) of a layer apart. Source:
    Unterthiner et al. 2020, arXiv:2002.11448; layers are spread over slots by depth.
    """
    like = batch.values.new_zeros(len(batch.values), 0)
    return of_layers(batch.architecture, batch.read, moments, num_slots, like, NUM_MOMENTS // 2)


def of_layers(
    architecture: Architecture,
    read: Callable[[Block], Tensor],
    measure: Callable[[Sequence[Tensor]], Tensor],
    num_slots: int,
    like: Tensor,
    width: int,
) -> Tensor:
    """A measure of each layer's numbers, layers spread over slots, [B, 2 * slots * width].

    Weights first, then the diagonal numbers of the layers; small layers of one size are
    measured together.

    Args:
        read: The numbers of a block, [B, ...].
        measure: Rows that come in parts, [B, n_i] each -> [B, width].
        like: [B, 0], for type and device where there is nothing to measure.
    """
    parts = []
    for kinds in (("dense", "lookup", "opaque"), ("diagonal",)):
        layers: dict[str, list[Block]] = {}
        for block in architecture.blocks:
            if block.kind in kinds and block.num_edges:
                layers.setdefault(block.leader or block.tensor, []).append(block)
        rows = _measured(read, measure, list(layers.values()))
        if not rows:
            parts.append(like.new_zeros(len(like), num_slots * width))
            continue
        stacked = torch.stack(rows, 1)  # [B, layers, width]
        spread = depth_weights(len(rows), num_slots, stacked) @ stacked
        parts.append(spread.flatten(1))
    return torch.cat(parts, 1)


def _measured(
    read: Callable[[Block], Tensor],
    measure: Callable[[Sequence[Tensor]], Tensor],
    layers: list[list[Block]],
) -> list[Tensor]:
    rows: dict[int, Tensor] = {}
    small: dict[int, list[tuple[int, Tensor]]] = {}
    for place, blocks in enumerate(layers):
        parts = [read(block).flatten(1) for block in blocks]
        num = sum(part.shape[1] for part in parts)
        if num > TOGETHER:
            rows[place] = measure(parts)
        else:
            small.setdefault(num, []).append((place, torch.cat(parts, 1)))
    for found in small.values():
        together = measure([torch.cat([numbers for _, numbers in found])])
        for (place, _), row in zip(found, together.chunk(len(found)), strict=True):
            rows[place] = row
    return [rows[place] for place in range(len(layers))]


def moments(parts: Sequence[Tensor]) -> Tensor:
    """Mean, variance and quantiles of rows that come in parts: [B, n_i] each -> [B, 7].

    Of more than EXACT numbers in a row, quantiles are read off a histogram of NUM_BINS bins,
    which is 20 times as fast as sorting and off by half a bin (.003) at most, and no copy of
    the numbers is made. A gradient passes through sorted numbers only.
    """
    if sum(part.shape[1] for part in parts) > EXACT and not any(p.requires_grad for p in parts):
        return _moments_of_many(parts)
    numbers = parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
    centre = numbers.mean(1, keepdim=True)
    variance = (numbers - centre).square().mean(1, keepdim=True)
    return torch.cat([centre, variance, quantiles(numbers)], 1)


def quantiles(numbers: Tensor) -> Tensor:
    """QUANTILES of each row, with linear interpolation between neighbours: [B, n] -> [B, 5]."""
    low, high, share = _places(numbers.shape[1], numbers.dtype, numbers.device)
    if numbers.requires_grad or numbers.device.type != "cpu":
        ordered = numbers.sort(1).values
        return torch.lerp(ordered[:, low], ordered[:, high], share)
    found = np.sort(numbers.detach().numpy(), axis=1)  # several times as fast as torch's
    below, above = (torch.from_numpy(found[:, at.numpy()]) for at in (low, high))
    return torch.lerp(below, above, share)


@lru_cache(maxsize=1024)
def _places(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where QUANTILES stand among n ordered numbers: below, above, and the share of the latter."""
    places = torch.tensor(QUANTILES, dtype=dtype).double() * (n - 1)
    low = places.floor().long()
    share = (places - low).to(dtype)
    return low.to(device), (low + 1).clamp(max=n - 1).to(device), share.to(device)


def _moments_of_many(parts: Sequence[Tensor]) -> Tensor:
    """As `moments`, in chunks; quantiles are the middles of their bins, far ends cut."""
    B, n = len(parts[0]), sum(part.shape[1] for part in parts)
    chunks = [chunk for part in parts for chunk in part.split(max(1, CHUNK // B), 1)]
    # sums of chunks in their own type, since a sum in another one copies them; then in double
    centre = torch.stack([c.sum(1) for c in chunks]).double().sum(0) / n
    centre = centre.to(chunks[0]).unsqueeze(1)
    squares = torch.stack([(c - centre).square_().sum(1) for c in chunks])
    variance = (squares.double().sum(0) / n).to(centre)
    counts = centre.new_zeros(B * NUM_BINS, dtype=torch.int64)
    first = NUM_BINS * torch.arange(B, device=centre.device, dtype=torch.int32).unsqueeze(1)
    for chunk in chunks:
        bins = ((chunk + REACH) * (NUM_BINS / (2 * REACH))).clamp_(0, NUM_BINS - 1)
        counts += torch.bincount((bins.to(torch.int32) + first).flatten(), minlength=len(counts))
    places = centre.new_tensor(QUANTILES, dtype=torch.float64) * (n - 1)
    found = torch.searchsorted(
        counts.view(B, -1).cumsum(1), places.round().long().repeat(B, 1), right=True
    )
    middles = (found + 0.5) * (2 * REACH / NUM_BINS) - REACH
    return torch.cat([centre, variance.unsqueeze(1), middles.to(centre)], 1)
