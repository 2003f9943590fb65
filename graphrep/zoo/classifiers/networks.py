"""The networks that zoos train: a module from a design.

Dropout has no module of its own, so that networks with and without it share
one state dict. Knows nothing of training.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .convolutional import CNN, ResNet
from .design import ACTIVATIONS as ACTIVATIONS, NetworkConfig as NetworkConfig
from .transformer import VisionTransformer


def build_network(
    config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """The module of a design, with torch's own initial values from the global generator.

    Args:
        input_shape: (C, H, W) of one image.

    Raises:
        ValueError: the images are too small for the design, or cannot be cut into its patches.
    """
    match config.kind:
        case "mlp":
            return MLP(config, math.prod(input_shape), num_classes)
        case "cnn":
            return CNN(config, input_shape, num_classes)
        case "resnet":
            return ResNet(config, input_shape, num_classes)
        case "vit":
            return VisionTransformer(config, input_shape, num_classes)
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
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(o) if config.batch_norm else nn.Identity() for o in config.hidden
        )
        self.output = nn.Linear(widths[-1], num_classes, bias=config.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x)))
            x = F.dropout(x, self.dropout, self.training)
        return self.output(x)
