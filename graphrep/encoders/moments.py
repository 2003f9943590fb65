"""Layer statistics s(W): what a table of moments and quantiles knows of a network.

Letters in shapes: B batch, n numbers of a layer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import read_block
from .base import depth_weights

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
EXACT = 2**16  # numbers of a row that are sorted
NUM_BINS = 2**12
REACH = 12.0  # scaled numbers beyond count as this far
NUM_MOMENTS = 2 * (2 + len(QUANTILES))


def layer_moments(values: Tensor, architecture: Architecture, num_slots: int) -> Tensor:
    """s(W): mean, variance and quantiles of each layer's numbers, [B, slots * 14].

    Weights and the diagonal numbers (biases, norms) of a layer apart. Source:
    Unterthiner et al. 2020, arXiv:2002.11448; layers are spread over slots by depth.
    """
    parts = []
    for kinds in (("dense", "lookup", "opaque"), ("diagonal",)):
        layers: dict[str, list[Tensor]] = {}
        for block in architecture.blocks:
            if block.kind in kinds and block.num_edges:
                numbers = read_block(architecture, block, values).flatten(1)
                layers.setdefault(block.leader or block.tensor, []).append(numbers)
        rows = [moments(torch.cat(numbers, 1)) for numbers in layers.values()]
        if not rows:
            parts.append(values.new_zeros(len(values), num_slots * (2 + len(QUANTILES))))
            continue
        stacked = torch.stack(rows, 1)  # [B, layers, 7]
        spread = depth_weights(len(rows), num_slots, stacked) @ stacked
        parts.append(spread.flatten(1))
    return torch.cat(parts, 1)


def moments(numbers: Tensor) -> Tensor:
    """Mean, variance and quantiles of each row: [B, n] -> [B, 7]."""
    centre = numbers.mean(1, keepdim=True)
    variance = (numbers - centre).square().mean(1, keepdim=True)
    return torch.cat([centre, variance, quantiles(numbers)], 1)


def quantiles(numbers: Tensor) -> Tensor:
    """QUANTILES of each row, with linear interpolation between neighbours: [B, n] -> [B, 5].

    Of more than EXACT numbers in a row they are read off a histogram of NUM_BINS bins, which
    is 20 times as fast as sorting and off by half a bin (.003) at most. A gradient passes
    through sorted numbers only.
    """
    n = numbers.shape[1]
    places = numbers.new_tensor(QUANTILES).double() * (n - 1)
    if n > EXACT and not numbers.requires_grad:
        return _from_histogram(numbers, places)
    if numbers.requires_grad or numbers.device.type != "cpu":
        ordered = numbers.sort(1).values
    else:  # several times as fast as torch's
        ordered = torch.from_numpy(np.sort(numbers.detach().numpy(), axis=1))
    low = places.floor().long()
    share = (places - low).to(numbers)
    return torch.lerp(ordered[:, low], ordered[:, (low + 1).clamp(max=n - 1)], share)


def _from_histogram(numbers: Tensor, places: Tensor) -> Tensor:
    """Quantiles of rows as the middles of the bins that they fall into, far ends cut."""
    B = len(numbers)
    found = []
    for row in numbers:
        bins = ((row + REACH) * (NUM_BINS / (2 * REACH))).clamp_(0, NUM_BINS - 1)
        total = torch.bincount(bins.to(torch.int32), minlength=NUM_BINS).cumsum(0)
        found.append(torch.searchsorted(total, places.round().long().to(total), right=True))
    middles = (torch.stack(found) + 0.5) * (2 * REACH / NUM_BINS) - REACH
    return middles.to(numbers).view(B, -1)
