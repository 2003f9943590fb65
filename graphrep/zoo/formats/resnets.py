"""The ResNets of the ModelZoos: torchvision's names, and a stem for small images.

Depth, widths and kind of block follow from names and shapes. A 3 x 3 stem keeps the image's
size and has no max-pooling after it; a 7 x 7 stem halves it and has. The activation is ReLU
whatever the parameters say.

Source: He et al. 2016, arXiv:1512.03385; ModelZoos/ModelZooDataset, def_net.py: ResNet18.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import dtype_name, dtype_of

BLOCK = re.compile(r"layer(\d+)\.(\d+)\.conv(\d)\.weight")


def describe_resnet(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The design of a state dict with a ResNet's names, None where it has others.

    The design is read off a few tensors; whether all others fit shows when they are loaded.
    """
    stem, head = state.get("conv1.weight"), state.get("fc.weight")
    blocks = [tuple(map(int, m.groups())) for key in state if (m := BLOCK.fullmatch(key))]
    if stem is None or head is None or not blocks or stem.dim() != 4:
        return None
    stages = max(stage for stage, _, _ in blocks)
    counts = [len({b for s, b, _ in blocks if s == stage + 1}) for stage in range(stages)]
    kernel = stem.shape[2]
    if kernel not in (3, 7) or 0 in counts:
        return None
    dtypes = [value.dtype for value in state.values() if value.is_floating_point()]
    dtype = dtypes[0]
    for other in dtypes:
        dtype = torch.promote_types(dtype, other)
    side = 2 ** (stages - 1) * (4 if kernel == 7 else 1) * 2
    return {
        "kind": "modelzoos",
        "network": "ResNet",
        "activation": "relu",
        "blocks": counts,
        "bottleneck": any(conv == 3 for _, _, conv in blocks),
        "stem": kernel,
        "width": stem.shape[0],
        "num_classes": head.shape[0],
        "input_shape": [stem.shape[1], side, side],  # the network takes images of any size
        "dtype": dtype_name(dtype),
    }


def build_resnet(design: Mapping[str, Any]) -> ImageResNet:
    """The module of a design, with torch's own initial values."""
    return ImageResNet(design).to(dtype_of(design))


class ImageResNet(nn.Module):
    """Stem, stages of residual blocks, average over the image, a linear layer."""

    def __init__(self, design: Mapping[str, Any]) -> None:
        super().__init__()
        width, kernel = design["width"], design["stem"]
        large = kernel == 7
        self.conv1 = nn.Conv2d(
            design["input_shape"][0],
            width,
            kernel,
            stride=2 if large else 1,
            padding=kernel // 2,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.num_stages = len(design["blocks"])
        inputs = width
        for stage, count in enumerate(design["blocks"]):
            blocks = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                block = ResidualBlock(inputs, width << stage, stride, design["bottleneck"])
                inputs = block.num_outputs
                blocks.append(block)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, design["num_classes"])

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, or a 3 x 3 one between 1 x 1 ones; the first 3 x 3 has the stride."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.num_outputs = width * (4 if bottleneck else 1)
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (inputs, *[width] * (len(kernels) - 1), self.num_outputs)
        self.num_convs = len(kernels)
        for i, kernel in enumerate(kernels):
            step = stride if i == kernels.index(3) else 1
            conv = nn.Conv2d(
                widths[i], widths[i + 1], kernel, stride=step, padding=kernel // 2, bias=False
            )
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != self.num_outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, self.num_outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(self.num_outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.num_convs + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = F.relu(y) if i < self.num_convs else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))
