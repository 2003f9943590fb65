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
    depth: tuple[int, ...] = (2, 3, 4, 5)  # layers or stages
    width: Range = field(  # of each, rounded
        default_factory=lambda: Range(low=4, high=64, log=True)
    )
    kernel_size: tuple[int, ...] = (3, 5, 7)  # of each layer or stage
    batch_norm: tuple[bool, ...] = (False, True)
    pooling: tuple[str, ...] = ("max", "avg")
    num_pooled: tuple[int, ...] = (2, 3)
    head: tuple[str, ...] = ("flatten", "global")  # of a cnn; resnets have global ones
    max_weights: int = 60_000  # between hidden layers; widths that give more are drawn anew
    max_products: int = 10_000  # likewise: of these weights, for each pixel of an image

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

        Kind, depth and the rest are drawn once, so that the limits do not change how often
        they come; widths and kernels as often as it takes.

        Raises:
            ValueError: hardly any widths and kernels keep to the limits.
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
            if self._keeps_to_limits(design):
                return design
        raise ValueError(
            f"none of {_MAX_DRAWS:,} draws of widths and kernels for a {kind} of depth {depth} "
            f"keeps to wild.max_weights={self.max_weights:,} and wild.max_products="
            f"{self.max_products:,}: raise these, or lower width, depth or kernel_size"
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

    def _keeps_to_limits(self, design: NetworkConfig) -> bool:
        layers = inner_layers(design)
        num_products = sum(weights / 4**poolings for weights, poolings in layers)
        num_weights = sum(weights for weights, _ in layers)
        return num_weights <= self.max_weights and num_products <= self.max_products

    def _draw_width(self, stream: random.Random) -> int:
        return round(self.width.draw(stream))


def inner_layers(design: NetworkConfig) -> list[tuple[int, int]]:
    """Of each layer from hidden to hidden units: its weights, and poolings before it."""
    if design.kind == "mlp":
        return [(i * o, 0) for i, o in pairwise(design.hidden)]
    most = 0 if design.pooling == "none" else design.num_pooled
    most = len(design.hidden) if most is None else most
    layers = []
    widths = (design.hidden[0], *design.hidden)
    for place, ((i, o), k) in enumerate(zip(pairwise(widths), design.kernels, strict=True)):
        poolings = min(place, most)
        if design.kind == "resnet":
            layers += [(i * o * k**2, poolings), (o * o * k**2, poolings)]
        elif place > 0:
            layers.append((i * o * k**2, poolings))
    return layers
