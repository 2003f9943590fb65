"""What a zoo of policies is drawn from: environment, algorithms, hyper-parameters.

`draw_member` settles everything about one member from the recipe's seed and
the member's index alone, each hyper-parameter from a random stream of its own.
Settings that go to Stable-Baselines3 are called as they are called there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

from ..classifiers.config import Range
from ..recipe import Recipe, check_choice
from .networks import ACTIVATIONS

ALGORITHMS = ("ppo", "a2c")
ENVIRONMENTS = (  # of gymnasium: observations are vectors, every episode ends
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
)
DISCOUNTS = Range(choices=(0.95, 0.98, 0.99, 0.995))
ENTROPIES = Range(low=1e-5, high=3e-2, log=True)


def _learning_rates() -> dict[str, Range]:
    return {
        "ppo": Range(low=3e-5, high=2e-2, log=True),
        "a2c": Range(low=1e-4, high=2e-2, log=True),
    }


def _rollouts() -> dict[str, tuple[int, ...]]:
    return {"ppo": (64, 128, 256), "a2c": (8, 16, 32)}


@dataclass(frozen=True, kw_only=True)
class PolicySearch:
    """What varies from member to member; every draw is independent."""

    algorithm: tuple[str, ...] = ALGORITHMS
    learning_rate: dict[str, Range] = field(default_factory=_learning_rates)  # by algorithm
    hidden: tuple[tuple[int, ...], ...] = ((16, 16), (32, 32), (64, 64))  # units of each layer
    activation: tuple[str, ...] = ("tanh", "relu")
    gamma: Range = DISCOUNTS  # of later rewards
    ent_coef: Range = ENTROPIES  # weight of the policy's entropy
    n_envs: tuple[int, ...] = (8, 16)  # environments that run side by side
    n_steps: dict[str, tuple[int, ...]] = field(default_factory=_rollouts)  # of each, an update
    batch_size: tuple[int, ...] = (128, 256)  # steps; ppo alone
    n_epochs: tuple[int, ...] = (4, 10)  # passes over the steps of an update; ppo alone

    def __post_init__(self) -> None:
        for name in ("algorithm", "activation", "n_envs", "batch_size", "n_epochs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "hidden", tuple(map(tuple, self.hidden)))
        object.__setattr__(self, "n_steps", {k: tuple(v) for k, v in self.n_steps.items()})
        for name in ("algorithm", "hidden", "activation", "n_envs", "batch_size", "n_epochs"):
            if not getattr(self, name):
                raise ValueError(f"search.{name} is empty: nothing to draw from")
        for name, allowed in (("algorithm", ALGORITHMS), ("activation", tuple(ACTIVATIONS))):
            for value in getattr(self, name):
                check_choice(f"search.{name}", value, allowed)
        for name in ("n_envs", "batch_size", "n_epochs"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"search.{name} must be positive, got {getattr(self, name)}")
        if any(width < 1 for widths in self.hidden for width in widths):
            raise ValueError(f"search.hidden must hold positive widths, got {self.hidden}")
        self._check_by_algorithm("learning_rate", self.learning_rate)
        self._check_by_algorithm("n_steps", self.n_steps)
        self._check_bounds("gamma", self.gamma, 1.0)
        self._check_bounds("ent_coef", self.ent_coef, math.inf)
        for name, rates in self.learning_rate.items():
            self._check_bounds(f"learning_rate.{name}", rates, math.inf, zero=False)
        self._check_updates()

    def _check_by_algorithm(self, name: str, values: Mapping[str, Any]) -> None:
        if missing := [a for a in self.algorithm if not values.get(a)]:
            raise ValueError(f"search.{name} has nothing to draw from for {', '.join(missing)}")
        for key in values:
            check_choice(f"a key of search.{name}", key, ALGORITHMS)

    def _check_bounds(self, name: str, values: Range, top: float, *, zero: bool = True) -> None:
        low, high = values.bounds
        if low < 0 or (low == 0 and not zero) or high > top:
            start = "[0" if zero else "(0"
            raise ValueError(f"search.{name} must lie in {start}, {top}], got {low} to {high}")

    def _check_updates(self) -> None:
        if min(steps for choices in self.n_steps.values() for steps in choices) < 1:
            raise ValueError(f"search.n_steps must be positive, got {self.n_steps}")
        if "ppo" not in self.algorithm:
            return
        for n_envs, n_steps, size in product(self.n_envs, self.n_steps["ppo"], self.batch_size):
            if n_envs * n_steps % size:
                raise ValueError(
                    f"search.batch_size {size} does not divide the {n_envs * n_steps} steps of "
                    f"{n_envs} environments x {n_steps} steps: choose sizes that divide all"
                )


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe(Recipe):
    """A zoo of policies; see conf/zoo/rl_policy.yaml."""

    kind: ClassVar[str] = "policy"

    environment: str = "CartPole-v1"
    num_steps: int = 98304  # of the environment, over all of a member's training
    checkpoints: tuple[int, ...] = (0, 8192, 16384, 32768, 65536)  # steps; the end is always kept
    test_episodes: int = 50  # that judge a checkpoint; they start alike for all checkpoints
    search: PolicySearch = field(default_factory=PolicySearch)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        super().__post_init__()
        check_choice("environment", self.environment, ENVIRONMENTS)
        if self.num_steps < 1 or self.test_episodes < 1:
            raise ValueError(
                "num_steps and test_episodes must be positive, got "
                f"{self.num_steps} and {self.test_episodes}"
            )
        if outside := [n for n in self.checkpoints if not 0 <= n <= self.num_steps]:
            raise ValueError(
                f"checkpoints {outside} lie outside of steps 0 to {self.num_steps}: "
                "change checkpoints or num_steps"
            )

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Steps of the environment after which weights are kept, the last ones always."""
        return tuple(sorted({*self.checkpoints, self.num_steps}))

    @property
    def test_seed(self) -> int:
        """Where the episodes start that judge checkpoints: one for the zoo, so they compare."""
        return random.Random(f"graphrep zoo {self.seed} test episodes").randrange(2**31)


