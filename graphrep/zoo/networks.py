"""The networks that zoos train: small MLPs, CNNs and ResNets from a config.

Dropout has no module of its own, so that networks with and without it share
one state dict. Knows nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("mlp", "cnn", "resnet")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
}
POOLINGS = ("max", "avg", "none")
HEADS = ("flatten", "global")


def check_choice(field: str, found: object, allowed: object) -> None:
    """Raise a ValueError that lists the choices where `found` is none of them."""
    choices = list(allowed)  # type: ignore[call-overload]
    if found not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(str, choices))}, got '{found}'")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One network design; input shape and classes come from the images."""

    kind: str = "cnn"  # mlp, cnn or resnet
    hidden: tuple[int, ...] = (8, 12)  # units of each layer, channels of each layer or stage
    kernel_size: int = 3  # odd; padded so that only pooling shrinks an image
    activation: str = "relu"
    dropout: float = 0.0  # probability, after each hidden layer or stage
    batch_norm: bool = False
    bias: bool = True
    pooling: str = "max"  # by 2 after each cnn layer, or between resnet stages
    head: str = "flatten"  # or global: an average over the image before the last layer
    projection: bool = True  # resnet: a 1x1 convolution on the shortcut where widths change

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_choice("kind", self.kind, KINDS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("head", self.head, HEADS)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must hold positive widths, got {list(self.hidden)}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.kind == "resnet" and not self.projection and len(set(self.hidden)) > 1:
            raise ValueError(
                "a resnet without projection needs stages of one width, "
                f"got hidden={list(self.hidden)}"
            )

    @property
    def label(self) -> str:
        """A short name, such as `cnn-8-12-relu`."""
        return "-".join([self.kind, *map(str, self.hidden), self.activation])

    def to_columns(self) -> dict[str, Any]:
        """The design as one plain value a field; widths become text such as `8-12`."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**columns, "hidden": "-".join(map(str, self.hidden))}

    @classmethod
    def from_columns(cls, columns: Mapping[Any, Any]) -> NetworkConfig:
        """The design that `to_columns` wrote; other columns are ignored."""
        values = {field.name: columns[field.name] for field in fields(cls)}
        return cls(
            kind=str(values["kind"]),
            hidden=tuple(int(width) for width in str(values["hidden"]).split("-")),
            kernel_size=int(values["kernel_size"]),
            activation=str(values["activation"]),
            dropout=float(values["dropout"]),
            batch_norm=bool(values["batch_norm"]),
            bias=bool(values["bias"]),
            pooling=str(values["pooling"]),
            head=str(values["head"]),
            projection=bool(values["projection"]),
        )


def build_network(
    config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """The module of a design, with torch's own initial values from the global generator.

    Args:
        input_shape: (C, H, W) of one image.

    Raises:
        ValueError: the images are too small for the design's poolings.
    """
    match config.kind:
        case "mlp":
            return MLP(config, math.prod(input_shape), num_classes)
        case "cnn":
            return CNN(config, input_shape, num_classes)
        case "resnet":
            return ResNet(config, input_shape, num_classes)
        case kind:
            raise AssertionError(kind)


class MLP(nn.Module):
    """Linear layers over the pixels: linear, norm, activation, dropout."""

    def __init__(self, config: NetworkConfig, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.dropout
        widths = (num_inputs, *config.hidden)
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=config.bias) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(_norm(nn.BatchNorm1d, o, config) for o in config.hidden)
        self.output = nn.Linear(widths[-1], num_classes, bias=config.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x)))
            x = F.dropout(x, self.dropout, self.training)
        return self.output(x)


class CNN(nn.Module):
    """Convolutions over the image: convolution, norm, activation, pooling, dropout."""

    def __init__(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        widths = (input_shape[0], *config.hidden)
        self.layers = nn.ModuleList(_conv(i, o, config) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(_norm(nn.BatchNorm2d, o, config) for o in config.hidden)
        features = _features(config, input_shape, num_poolings=len(config.hidden))
        self.output = nn.Linear(features, num_classes, bias=config.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = _pool(self.activation(norm(layer(x))), self.config)
            x = F.dropout(x, self.config.dropout, self.training)
        return self.output(_head(x, self.config))


class ResNet(nn.Module):
    """A stem and one residual block a stage, with pooling between stages."""

    def __init__(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        widths = (config.hidden[0], *config.hidden)
        self.stem = _conv(input_shape[0], widths[0], config)
        self.stem_norm = _norm(nn.BatchNorm2d, widths[0], config)
        self.stages = nn.ModuleList(ResidualBlock(config, i, o) for i, o in pairwise(widths))
        features = _features(config, input_shape, num_poolings=len(config.hidden) - 1)
        self.output = nn.Linear(features, num_classes, bias=config.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.activation(self.stem_norm(self.stem(images)))
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else _pool(x, self.config))
            x = F.dropout(x, self.config.dropout, self.training)
        return self.output(_head(x, self.config))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is projected where widths differ."""

    def __init__(self, config: NetworkConfig, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.first = _conv(num_inputs, num_outputs, config)
        self.first_norm = _norm(nn.BatchNorm2d, num_outputs, config)
        self.second = _conv(num_outputs, num_outputs, config)
        self.second_norm = _norm(nn.BatchNorm2d, num_outputs, config)
        self.shortcut: nn.Module = nn.Identity()
        if num_inputs != num_outputs:
            self.shortcut = nn.Conv2d(num_inputs, num_outputs, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.first_norm(self.first(x)))
        return self.activation(self.second_norm(self.second(y)) + self.shortcut(x))


def _conv(num_inputs: int, num_outputs: int, config: NetworkConfig) -> nn.Conv2d:
    k = config.kernel_size
    return nn.Conv2d(num_inputs, num_outputs, k, padding=k // 2, bias=config.bias)


def _norm(
    kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], width: int, config: NetworkConfig
) -> nn.Module:
    return kind(width) if config.batch_norm else nn.Identity()


def _pool(x: Tensor, config: NetworkConfig) -> Tensor:
    match config.pooling:
        case "max":
            return F.max_pool2d(x, 2)
        case "avg":
            return F.avg_pool2d(x, 2)
        case _:
            return x


def _head(x: Tensor, config: NetworkConfig) -> Tensor:
    return x.mean((2, 3)) if config.head == "global" else x.flatten(1)


def _features(config: NetworkConfig, input_shape: tuple[int, int, int], num_poolings: int) -> int:
    """Inputs of the last layer."""
    side = min(input_shape[1:])
    factor = 1 if config.pooling == "none" else 2**num_poolings
    if side < factor:
        raise ValueError(
            f"a {config.kind} with hidden={list(config.hidden)} and pooling={config.pooling} "
            f"halves an image {num_poolings} times; images of {side} pixels are too small"
        )
    if config.head == "global":
        return config.hidden[-1]
    height, width = (size // factor for size in input_shape[1:])
    return config.hidden[-1] * height * width
