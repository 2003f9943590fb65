"""Training of weight models: a loop, and the objectives that it minimises."""

from .config import TrainingConfig as TrainingConfig
from .distributed import Processes as Processes, join_processes as join_processes
from .finite import BadBatch as BadBatch, load_bad_batches as load_bad_batches
from .loop import train as train
from .networks import Networks as Networks, Rows as Rows
from .objectives import (
    OBJECTIVES as OBJECTIVES,
    Objective as Objective,
    ObjectiveConfig as ObjectiveConfig,
    SelfSupervisedConfig as SelfSupervisedConfig,
    ViewConfig as ViewConfig,
    build_objective as build_objective,
)
from .order import BatchOrder as BatchOrder
from .state import Result as Result
from .validation import evaluate as evaluate
