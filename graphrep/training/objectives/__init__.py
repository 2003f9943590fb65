"""What training minimises: each objective one module, chosen by objective=... of conf/."""

from __future__ import annotations

from ...model import WeightModel
from .base import Objective as Objective, plain_batch as plain_batch
from .self_supervised import (
    SelfSupervised as SelfSupervised,
    SelfSupervisedConfig as SelfSupervisedConfig,
)
from .views import ViewConfig as ViewConfig

ObjectiveConfig = SelfSupervisedConfig
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {"self_supervised": SelfSupervisedConfig}


def build_objective(config: ObjectiveConfig, model: WeightModel) -> Objective:
    """The objective that a configuration describes, for this model's encoder."""
    match config:
        case SelfSupervisedConfig():
            return SelfSupervised(config, model.encoder.embedding_dim)
