"""What a zoo is drawn from: networks, hyper-parameters and their ranges.

`draw_member` settles everything about one member from the config's seed and
the member's index alone. Each hyper-parameter has a random stream of its own,
so that changing one range leaves the other draws as they were.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..parsing import parse_dataclass
from .images import IMAGE_SETS
from .initialisation import INIT_SCHEMES
from .networks import ACTIVATIONS, NetworkConfig, check_choice
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
    init: tuple[str, ...] = INIT_SCHEMES
    init_gain: Range = Range(choices=(1.0,))  # factor on the initial weights
    init_std: Range = Range(choices=(0.1,))  # of the scheme `normal`
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


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """Settings of `create_zoo`; see conf/zoo/base.yaml."""

    name: str
    images: str  # digits, mnist, fashion_mnist or cifar10
    num_models: int = 200
    epochs: int = 16
    checkpoints: tuple[int, ...] = (1, 2, 4, 8, 16)  # epochs kept; 0 is the start
    checkpoint_every: int = 0  # keep every so many epochs as well; 0 for none
    seed: int = 0
    validation_fraction: float = 0.15  # of the models
    test_fraction: float = 0.15
    train_limit: int | None = None  # images; None for all
    test_limit: int | None = None
    networks: tuple[NetworkConfig, ...] = (NetworkConfig(),)
    network_weights: tuple[float, ...] = ()  # how often each is drawn; empty for equally often
    search: SearchSpace = field(default_factory=SearchSpace)
    num_workers: int | None = None  # processes; None for one a core; changes no result

    def __post_init__(self) -> None:
        for name in ("checkpoints", "networks", "network_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("images", self.images, IMAGE_SETS)
        if not self.name:
            raise ValueError("name must not be empty")
        if self.num_models < 1 or self.epochs < 1 or self.checkpoint_every < 0:
            raise ValueError(
                "num_models and epochs must be positive and checkpoint_every not negative, got "
                f"{self.num_models}, {self.epochs} and {self.checkpoint_every}"
            )
        if outside := [e for e in self.checkpoints if not 0 <= e <= self.epochs]:
            raise ValueError(
                f"checkpoints {outside} lie outside of epochs 0 to {self.epochs}: "
                "change checkpoints or epochs"
            )
        if not self.networks:
            raise ValueError("networks is empty: nothing to train")
        if self.network_weights and len(self.network_weights) != len(self.networks):
            raise ValueError(
                f"network_weights has {len(self.network_weights)} entries for "
                f"{len(self.networks)} networks"
            )
        if self.network_weights and (
            min(self.network_weights) < 0 or not any(self.network_weights)
        ):
            raise ValueError(f"network_weights must be positive, got {self.network_weights}")
        if min(self.validation_fraction, self.test_fraction) < 0 or (
            self.validation_fraction + self.test_fraction >= 1
        ):
            raise ValueError(
                "validation_fraction and test_fraction must leave models to train with, got "
                f"{self.validation_fraction} and {self.test_fraction}"
            )
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs after which weights are kept, the last one always."""
        regular = range(0, self.epochs + 1, self.checkpoint_every) if self.checkpoint_every else ()
        return tuple(sorted({*self.checkpoints, *regular, self.epochs}))

    def identity(self) -> dict[str, Any]:
        """Everything that decides the zoo's content, as plain JSON values."""
        content = asdict(self)
        del content["num_workers"]
        return _plain(content)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> ZooConfig:
        """The config of a YAML file or of `identity`, checked.

        Raises:
            ValueError: an unknown key, a wrong type, a value out of range; the key is named.
        """
        return parse_dataclass(cls, content)


@dataclass(frozen=True, kw_only=True)
class Member:
    """Everything that decides one network of a zoo, before its training."""

    index: int
    seed: int  # of initial values, image subset, batch order and dropout
    network: NetworkConfig
    optimiser: str
    learning_rate: float
    momentum: float  # 0 for all but sgd
    weight_decay: float
    batch_size: int
    train_fraction: float
    label_smoothing: float
    init: str
    init_gain: float
    init_std: float

    def to_columns(self) -> dict[str, Any]:
        """All hyper-parameters, the network's among them, by their plain names."""
        columns = {name: value for name, value in vars(self).items() if name != "network"}
        del columns["index"]
        return {**self.network.to_columns(), **columns}


def draw_member(config: ZooConfig, index: int) -> Member:
    """The member of this index; depends on the config's seed and the index alone."""

    def stream(name: str) -> random.Random:
        return random.Random(f"graphrep zoo {config.seed} member {index} {name}")

    space = config.search
    weights = config.network_weights or None
    network = stream("network").choices(config.networks, weights)[0]
    if space.activation:
        network = replace(network, activation=stream("activation").choice(space.activation))
    if space.dropout is not None:
        network = replace(network, dropout=space.dropout.draw(stream("dropout")))
    optimiser = stream("optimiser").choice(space.optimiser)
    return Member(
        index=index,
        seed=stream("seed").randrange(2**62),
        network=network,
        optimiser=optimiser,
        learning_rate=space.learning_rate[optimiser].draw(stream("learning_rate")),
        momentum=space.momentum.draw(stream("momentum")) if optimiser == "sgd" else 0.0,
        weight_decay=space.weight_decay.draw(stream("weight_decay")),
        batch_size=stream("batch_size").choice(space.batch_size),
        train_fraction=space.train_fraction.draw(stream("train_fraction")),
        label_smoothing=space.label_smoothing.draw(stream("label_smoothing")),
        init=stream("init").choice(space.init),
        init_gain=space.init_gain.draw(stream("init_gain")),
        init_std=space.init_std.draw(stream("init_std")),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
