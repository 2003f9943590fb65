"""Files -> state dicts, without executing anything in them."""

from .reading import (
    CONTAINERS as CONTAINERS,
    SAVE_TENSORS as SAVE_TENSORS,
    WRAPPERS as WRAPPERS,
    read_checkpoint as read_checkpoint,
)
from .state import Checkpoint as Checkpoint