@dataclass(frozen=True, kw_only=True)
class PolicyMember:
    """Everything that decides one policy of a zoo, before its training."""

    index: int
    seed: int  # of initial values, environments, actions and batches
    environment: str
    algorithm: str
    hidden: tuple[int, ...]
    activation: str
    learning_rate: float
    gamma: float
    ent_coef: float
    n_envs: int
    n_steps: int
    batch_size: int  # 0 for all but ppo
    n_epochs: int  # 1 for all but ppo

    def to_columns(self) -> dict[str, Any]:
        """All hyper-parameters by their plain names; widths become text such as `32-32`."""
        columns = dict(vars(self))
        del columns["index"]
        return {**columns, "hidden": "-".join(map(str, self.hidden))}


def draw_member(recipe: PolicyRecipe, index: int) -> PolicyMember:
    """The member of this index; depends on the recipe's seed and the index alone."""

    def stream(name: str) -> random.Random:
        return random.Random(f"graphrep zoo {recipe.seed} policy {index} {name}")

    space = recipe.search
    algorithm = stream("algorithm").choice(space.algorithm)
    ppo = algorithm == "ppo"
    return PolicyMember(
        index=index,
        seed=stream("seed").randrange(2**31),  # numpy takes no larger ones
        environment=recipe.environment,
        algorithm=algorithm,
        hidden=stream("hidden").choice(space.hidden),
        activation=stream("activation").choice(space.activation),
        learning_rate=space.learning_rate[algorithm].draw(stream("learning_rate")),
        gamma=space.gamma.draw(stream("gamma")),
        ent_coef=space.ent_coef.draw(stream("ent_coef")),
        n_envs=stream("n_envs").choice(space.n_envs),
        n_steps=stream("n_steps").choice(space.n_steps[algorithm]),
        batch_size=stream("batch_size").choice(space.batch_size) if ppo else 0,
        n_epochs=stream("n_epochs").choice(space.n_epochs) if ppo else 1,
    )
