"""Prediction of what a network answers to unlabelled queries, from its embedding.

No labels of networks, nor of images: what is predicted is measured by running the network.
It trains the readout, which linear probes then read. At test time nothing is run.

No published objective does this for zoos. Nearest: the behaviour loss of "Structure is not
enough" (2025), which runs decoded networks; and Herrmann et al. 2024, arXiv:2403.11998, whose
recurrent networks are embedded by what they answer and predict answers by an emulator.

Letters in shapes: B networks, K answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...model import WeightModel
from ..networks import Rows
from .base import Objective, embed_rows, reorders
from .views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class ResponsesConfig:
    """Settings of `ResponsePrediction`; see conf/objective/responses.yaml."""

    name: str = "responses"
    num_queries: int = 64  # inputs that every network of a zoo answers
    permute: bool | None = None  # a new order of units a batch; None for encoders that see orders
    noise: float = 0.0  # relative deviation of the noise on scaled weights, multiplicative

    def __post_init__(self) -> None:
        if self.num_queries < 1:
            raise ValueError(f"objective.num_queries must be at least 1, got {self.num_queries}")
        self.view(permute=False)

    def view(self, *, permute: bool) -> ViewConfig:
        """How networks are changed in training.

        Raises:
            ValueError: a setting out of range.
        """
        return ViewConfig(permute=permute, noise=self.noise, mask_ratio=0.0)


class ResponsePrediction(Objective):
    """A linear map of the readout, or of the model embedding if there is none.

    Needs `Rows.targets` [B, K] as `graphrep.training.targets` fills them, NaN where a network
    belongs to another zoo than a column. Losses: `responses`, the squared error relative to
    that of the answers' mean.
    """

    def __init__(self, config: ResponsesConfig, num_responses: int, model: WeightModel) -> None:
        super().__init__()
        if not num_responses:
            raise ValueError(
                "objective responses needs the answers of a population's networks: hand it a "
                "context from graphrep.training.targets.context_of"
            )
        self.config = config
        self.view = config.view(permute=reorders(config.permute, model))
        R, D = model.config.readout_dim, model.learned_dim
        self.read = slice(D - R if R else 0, D)
        self.norm = nn.Identity() if R else nn.LayerNorm(D)
        self.head = nn.Linear(R or D, num_responses)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        if rows.targets is None:
            raise ValueError(
                "objective responses needs the networks' answers: take the networks from "
                "graphrep.training.targets.networks_of"
            )
        embedding = embed_rows(model, rows, self.view if self.training else None, generator)
        found = self.head(self.norm(embedding[:, self.read]))
        found = found.to(torch.promote_types(found.dtype, rows.targets.dtype))
        known = rows.targets.isfinite()
        error = torch.where(known, found - torch.where(known, rows.targets, 0), 0).square()
        loss = (error.sum(1) / known.sum(1).clamp(min=1)).mean()
        return {"responses": loss, "loss": loss}
