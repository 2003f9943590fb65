"""What the networks of a zoo answer to fixed queries, as numbers to predict.

Queries carry no labels. Answers of classifiers are the shares that they give their classes,
those of others their outputs; every zoo's are centred and scaled by its training split.

Letters in shapes: M networks of one architecture, P parameters, Q queries, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..architecture import Architecture
from ..running import PART, Behaviour, answers_of
from ..scaling import Thetas
from ..zoo import Zoo
from .queries import behaviours_of

SAMPLE = 256  # networks of an architecture that say what is usual


@dataclass(frozen=True, eq=False)
class Responses:
    """How the networks of one zoo are asked, and what is usual of their answers."""

    behaviours: Mapping[str, Behaviour]  # by fingerprint; all ask the same queries
    centre: Tensor  # [Q * O]
    scale: float

    @classmethod
    def fit(cls, zoo: Zoo, num_queries: int) -> Responses:
        """Queries, and centre and scale of the answers of the zoo's training split.

        Raises:
            ValueError: a zoo that tells no module or no inputs of it, or whose networks put out
                different numbers of outputs.
        """
        behaviours = behaviours_of([zoo], num_queries, num_usual=1)  # spread is its own
        plain = cls(behaviours, torch.zeros(()), 1.0)
        found = []
        for group in zoo.split("train").groups():
            step = max(1, len(group.theta) // SAMPLE)
            rows = torch.arange(0, len(group.theta), step)
            found.append(plain.read(group.theta, group.architecture, rows))
        if len({answers.shape[1] for answers in found}) > 1:
            sizes = sorted({answers.shape[1] // num_queries for answers in found})
            raise ValueError(
                f"objective responses: the networks of {zoo.url} put out different numbers of "
                f"outputs, {sizes}; train on zoos whose networks answer alike"
            )
        answers = torch.cat(found)
        finite = answers[answers.isfinite().all(1)]
        if not len(finite):
            raise ValueError(f"objective responses: no network of {zoo.url} answers finite numbers")
        centre = finite.mean(0)
        spread = float((finite - centre).square().mean().sqrt())
        return cls(behaviours, centre, max(spread, 1e-6))

    def __len__(self) -> int:
        return len(self.centre)

    @torch.no_grad()
    def read(self, theta: Thetas, architecture: Architecture, rows: Tensor | None = None) -> Tensor:
        """Answers of networks theta [M, P], or of some rows of them, float32 [M, Q * O].

        Their mean square over the training split is 1. Rows of networks that do not answer
        finite numbers are NaN.
        """
        behaviour = self.behaviours[architecture.fingerprint]
        found = []
        for part in (torch.arange(len(theta)) if rows is None else rows).split(PART):
            answers = answers_of(behaviour, architecture, theta[part].float())
            answers = (answers - self.centre) / self.scale
            finite = answers.isfinite().all(1, keepdim=True)
            found.append(torch.where(finite, answers, float("nan")))
        return torch.cat(found)
