"""What an objective is handed of the population that it trains on, beyond the weights.

Filled by `graphrep.training.targets.context_of`; knows no zoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .property_head import Target


@dataclass(frozen=True, eq=False)
class Behaviour:
    """How to run networks of one architecture, and what is usual of their outputs."""

    module: nn.Module  # in evaluation mode; its own values play no part
    queries: Tensor  # [Q, ...], a batch of its inputs
    spread: float = 1.0  # mean square of an output around what networks usually answer
    together: bool = False  # whether many are faster run at once than one by one

    def to(self, device: torch.device) -> Behaviour:
        """The same on a device; itself if it is there."""
        if self.queries.device == device:
            return self
        module = self.module.to(device)
        return replace(self, module=module, queries=self.queries.to(device))


@dataclass(frozen=True, eq=False)
class Context:
    """`targets` a column of `Rows.targets` each; `behaviours` by fingerprint.

    `num_responses` are the columns of what networks answer, those of several zoos side by side.
    """

    targets: tuple[Target, ...] = ()
    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    num_responses: int = 0
