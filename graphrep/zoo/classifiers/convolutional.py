"""Convolutional networks of zoos: plain ones and residual ones.

Dropout and pooling have no modules of their own, so that designs that differ
in them alone share the names of their parameters.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .design import ACTIVATIONS, NetworkConfig


class CNN(nn.Module):
    """Convolutions over the image: convolution, norm, activation, pooling, dropout."""

    def __init__(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        widths = (input_shape[0], *config.hidden)
        self.layers = nn.ModuleList(
            _conv(i, o, k, config)
            for (i, o), k in zip(pairwise(widths), config.kernels, strict=True)
        )
        self.norms = nn.ModuleList(_norm(o, config) for o in config.hidden)
        num_inputs = _num_features(config, input_shape)
        self.linears, self.output = _linear_layers(config, num_inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x))
            if self.config.pool_first:
                x = self.activation(_pool(x, i, self.config))
            else:
                x = _pool(self.activation(x), i, self.config)
            x = F.dropout(x, self.config.dropout, self.training)
        return _classify(self, x)


class ResNet(nn.Module):
    """A stem and one residual block a stage, with pooling between stages."""

    def __init__(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        widths = (config.hidden[0], *config.hidden)
        self.stem = _conv(input_shape[0], widths[0], config.kernels[0], config)
        self.stem_norm = _norm(widths[0], config)
        self.stages = nn.ModuleList(
            ResidualBlock(config, i, o, k)
            for (i, o), k in zip(pairwise(widths), config.kernels, strict=True)
        )
        num_inputs = _num_features(config, input_shape)
        self.linears, self.output = _linear_layers(config, num_inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.activation(self.stem_norm(self.stem(images)))
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else _pool(x, i - 1, self.config))
            x = F.dropout(x, self.config.dropout, self.training)
        return _classify(self, x)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is projected where widths differ."""

    def __init__(
        self, config: NetworkConfig, num_inputs: int, num_outputs: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.first = _conv(num_inputs, num_outputs, kernel_size, config)
        self.first_norm = _norm(num_outputs, config)
        self.second = _conv(num_outputs, num_outputs, kernel_size, config)
        self.second_norm = _norm(num_outputs, config)
        self.shortcut: nn.Module = nn.Identity()
        if num_inputs != num_outputs:
            self.shortcut = nn.Conv2d(num_inputs, num_outputs, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.first_norm(self.first(x)))
        return self.activation(self.second_norm(self.second(y)) + self.shortcut(x))


def _conv(num_inputs: int, num_outputs: int, kernel_size: int, config: NetworkConfig) -> nn.Conv2d:
    padding = kernel_size // 2 if config.padding == "same" else 0
    return nn.Conv2d(num_inputs, num_outputs, kernel_size, config.stride, padding, bias=config.bias)


def _norm(width: int, config: NetworkConfig) -> nn.Module:
    return nn.BatchNorm2d(width) if config.batch_norm else nn.Identity()


def _linear_layers(
    config: NetworkConfig, num_inputs: int, num_classes: int
) -> tuple[nn.ModuleList, nn.Linear]:
    """The hidden linear layers after the head, and the last one."""
    widths = (num_inputs, *config.linear)
    hidden = nn.ModuleList(nn.Linear(i, o, bias=config.bias) for i, o in pairwise(widths))
    return hidden, nn.Linear(widths[-1], num_classes, bias=config.bias)


def _classify(module: CNN | ResNet, x: Tensor) -> Tensor:
    """Logits of the last feature maps."""
    x = x.mean((2, 3)) if module.config.head == "global" else x.flatten(1)
    for layer in module.linears:
        x = module.activation(layer(x))
        x = F.dropout(x, module.config.dropout, module.training)
    return module.output(x)


def _pool(x: Tensor, place: int, config: NetworkConfig) -> Tensor:
    """Pooling number `place` of the design."""
    if place >= _num_poolings(config):
        return x
    return F.max_pool2d(x, 2) if config.pooling == "max" else F.avg_pool2d(x, 2)


def _num_poolings(config: NetworkConfig) -> int:
    places = len(config.hidden) - (config.kind == "resnet")
    if config.pooling == "none":
        return 0
    return places if config.num_pooled is None else min(places, config.num_pooled)


def _num_features(config: NetworkConfig, input_shape: tuple[int, int, int]) -> int:
    """Inputs of the first linear layer.

    Raises:
        ValueError: nothing is left of an image before the last layer.
    """
    height, width = (_side_after(config, side) for side in input_shape[1:])
    if min(height, width) < 1:
        raise ValueError(
            f"a {config.kind} with hidden={list(config.hidden)}, kernels="
            f"{list(config.kernels)}, padding={config.padding}, stride={config.stride} and "
            f"pooling={config.pooling} halves an image {_num_poolings(config)} times; images "
            f"of {min(input_shape[1:])} pixels are too small"
        )
    return config.hidden[-1] * (1 if config.head == "global" else height * width)


def _side_after(config: NetworkConfig, side: int) -> int:
    """Pixels along one side of the last feature maps; 0 or less where an image is too small."""
    num_poolings = _num_poolings(config)
    if config.kind == "resnet":
        return side // 2**num_poolings
    for i, kernel_size in enumerate(config.kernels):
        lost = kernel_size - 1 if config.padding == "valid" else 0
        side = (side - lost - 1) // config.stride + 1
        side = side // 2 if i < num_poolings else side
        if side < 1:
            return 0
    return side
