"""Reconstruction in weights and in behaviour: decoded networks must compute the same.

beta * weights + (1 - beta) * mismatch of the outputs on query inputs, where decoded theta
runs in the zoo's own module. Source: "Structure is not enough" (2025), behaviour loss on
256 real images. Where we differ: the paper divides each term by its first value; here each
is divided by a scale of its own from the start, so that no state grows during training,
batches are independent and a few networks with huge outputs do not drown the rest. Since
decoders begin near 0, both terms begin near 1 all the same.

Letters in shapes: B networks, P parameters, Q queries, O numbers that a network puts out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...architecture import Architecture
from ...encoders import Batch
from ...model import WeightModel
from ...running import Behaviour, run_networks
from ..networks import Rows
from .base import Objective
from .views import ViewConfig, make_view


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """Settings of `BehaviourReconstruction`; see conf/objective/behaviour.yaml."""

    name: str = "behaviour"
    beta: float = 0.5  # weight of the weights' term; the rest is the behaviour's
    num_queries: int = 256  # inputs that networks are compared on
    chunk: int = 32  # networks that run at once
    views: ViewConfig = field(default_factory=lambda: ViewConfig(mask_ratio=0.0))

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"objective.beta must lie in [0, 1], got {self.beta}")
        if min(self.num_queries, self.chunk) < 1:
            raise ValueError(
                "objective.num_queries and objective.chunk must be at least 1, got "
                f"{self.num_queries} and {self.chunk}"
            )


class BehaviourReconstruction(Objective):
    """Every network is decoded whole and run; has no parameters of its own.

    Losses: `weights` in scaled units, `behaviour` relative to the spread of the outputs,
    `agreement` the share of queries on which the largest output is the same one.
    """

    decodes = True

    def __init__(self, config: BehaviourConfig, behaviours: Mapping[str, Behaviour]) -> None:
        super().__init__()
        self.config = config
        self.behaviours = dict(behaviours)  # no submodules: neither trained nor saved

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config, a, size = self.config, rows.architecture, model.config.token_size
        view = make_view(rows.theta, a, model.values, config.views, size, generator)
        visible = view.visible if config.views.mask_ratio or config.views.erase else None
        embedding = model.embed(Batch(a, view.values, size, visible))
        theta = model.decode(embedding.tokens, a)
        found = model.scaling(theta, a)
        weights = (found - view.target).square().mean()
        with torch.autocast(
            theta.device.type, enabled=False
        ):  # networks run in their own precision
            behaviour, agreement = self.compare(theta.to(rows.theta), rows.theta, a)
        losses = {"weights": weights, "behaviour": behaviour, "agreement": agreement}
        loss = config.beta * weights + (1 - config.beta) * behaviour
        return {**losses, "loss": loss}

    def compare(self, found: Tensor, theta: Tensor, a: Architecture) -> tuple[Tensor, Tensor]:
        """Mismatch and agreement of networks [B, P] with those they should behave like.

        The mean square of the difference over the outputs' own variance between queries plus
        the one that is usual for the architecture; a mean over the networks. Networks whose
        own outputs are not finite count 0.
        """
        behaviour = self.behaviours.get(a.fingerprint)
        if behaviour is None:
            raise ValueError(
                f"objective behaviour has no module of architecture '{a.name}'; hand it a context "
                "from graphrep.training.targets.context_of"
            )
        behaviour = self.behaviours[a.fingerprint] = behaviour.to(theta.device)
        chunk = self.config.chunk
        with torch.no_grad():
            wanted = run_networks(behaviour, a, theta, chunk).flatten(2)
            finite = wanted.isfinite().all(2).all(1)
            wanted = torch.where(finite[:, None, None], wanted, 0)
            spread = wanted.var(1, unbiased=False).mean(1) + behaviour.spread
        said = run_networks(behaviour, a, found, chunk).flatten(2)
        said = torch.where(finite[:, None, None], said, 0)
        mismatch = (said - wanted).square().mean((1, 2)) / spread
        agreement = (said.argmax(2) == wanted.argmax(2)).to(said).mean()
        return mismatch.mean(), agreement
