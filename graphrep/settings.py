"""The checked settings of a command: one dataclass for all that conf/ holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .config import compose
from .evaluation.comparison import EvaluationConfig
from .model import ModelConfig
from .parsing import parse_dataclass
from .representation import ENCODERS
from .tracking import TrackingConfig
from .training import OBJECTIVES, ObjectiveConfig, TrainingConfig
from .zoo import Recipe, parse_recipe

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a command may need, and the plain values it came from."""

    seed: int
    output: Path
    zoo: Recipe
    zoo_path: str | None  # a zoo that is there, instead of the recipe's
    model: ModelConfig
    objective: ObjectiveConfig
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
        encoder = _choice(ENCODERS, plain["encoder"], "encoder")
        model = parse_dataclass(ModelConfig, plain["model"], "model")
        return cls(
            seed=int(plain["seed"]),
            output=Path(plain["output"]),
            zoo=parse_recipe(plain["zoo"]),
            zoo_path=plain["zoo_path"],
            model=replace(model, encoder=encoder),
            objective=_choice(OBJECTIVES, plain["objective"], "objective"),
            training=parse_dataclass(TrainingConfig, plain["training"], "training"),
            evaluation=parse_dataclass(EvaluationConfig, plain["evaluation"], "evaluation"),
            tracking=parse_dataclass(TrackingConfig, plain["tracking"], "tracking"),
            plain=plain,
        )


def _choice(choices: Mapping[str, type[T]], content: Mapping[str, Any], group: str) -> T:
    """The dataclass that `name` chooses."""
    name = str(content.get("name"))
    if name not in choices:
        raise ValueError(f"{group}.name must be one of {', '.join(choices)}, got {name!r}")
    return parse_dataclass(choices[name], content, group)
