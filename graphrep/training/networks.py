"""Networks to train on, by architecture, with what an objective may want to know of each.

Letters in shapes: M networks of one architecture, B of them in a batch, P parameters,
K targets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..architecture import Architecture
from ..scaling import Thetas


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks of one architecture in rows.

    `targets` [M, K] are properties to predict, NaN where one is not known.
    `successor` int64 [M] is the row of the next checkpoint of the same training, -1 at its end.
    `zoo` names the population, for its share in training.
    `answers` [M, F] are what networks answer, for models that ask (`model.num_queries`).
    """

    architecture: Architecture
    theta: Thetas  # [M, P]
    targets: Tensor | None = None
    successor: Tensor | None = None
    zoo: str = ""
    answers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.theta)

    def take(self, index: Tensor) -> Rows:
        """Some of the networks, in the order of `index` int64 [B]."""
        following = None if self.successor is None else self.successor[index]
        later = None
        if following is not None:
            later = self.theta[torch.where(following < 0, index, following)]
        return Rows(
            architecture=self.architecture,
            theta=self.theta[index],
            targets=None if self.targets is None else self.targets[index],
            later=later,
            has_later=None if following is None else following >= 0,
            answers=None if self.answers is None else self.answers[index],
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of networks of one architecture.

    `later` [B, P] is the next checkpoint of each where `has_later` bool [B], else itself.
    """

    architecture: Architecture
    theta: Tensor  # [B, P]
    targets: Tensor | None = None
    later: Tensor | None = None
    has_later: Tensor | None = None
    answers: Tensor | None = None  # [B, F]

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that is there but the architecture, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> Rows:
        """The same on a device; onto a GPU without waiting for it."""
        if device.type == "cpu":
            return self
        pins = device.type == "cuda"
        moved: dict[str, Any] = {
            name: (value.pin_memory() if pins else value).to(device, non_blocking=True)
            for name, value in self.tensors.items()
        }
        return replace(self, **moved)
