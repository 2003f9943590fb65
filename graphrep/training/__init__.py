"""Self-supervised training of weight models."""

from .loop import (
    Result as Result,
    TrainingConfig as TrainingConfig,
    evaluate as evaluate,
    train as train,
)
from .views import ViewConfig as ViewConfig
