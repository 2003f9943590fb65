"""What training minimises: each objective one module, chosen by objective=... of conf/."""

from __future__ import annotations

from ...model import WeightModel
from .base import Objective as Objective, plain_batch as plain_batch
from .behaviour import (
    BehaviourConfig as BehaviourConfig,
    BehaviourReconstruction as BehaviourReconstruction,
)
from .context import Context as Context
from .property import PropertyConfig as PropertyConfig, PropertyPrediction as PropertyPrediction
from .property_head import HeadConfig as HeadConfig
from .responses import (
    ResponsePrediction as ResponsePrediction,
    ResponsesConfig as ResponsesConfig,
)
from .self_supervised import (
    SelfSupervised as SelfSupervised,
    SelfSupervisedConfig as SelfSupervisedConfig,
)
from .trajectory import Trajectory as Trajectory, TrajectoryConfig as TrajectoryConfig
from .views import ViewConfig as ViewConfig

ObjectiveConfig = (
    SelfSupervisedConfig | PropertyConfig | BehaviourConfig | TrajectoryConfig | ResponsesConfig
)
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "self_supervised": SelfSupervisedConfig,
    "property": PropertyConfig,
    "behaviour": BehaviourConfig,
    "trajectory": TrajectoryConfig,
    "responses": ResponsesConfig,
}


def build_objective(
    config: ObjectiveConfig, model: WeightModel, context: Context | None = None
) -> Objective:
    """The objective that a configuration describes, for this model's encoder.

    Args:
        context: What it wants to know of the population, as
            `graphrep.training.targets.context_of` finds it.
    """
    known = context or Context()
    match config:
        case SelfSupervisedConfig():
            return SelfSupervised(config, model.learned_dim)
        case PropertyConfig():
            return PropertyPrediction(config, known.targets, model)
        case BehaviourConfig():
            return BehaviourReconstruction(config, known.behaviours)
        case TrajectoryConfig():
            return Trajectory(config, model)
        case ResponsesConfig():
            return ResponsePrediction(config, known.num_responses, model)
