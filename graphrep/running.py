"""Networks in rows, run on fixed inputs in their own module.

Letters in shapes: B networks, P parameters, Q queries, O numbers that a network puts out.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from .architecture import Architecture
from .architecture.reorder import tensor_of

PART = 64  # networks that run at a time
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)


@dataclass(frozen=True, eq=False)
class Behaviour:
    """How to run networks of one architecture, and what is usual of their outputs."""

    module: nn.Module  # in evaluation mode; its own values play no part
    queries: Tensor  # [Q, ...], a batch of its inputs
    spread: float = 1.0  # mean square of an output around what networks usually answer
    together: bool = False  # whether many are faster run at once than one by one
    classifies: bool = False  # whether outputs are logits, the last axis a class each

    def to(self, device: torch.device) -> Behaviour:
        """The same on a device; itself if it is there."""
        if self.queries.device == device:
            return self
        module = self.module.to(device)
        return replace(self, module=module, queries=self.queries.to(device))


def run_networks(
    behaviour: Behaviour, architecture: Architecture, theta: Tensor, chunk: int = 32
) -> Tensor:
    """Outputs [B, Q, ...] of networks theta [B, P] in rows, each on all queries.

    Normalisation uses theta's statistics. What theta does not hold, such as counters, is the
    module's own.

    Args:
        chunk: Networks that run together, where they do.
    """

    def outputs(values: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(behaviour.module, values, (behaviour.queries,))
        return found

    values = {spec.name: tensor_of(spec, theta) for spec in architecture.stored}
    with _PlainBatchNorm() if theta.requires_grad else nullcontext():
        if behaviour.together:
            found: Tensor = torch.vmap(outputs, chunk_size=chunk)(values)
            return found
        rows = [{name: v[i] for name, v in values.items()} for i in range(len(theta))]
        return torch.stack([outputs(row) for row in rows])


@torch.no_grad()
def answers_of(behaviour: Behaviour, architecture: Architecture, theta: Tensor) -> Tensor:
    """What networks theta [B, P] answer to the queries, [B, Q * O]: of classifiers the shares
    that they give their classes, of others their outputs. Not finite where outputs are not."""
    found = []
    for part in theta.split(PART):
        outputs = run_networks(behaviour, architecture, part).flatten(2)
        found.append((outputs.softmax(2) if behaviour.classifies else outputs).flatten(1))
    return torch.cat(found)


def runs_together(
    behaviour: Behaviour, architecture: Architecture, theta: Tensor, expected: Tensor
) -> bool:
    """Whether vmap runs these networks, and to advantage.

    On a CPU convolutions of many networks at once are grouped ones, which are slower than one
    network after the other (benchmarks/LOG.md).
    """
    convolves = any(isinstance(m, _CONVOLUTIONS) for m in behaviour.module.modules())
    if convolves and not torch.cuda.is_available():
        return False
    try:
        with torch.no_grad():
            together = replace(behaviour, together=True)
            found = run_networks(together, architecture, theta).flatten(2)
    except RuntimeError:  # an operation that vmap cannot batch
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


class _PlainBatchNorm(TorchFunctionMode):
    """Batch norm in evaluation as plain arithmetic: torch's own has no gradient for statistics."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func is not F.batch_norm or named["training"]:
            return func(*args, **named)
        x, mean, variance = args
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = (variance + named["eps"]).rsqrt()
        if named["weight"] is not None:
            scale = scale * named["weight"]
        found = (x - mean.view(shape)) * scale.view(shape)
        return found if named["bias"] is None else found + named["bias"].view(shape)
