"""Dropout masks of many networks, the very ones that each would draw when trained alone.

Each network draws from a generator of its own, on the CPU, a dropout after the other in the
memory order of the loop's tensors, as torch's dropout does. So a network's masks are the
same bits whoever is trained beside it, on whichever device; drawing them is the part of
stacked training that takes as long as it does in the loop.

Letters in shapes: S networks, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class DropoutMasks:
    """Draws the masks of a stack's steps, in order."""

    def __init__(
        self,
        module: nn.Module,
        example: Tensor,
        probabilities: Sequence[float],
        seeds: Sequence[int],
        batch_size: int,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            module: The networks' design, laid out in memory as the loop lays it out.
            example: Two or more images, likewise.
            probabilities: Of each network.
            seeds: Of each network's generator.
        """
        self._probabilities = list(probabilities)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._masks = (
            []
            if not any(probabilities)
            else [
                _memory_like(site, len(seeds), batch_size, dtype)
                for site in _sites(module, example)
            ]
        )
        self._kept = 1 - torch.tensor(self._probabilities, dtype=dtype)

    def draw(self, sizes: Sequence[int], device: torch.device) -> list[Tensor]:
        """Masks of one step, each [K, B, ...]; none if no network of the stack has dropout.

        Args:
            sizes: Images in the batch of each of the first K networks, in descending order; B
                is the first. Images beyond a network's own repeat its first one's mask.
        """
        for i, size in enumerate(sizes):
            probability, generator = self._probabilities[i], self._generators[i]
            for mask in self._masks:
                if probability > 0:
                    mask[i, :size].bernoulli_(1 - probability, generator=generator)
                    mask[i, size:] = mask[i, :1]
        num = len(sizes)
        drawn = [mask[:num, : sizes[0]] for mask in self._masks]
        scaled = [mask / self._kept[:num].view(-1, *(1,) * (mask.ndim - 1)) for mask in drawn]
        return [mask.to(device, non_blocking=True) for mask in scaled]


class _Watcher(TorchFunctionMode):
    """Keeps the inputs of dropouts."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.dropout:
            self.inputs.append(args[0])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _sites(module: nn.Module, example: Tensor) -> list[Tensor]:
    """The inputs of the module's dropouts; running statistics of the module move."""
    module.train()
    with _Watcher() as watcher:
        module(example)
    return watcher.inputs


def _memory_like(site: Tensor, num: int, batch_size: int, dtype: torch.dtype) -> Tensor:
    """[S, B, ...] of ones, each network's part in the memory order of its dropout's input."""
    if site.ndim == 4 and site.is_contiguous(memory_format=torch.channels_last):
        channels, height, width = site.shape[1:]
        return torch.ones(num, batch_size, height, width, channels, dtype=dtype).movedim(-1, 2)
    return torch.ones(num, batch_size, *site.shape[1:], dtype=dtype)
