"""One network of any size, its numbers read and scaled block by block as they are asked for.

For networks whose scaled copy should not stand in memory. An encoder that reads its batch
through `read` alone (`Encoder.streams`) holds no more of them than its largest block.
Knows tensors by name; knows no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..architecture import Architecture, Block
from ..architecture.reorder import read_part
from ..scaling import Scaling, measures
from .base import Batch


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedBatch(Batch):
    """One network; `values` is [1, 0] and says type and device alone."""

    tensor: Callable[[str], Tensor]  # a stored tensor's values, of any floating-point type
    scaling: Scaling
    latest: list[tuple[str, Tensor]] = field(default_factory=list)  # several blocks may share it

    def read(self, block: Block) -> Tensor:
        return reader_of(self.architecture, self._scaled, self.values)(block)

    def _scaled(self, name: str) -> Tensor:
        if not self.latest or self.latest[0][0] != name:
            self.latest.clear()  # before the next is made
            numbers = self.tensor(name).to(self.values)
            measure = measures(self.architecture)[name]
            self.latest.append((name, self.scaling.scale_part(numbers, measure)))
        return self.latest[0][1]


def stream(
    architecture: Architecture, tensor: Callable[[str], Tensor], scaling: Scaling, token_size: int
) -> StreamedBatch:
    """A batch of one network whose tensors are asked for by name, in float32."""
    return StreamedBatch(
        architecture,
        torch.empty(1, 0, device=scaling.scale.device, dtype=scaling.scale.dtype),
        token_size,
        tokens=False,
        tensor=tensor,
        scaling=scaling,
    )


def reader_of(
    architecture: Architecture, tensor: Callable[[str], Tensor], like: Tensor
) -> Callable[[Block], Tensor]:
    """A block of one network, [1, ...], from what gives its tensors by name, as it is asked for."""

    def read(block: Block) -> Tensor:
        spec = architecture.tensor[block.tensor]
        return read_part(spec, block, tensor(spec.tied_to or spec.name).to(like).unsqueeze(0))

    return read
