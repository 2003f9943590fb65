"""How large the numbers of a layer are, and how far their mean has moved, on a log scale.

What moments of asinh-scaled numbers blur: biases start at zero, so the size of their mean
grows with the learning rate and the steps; under a softmax the gradients of the last biases
sum to zero, so plain gradient descent keeps their mean where it began and Adam does not.
A linear map reads neither off a mean of either sign. Taken of the numbers as they are, since
a centre that is not zero, or a bent scale, would hide a mean of zero.

Letters in shapes: B batch, n numbers of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..architecture import Architecture, Block
from ..scaling import LARGEST
from .moments import CHUNK, of_layers

PER_LAYER = 2
NUM_MAGNITUDES = 2 * PER_LAYER  # of a slot: weights, and the diagonal numbers
SMALLEST_MEAN = 1e-2  # of the deviation; below is noise of rounding
SMALLEST = 1e-6  # deviation


def layer_magnitudes(
    architecture: Architecture, read: Callable[[Block], Tensor], num_slots: int, like: Tensor
) -> Tensor:
    """log10 of |mean| / deviation and of the deviation of each layer, [B, slots * 4].

    Args:
        read: A block's unscaled numbers, [B, ...].
        like: [B, 0], for type and device where there is nothing to measure.
    """
    return of_layers(architecture, read, magnitudes, num_slots, like, PER_LAYER)


def magnitudes(parts: Sequence[Tensor]) -> Tensor:
    """Of rows that come in parts, [B, n_i] each -> [B, 2].

    NaN counts as 0, what lies beyond LARGEST as that far, as for the scaling.
    """
    chunks = [
        torch.nan_to_num(chunk).clamp(-LARGEST, LARGEST)
        for part in parts
        for chunk in part.split(max(1, CHUNK // max(1, len(part))), 1)
    ]
    n = sum(chunk.shape[1] for chunk in chunks)
    centre = torch.stack([c.sum(1, dtype=torch.float64) for c in chunks]).sum(0) / n
    square = torch.stack(
        [(c - centre.to(c).unsqueeze(1)).square().sum(1, dtype=torch.float64) for c in chunks]
    )
    deviation = (square.sum(0) / n).sqrt() + SMALLEST
    found = torch.stack([(centre.abs() / deviation + SMALLEST_MEAN).log10(), deviation.log10()], 1)
    return found.to(parts[0])
