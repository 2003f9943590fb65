"""What a zoo is, and what each of its members is: the recipe and its draws.

`draw_member` settles everything about one member from the config's seed and
the member's index alone. Each hyper-parameter has a random stream of its own,
so that changing one range leaves the other draws as they were.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..images import IMAGE_SETS
from ..recipe import Recipe, check_choice
from .design import NetworkConfig
from .search import Range as Range, SearchSpace as SearchSpace
from .wild import WildSpace


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """A zoo of image classifiers; see conf/zoo/base.yaml."""

    kind: ClassVar[str] = "classifier"

    images: str  # digits, mnist, fashion_mnist or cifar10
    epochs: int = 16
    checkpoints: tuple[int, ...] = (1, 2, 4, 8, 16)  # epochs kept; 0 is the start
    checkpoint_every: int = 0  # keep every so many epochs as well; 0 for none
    train_limit: int | None = None  # images; None for all
    test_limit: int | None = None
    networks: tuple[NetworkConfig, ...] = (NetworkConfig(),)
    network_weights: tuple[float, ...] = ()  # how often each is drawn; empty for equally often
    wild: WildSpace | None = None  # draws every member's design, instead of networks
    search: SearchSpace = field(default_factory=SearchSpace)
    stack: int = 0  # members trained in one go, the same up to rounding; 0: one after another
    device: str = "cpu"  # of stacks; on cuda, one process feeds it

    def __post_init__(self) -> None:
        for name in ("checkpoints", "networks", "network_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        check_choice("images", self.images, IMAGE_SETS)
        if self.epochs < 1 or self.checkpoint_every < 0:
            raise ValueError(
                "epochs must be positive and checkpoint_every not negative, got "
                f"{self.epochs} and {self.checkpoint_every}"
            )
        check_choice("device", self.device, ("cpu", "cuda"))
        if self.stack < 0 or (self.device != "cpu" and not self.stack):
            raise ValueError(
                f"stack must not be negative, and positive on {self.device}, got {self.stack}"
            )
        if outside := [e for e in self.checkpoints if not 0 <= e <= self.epochs]:
            raise ValueError(
                f"checkpoints {outside} lie outside of epochs 0 to {self.epochs}: "
                "change checkpoints or epochs"
            )
        if not self.networks and self.wild is None:
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

    @property
    def chunk(self) -> int:
        """How many members are trained, and kept, at once."""
        return max(1, self.stack)

    @property
    def demanding_networks(self) -> tuple[NetworkConfig, ...]:
        """Designs among those to be drawn; if these suit the images, all do."""
        return self.networks if self.wild is None else self.wild.extremes()

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs after which weights are kept, the last one always."""
        regular = range(0, self.epochs + 1, self.checkpoint_every) if self.checkpoint_every else ()
        return tuple(sorted({*self.checkpoints, *regular, self.epochs}))


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


def draw_member(config: ClassifierRecipe, index: int) -> Member:
    """The member of this index; depends on the config's seed and the index alone."""

    def stream(name: str) -> random.Random:
        return random.Random(f"graphrep zoo {config.seed} member {index} {name}")

    space = config.search
    if config.wild is None:
        weights = config.network_weights or None
        network = stream("network").choices(config.networks, weights)[0]
    else:
        network = config.wild.draw(stream("wild"))
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
