"""Policies of Stable-Baselines3 as modules of our own, with the names of its state dicts."""

from .config import (
    ACTIVATIONS as ACTIVATIONS,
    RebuiltConfig as RebuiltConfig,
    actor_names as actor_names,
    family_of as family_of,
    num_features as num_features,
)
from .layouts import Rebuilt as Rebuilt, rebuild as rebuild
