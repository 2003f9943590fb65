"""Prediction of properties from weights, encoder and head trained together, end to end.

The accuracy of a network from its weights: Unterthiner et al. 2020, arXiv:2002.11448; with
encoders of graphs: Kofinas et al. 2024, arXiv:2403.12143. Where we differ: any number of
properties at once, numbers and categories, each loss relative to the best constant's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...model import WeightModel
from ..networks import Rows
from .base import Objective, embed_rows, reorders
from .property_head import HeadConfig, PropertyHead, Target
from .views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class PropertyConfig:
    """Settings of `PropertyPrediction`; see conf/objective/property.yaml."""

    name: str = "property"
    properties: tuple[str, ...] = ("test_accuracy",)  # numbers
    log_properties: tuple[str, ...] = ()  # predicted as logarithms
    categories: tuple[str, ...] = ()
    head: HeadConfig = field(default_factory=HeadConfig)
    permute: bool | None = None  # a new order of units a batch; None for encoders that see orders
    noise: float = 0.0  # relative deviation of the noise on scaled weights, multiplicative
    mask_ratio: float = 0.0  # share of the numbers that is hidden
    mask_unit: str = "edge"  # what is hidden at a time: one of views.MASK_UNITS

    def __post_init__(self) -> None:
        names = [*self.properties, *self.log_properties, *self.categories]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objective needs properties, none of them twice; got {names}")
        self.view(permute=False)

    def view(self, *, permute: bool) -> ViewConfig:
        """How networks are changed in training.

        Raises:
            ValueError: a setting out of range.
        """
        return ViewConfig(
            permute=permute,
            noise=self.noise,
            mask_ratio=self.mask_ratio,
            mask_unit=self.mask_unit,
        )


class PropertyPrediction(Objective):
    """A head on the model embedding; `predict` says what it finds in natural units.

    Needs `Rows.targets` [B, K] as `graphrep.training.targets` fills them.
    """

    condenses = False  # the head reads all numbers

    def __init__(
        self, config: PropertyConfig, targets: tuple[Target, ...], model: WeightModel
    ) -> None:
        super().__init__()
        self.config = config
        self.head = PropertyHead(config.head, targets, model.embedding_dim)
        self.view = config.view(permute=reorders(config.permute, model))

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        if rows.targets is None:
            raise ValueError(
                "objective property needs the networks' targets: take them from "
                "graphrep.training.targets.networks_of"
            )
        embedding = embed_rows(model, rows, self.view if self.training else None, generator)
        outputs = self.head(embedding, generator if self.training else None)
        dtype = torch.promote_types(outputs.dtype, rows.targets.dtype)  # autocast leaves bfloat16
        found = self.head.losses(outputs.to(dtype), rows.targets.to(dtype))
        return {**found, "loss": torch.stack(list(found.values())).mean()}

    @torch.no_grad()
    def predict(self, model: WeightModel, rows: Rows) -> Tensor:
        """Natural units, [B, O] as `head.columns` names them; of categories probabilities."""
        return self.head.natural(self.head(embed_rows(model, rows, None, torch.Generator())))
