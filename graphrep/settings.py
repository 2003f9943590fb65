"""The checked settings of a command: one dataclass for all that conf/ holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .config import compose
from .encoders import EncoderConfig
from .evaluation.comparison import EvaluationConfig
from .model import ModelConfig
from .parsing import parse_dataclass
from .representation import ENCODERS
from .tracking import TrackingConfig
from .training import TrainingConfig
from .zoo import Recipe, parse_recipe


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a command may need, and the plain values it came from."""

    seed: int
    output: Path
    zoo: Recipe
    zoo_path: str | None  # a zoo that is there, instead of the recipe's
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    plain: Mapping[str, Any]

    @classmethod
    def load(cls, overrides: Sequence[str] = ()) -> Settings:
        """Compose conf/ with overrides and check every value.

        Raises:
            ValueError: an unknown key or choice, a wrong type, a value out of range.
        """
        plain = compose(overrides)
        encoder = encoder_config(plain["encoder"])
        model = parse_dataclass(ModelConfig, plain["model"], "model")
        return cls(
            seed=int(plain["seed"]),
            output=Path(plain["output"]),
            zoo=parse_recipe(plain["zoo"]),
            zoo_path=plain["zoo_path"],
            model=replace(model, encoder=encoder),
            training=parse_dataclass(TrainingConfig, plain["training"], "training"),
            evaluation=parse_dataclass(EvaluationConfig, plain["evaluation"], "evaluation"),
            tracking=parse_dataclass(TrackingConfig, plain["tracking"], "tracking"),
            plain=plain,
        )


def encoder_config(content: Mapping[str, Any]) -> EncoderConfig:
    """The encoder's own dataclass, by its name."""
    name = content.get("name")
    if name not in ENCODERS:
        raise ValueError(f"encoder.name must be one of {', '.join(ENCODERS)}, got {name!r}")
    return parse_dataclass(ENCODERS[name], content, "encoder")
