"""Zoos of many architectures: where designs are drawn from.

Activation and dropout are left to the search space, which draws them for all
zoos alike.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..recipe import check_choice
from .design import POOLINGS, NetworkConfig
from .search import Range

WILD_KINDS = ("mlp", "cnn", "resnet")
_WILD_HEADS = ("flatten", "global")
_MAX_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class WildSpace:
    """What a design is drawn from; from lists, each entry equally often."""

    kind: tuple[str, ...] = ("cnn", "resnet")
    depth: tuple[int, ...] = (2, 3, 4)  # layers or stages
    width: Range = field(  # of each, rounded
        default_factory=lambda: Range(low=4, high=64, log=True)
    )
    kernel_size: tuple[int, ...] = (3, 5, 7)  # of each layer or stage
    batch_norm: tuple[bool, ...] = (False, True)
    pooling: tuple[str, ...] = ("max", "avg")
    num_pooled: tuple[int, ...] = (2, 3)
    head: tuple[str, ...] = ("flatten", "global")
    num_linear: tuple[int, ...] = (0, 1)  # hidden layers after the head, as wide as drawn
    max_weights: int = 40_000  # between hidden layers; a design with more is drawn anew

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("width", "max_weights"):
                continue
            object.__setattr__(self, name, tuple(value))
            if not getattr(self, name):
                raise ValueError(f"wild.{name} is empty: nothing to draw from")
        for name, allowed in (
            ("kind", WILD_KINDS),
            ("pooling", POOLINGS),
            ("head", _WILD_HEADS),
        ):
            for found in getattr(self, name):
                check_choice(f"wild.{name}", found, allowed)
        for name, least in (("depth", 1), ("kernel_size", 1), ("num_pooled", 0), ("num_linear", 0)):
            if min(getattr(self, name)) < least:
                raise ValueError(f"wild.{name} must be {least} or more, got {getattr(self, name)}")
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"wild.kernel_size must be odd, got {list(self.kernel_size)}")
        if round(self.width.bounds[0]) < 1:
            raise ValueError(f"wild.width must be 1 or more, got {self.width.bounds[0]}")

    def draw(self, stream: random.Random) -> NetworkConfig:
        """One design.

        Raises:
            ValueError: hardly any design has no more than `max_weights`.
        """
        for _ in range(_MAX_DRAWS):
            design = self._draw(stream)
            if num_inner_weights(design) <= self.max_weights:
                return design
        raise ValueError(
            f"none of {_MAX_DRAWS:,} designs drawn from wild has at most max_weights="
            f"{self.max_weights:,} weights: raise it, or lower depth, width or kernel_size"
        )

    def extremes(self) -> tuple[NetworkConfig, ...]:
        """For each kind the design that asks for the largest images."""
        return tuple(
            NetworkConfig(
                kind=kind,
                hidden=(max(1, round(self.width.bounds[0])),) * max(self.depth),
                kernel_size=max(self.kernel_size),
                pooling=next((p for p in self.pooling if p != "none"), "none"),
                num_pooled=max(self.num_pooled),
            )
            for kind in dict.fromkeys(self.kind)
        )

    def _draw(self, stream: random.Random) -> NetworkConfig:
        def width() -> int:
            return round(self.width.draw(stream))

        kind = stream.choice(self.kind)
        depth = stream.choice(self.depth)
        hidden = tuple(width() for _ in range(depth))
        batch_norm = stream.choice(self.batch_norm)
        if kind == "mlp":
            return NetworkConfig(kind=kind, hidden=hidden, batch_norm=batch_norm)
        convolutional: dict[str, Any] = {
            "kernel_sizes": tuple(stream.choice(self.kernel_size) for _ in range(depth)),
            "pooling": stream.choice(self.pooling),
            "num_pooled": stream.choice(self.num_pooled),
            "head": stream.choice(self.head),
            "linear": tuple(width() for _ in range(stream.choice(self.num_linear))),
        }
        return NetworkConfig(kind=kind, hidden=hidden, batch_norm=batch_norm, **convolutional)


def num_inner_weights(design: NetworkConfig) -> int:
    """Weights of the layers from hidden to hidden units, without biases and norms."""
    if design.kind == "mlp":
        return sum(i * o for i, o in pairwise(design.hidden))
    layers = zip(pairwise(design.hidden), design.kernels[1:], strict=True)
    num = sum(i * o * k**2 for (i, o), k in layers)
    if design.kind == "resnet":  # the second convolution of each stage, and the first stage's
        stages = zip(design.hidden, design.kernels, strict=True)
        num += sum(o * o * k**2 for o, k in stages)
        num += design.hidden[0] ** 2 * design.kernels[0] ** 2
    return num
