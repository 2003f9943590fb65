"""Self-supervised training of weight models."""

from .loop import Result as Result
from .loop import TrainingConfig as TrainingConfig
from .loop import evaluate as evaluate
from .loop import train as train
from .views import ViewConfig as ViewConfig
