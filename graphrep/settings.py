"""The checked settings of a command: one dataclass for all that conf/ holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .config import compose
from .encoders import ENCODERS
from .evaluation.comparison import EvaluationConfig
from .model import ModelConfig
from .parsing import parse_dataclass
from .tracking import TrackingConfig
from .training import OBJECTIVES, ObjectiveConfig, TrainingConfig
from .zoo import Recipe, parse_recipe

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a command may need, and the plain values it came from."""

    seed: int
    output: Path
    zoos: tuple[Recipe, ...]
    zoo_paths: tuple[str, ...]  # zoos that are there, instead of the recipes'
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    plain: Mapping[str, Any]

    @property
    def zoo(self) -> Recipe:
        """The recipe, for commands that take one zoo.

        Raises:
            ValueError: there are several.
        """
        if len(self.zoos) > 1:
            names = ",".join(recipe.name for recipe in self.zoos)
            raise ValueError(f"this command takes one zoo, got zoo=[{names}]")
        return self.zoos[0]

    @property
    def zoo_path(self) -> str | None:
        """Where the zoo is, for commands that take one; None for the recipe's.

        Raises:
            ValueError: there are several.
        """
        if len(self.zoo_paths) > 1:
            paths = ",".join(self.zoo_paths)
            raise ValueError(f"this command takes one zoo, got zoo_path=[{paths}]")
        return self.zoo_paths[0] if self.zoo_paths else None

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
            zoos=tuple(map(parse_recipe, _listed(plain["zoo"]))),
            zoo_paths=tuple(str(path) for path in _listed(plain["zoo_path"]) if path),
            model=replace(model, encoder=encoder),
            objective=_choice(OBJECTIVES, plain["objective"], "objective"),
            training=parse_dataclass(TrainingConfig, plain["training"], "training"),
            evaluation=parse_dataclass(EvaluationConfig, plain["evaluation"], "evaluation"),
            tracking=parse_dataclass(TrackingConfig, plain["tracking"], "tracking"),
            plain=plain,
        )


def _listed(value: Any) -> list[Any]:
    """One value or a list of them; None is none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _choice(choices: Mapping[str, type[T]], content: Mapping[str, Any], group: str) -> T:
    """The dataclass that `name` chooses."""
    name = str(content.get("name"))
    if name not in choices:
        raise ValueError(f"{group}.name must be one of {', '.join(choices)}, got {name!r}")
    return parse_dataclass(choices[name], content, group)
