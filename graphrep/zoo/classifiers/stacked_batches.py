"""Which images each network of a stack sees at each step, moved to its device at once.

Letters in shapes: S networks, B images of a batch, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's images of the K networks that still have some; B is the first one's size."""

    rows: Tensor  # int64 [K, B], positions of images
    counted: Tensor  # bool [K, B], False for those that only fill a short batch up
    sizes: list[int]  # images that count, of each network, in descending order

    def weights(self, dtype: torch.dtype) -> Tensor:
        """What each image counts in a mean over its batch, [K, B]."""
        counted = self.counted.to(dtype)
        return counted / counted.sum(1, keepdim=True)


def stacked_batches(
    orders: Sequence[Tensor], batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Cut each network's images into batches; a step is of those networks that have one left.

    A short batch is filled up with its first image, so that what does not count is no
    stranger to the network than what does.

    Args:
        orders: Each network's images in order, longest first.
    """
    lengths = [len(order) for order in orders]
    assert lengths == sorted(lengths, reverse=True)
    num_steps = num_batches(lengths[0], batch_size)
    rows = torch.zeros(len(orders), num_steps * batch_size, dtype=torch.int64)
    for i, order in enumerate(orders):
        rows[i, : len(order)] = order
        last = num_batches(len(order), batch_size) - 1
        rows[i, len(order) : (last + 1) * batch_size] = order[last * batch_size]
    counted = torch.arange(rows.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    shape = (num_steps, batch_size)
    rows = rows.unflatten(1, shape).transpose(0, 1).contiguous().to(device)  # [T, S, B]
    counted = counted.unflatten(1, shape).transpose(0, 1).contiguous().to(device)
    for step in range(num_steps):
        start = step * batch_size
        sizes = [min(length - start, batch_size) for length in lengths if length > start]
        used = (step, slice(len(sizes)), slice(sizes[0]))
        yield Batch(rows=rows[used], counted=counted[used], sizes=sizes)


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches of an epoch, the last of which may be short."""
    return -(-num_images // batch_size)
