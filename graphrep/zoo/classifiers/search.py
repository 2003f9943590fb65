"""What varies from member to member of a zoo, and within which ranges."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from ..recipe import check_choice
from .design import ACTIVATIONS
from .initialisation import INIT_SCHEMES
from .optimisers import OPTIMISERS


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a number is drawn from: `choices` if there are any, else low to high."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False  # uniform in the logarithm
    choices: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if self.low > self.high:
            raise ValueError(f"a range needs low <= high, got {self.low} and {self.high}")
        if self.log and self.low <= 0 and not self.choices:
            raise ValueError(f"a logarithmic range needs low > 0, got {self.low}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value that can be drawn."""
        return (min(self.choices), max(self.choices)) if self.choices else (self.low, self.high)

    def draw(self, stream: random.Random) -> float:
        """One value."""
        if self.choices:
            return stream.choice(self.choices)
        if self.log:
            return math.exp(stream.uniform(math.log(self.low), math.log(self.high)))
        return stream.uniform(self.low, self.high)


def _learning_rates() -> dict[str, Range]:
    return {
        "adam": Range(low=1e-3, high=2e-2, log=True),
        "adamw": Range(low=1e-3, high=2e-2, log=True),
        "sgd": Range(low=1e-2, high=2e-1, log=True),
        "rmsprop": Range(low=5e-4, high=1e-2, log=True),
    }


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What varies from member to member; every draw is independent."""

    optimiser: tuple[str, ...] = OPTIMISERS
    learning_rate: dict[str, Range] = field(default_factory=_learning_rates)  # by optimiser
    momentum: Range = Range(choices=(0.5, 0.9))  # sgd alone
    weight_decay: Range = Range(low=1e-6, high=1e-2, log=True)
    batch_size: tuple[int, ...] = (16, 32, 64)
    train_fraction: Range = Range(low=0.1, high=1.0, log=True)  # of the train images
    label_smoothing: Range = Range(choices=(0.0,))
    init: tuple[str, ...] = (
        "default",
        "kaiming_normal",
        "kaiming_uniform",
        "xavier_normal",
        "xavier_uniform",
        "orthogonal",
        "normal",
    )
    init_gain: Range = Range(choices=(1.0,))  # factor on the initial weights
    init_std: Range = Range(choices=(0.1,))  # of the schemes `normal` and `truncated_normal`
    activation: tuple[str, ...] = ()  # replaces the network's own; empty keeps it
    dropout: Range | None = None  # likewise

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimiser", OPTIMISERS),
            ("init", INIT_SCHEMES),
            ("activation", ACTIVATIONS),
        ):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            for value in getattr(self, name):
                check_choice(f"search.{name}", value, allowed)
        object.__setattr__(self, "batch_size", tuple(self.batch_size))
        for name in ("optimiser", "init", "batch_size"):
            if not getattr(self, name):
                raise ValueError(f"search.{name} is empty: nothing to draw from")
        if min(self.batch_size) < 1:
            raise ValueError(f"search.batch_size must be positive, got {list(self.batch_size)}")
        if missing := [name for name in self.optimiser if name not in self.learning_rate]:
            raise ValueError(f"search.learning_rate has no range for {', '.join(missing)}")
        for name in self.learning_rate:
            check_choice("a key of search.learning_rate", name, OPTIMISERS)
        self._check_bounds("train_fraction", self.train_fraction, 1.0, zero=False)
        self._check_bounds("label_smoothing", self.label_smoothing, 1.0)
        self._check_bounds("momentum", self.momentum, 1.0)
        for name in ("weight_decay", "init_gain", "init_std"):
            self._check_bounds(name, getattr(self, name), math.inf)
        for name, rates in self.learning_rate.items():
            self._check_bounds(f"learning_rate.{name}", rates, math.inf, zero=False)
        if self.dropout is not None:
            self._check_bounds("dropout", self.dropout, 0.99)

    def _check_bounds(self, name: str, values: Range, top: float, *, zero: bool = True) -> None:
        low, high = values.bounds
        if low < 0 or (low == 0 and not zero) or high > top:
            start = "[0" if zero else "(0"
            raise ValueError(f"search.{name} must lie in {start}, {top}], got {low} to {high}")
