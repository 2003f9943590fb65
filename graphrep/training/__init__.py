"""Training of weight models: a loop, and the objectives that it minimises."""

from .loop import (
    Result as Result,
    TrainingConfig as TrainingConfig,
    evaluate as evaluate,
    train as train,
)
from .networks import Networks as Networks, Rows as Rows
from .objectives import (
    OBJECTIVES as OBJECTIVES,
    Objective as Objective,
    ObjectiveConfig as ObjectiveConfig,
    SelfSupervisedConfig as SelfSupervisedConfig,
    ViewConfig as ViewConfig,
    build_objective as build_objective,
)
