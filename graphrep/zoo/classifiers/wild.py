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
_LISTS = ("kind", "depth", "kernel_size", "batch_norm", "pooling", "num_pooled", "head")
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
    head: tuple[str, ...] = ("flatten", "global")  # of a cnn; resnets have global ones
    max_weights: int = 40_000  # between hidden layers; widths with more are drawn anew

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise ValueError(f"wild.{name} is empty: nothing to draw from")
        for name, allowed in (
            ("kind", WILD_KINDS),
            ("pooling", POOLINGS),
            ("head", _WILD_HEADS),
        ):
            for found in getattr(self, name):
                check_choice(f"wild.{name}", found, allowed)
        for name, least in (("depth", 1), ("kernel_size", 1), ("num_pooled", 0)):
            if min(found := list(getattr(self, name))) < least:
                raise ValueError(f"wild.{name} must be {least} or more, got {found}")
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"wild.kernel_size must be odd, got {list(self.kernel_size)}")
        if round(self.width.bounds[0]) < 1:
            raise ValueError(f"wild.width must be 1 or more, got {self.width.bounds[0]}")

    def draw(self, stream: random.Random) -> NetworkConfig:
        """One design.

        Kind, depth and the rest are drawn once, so that `max_weights` does not change how
        often they come; widths and kernels as often as it takes.

        Raises:
            ValueError: hardly any widths and kernels keep to `max_weights`.
        """
        kind, depth = stream.choice(self.kind), stream.choice(self.depth)
        rest: dict[str, Any] = {"batch_norm": stream.choice(self.batch_norm)}
        if kind != "mlp":
            rest["pooling"] = stream.choice(self.pooling)
            rest["num_pooled"] = stream.choice(self.num_pooled)
            rest["head"] = stream.choice(self.head) if kind == "cnn" else "global"
        for _ in range(_MAX_DRAWS):
            hidden = tuple(self._draw_width(stream) for _ in range(depth))
            if kind != "mlp":
                rest["kernel_sizes"] = tuple(stream.choice(self.kernel_size) for _ in range(depth))
            design = NetworkConfig(kind=kind, hidden=hidden, **rest)
            if num_inner_weights(design) <= self.max_weights:
                return design
        raise ValueError(
            f"none of {_MAX_DRAWS:,} draws of widths and kernels for a {kind} of depth {depth} "
            f"keeps to wild.max_weights={self.max_weights:,}: raise it, or lower width, depth "
            "or kernel_size"
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

    def _draw_width(self, stream: random.Random) -> int:
        return round(self.width.draw(stream))


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
