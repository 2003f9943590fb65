"""Modules that the law tests run over: every family that the tracer must know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A module, what it takes, and how many permutations it must have."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    hidden: tuple[int, ...]  # sizes of the groups that can be permuted, in execution order

    def example(self, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64).to(dtype)

    def module(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """The module with random weights and statistics, in evaluation mode."""
        generator = torch.Generator().manual_seed(seed)
        module = self.build().to(dtype)
        with torch.no_grad():
            for value in [*module.parameters(), *module.buffers()]:
                if value.is_floating_point():
                    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                    value.copy_(drawn * 0.4 if value.dim() > 1 else drawn * 0.2 + 0.7)
            for name, buffer in module.named_buffers():
                if name.endswith("running_var"):
                    buffer.abs_().add_(0.5)
        return module.eval()


class Residual(nn.Module):
    """A residual block: identity, projection, or the padded subsampling of CIFAR ResNets."""

    def __init__(self, inner: int, outer: int, shortcut: str, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Identity()
        if shortcut == "projection":
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )
        self.padded = shortcut == "padded"

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padded:
            extra = y.shape[1] // 4
            return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra)))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, shortcut: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(
            Residual(8, 8, "identity"),
            Residual(8, 16, shortcut, stride=2),
            Residual(16, 16, "identity"),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Functional(nn.Module):
    """Python control flow, functional calls, concatenation, a raw parameter, a mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1)
        self.right = nn.Conv2d(2, 6, 1)
        self.scale = nn.Parameter(torch.ones(10, 1, 1))
        self.slope = nn.PReLU(10)
        self.mix = nn.Conv2d(10, 7, (1, 3), stride=(1, 2))
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        branches = [torch.tanh(self.left(x)), F.silu(self.right(x))]
        x = self.slope(torch.cat(branches, 1) * self.scale)
        for _ in range(1):
            x = F.elu(self.mix(x))
        return self.head(x.mean((2, 3)))


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (inner, outer) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(inner, outer, bias=bias)]
        if i < len(sizes) - 2:
            layers += [activation()]
    return nn.Sequential(*layers)


def cnn(
    kernel: int | tuple[int, int] = 3,
    pool: nn.Module | None = None,
    activation: type[nn.Module] = nn.ReLU,
    stride: int = 1,
    bias: bool = True,
    norm: bool = False,
    place: int = 4,
    whole: bool = False,
) -> nn.Module:
    """Two convolutions and a linear layer that reads 6 channels at `place` positions."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, kernel, stride, 1, bias=bias)]
    layers += [nn.BatchNorm2d(8)] if norm else []
    layers += [activation(), pool or nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 6, 3, padding=1, bias=bias), activation()]
    layers += [nn.AdaptiveAvgPool2d(1 if whole else 2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * place, 5, bias=bias))


CASES = [
    Case("mlp", lambda: mlp(12, 9, 7, 4), (3, 12), (9, 7)),
    Case("mlp-tanh-flat-image", lambda: mlp(18, 8, 3, activation=nn.Tanh), (2, 2, 3, 3), (8,)),
    Case("mlp-no-bias", lambda: mlp(6, 5, 5, 2, activation=nn.GELU, bias=False), (2, 6), (5, 5)),
    Case("mlp-one-output", lambda: mlp(6, 5, 1, activation=nn.Sigmoid), (2, 6), (5,)),
    Case("mlp-width-one", lambda: mlp(1, 1, 1, activation=nn.SiLU), (2, 1), (1,)),
    Case("cnn-flatten-2x2", cnn, (2, 3, 8, 8), (8, 6)),
    Case("cnn-global-pool", lambda: cnn(whole=True, place=1), (2, 3, 8, 8), (8, 6)),
    Case("cnn-batch-norm", lambda: cnn(norm=True, bias=False), (2, 3, 8, 8), (8, 6)),
    Case("cnn-stride", lambda: cnn(stride=2, pool=nn.AvgPool2d(2)), (2, 3, 12, 12), (8, 6)),
    Case("cnn-odd-kernel", lambda: cnn((2, 5), activation=nn.LeakyReLU), (2, 3, 8, 8), (8, 6)),
    Case("resnet-projection", lambda: ResNet("projection"), (2, 3, 8, 8), (8, 8, 16, 16, 16)),
    # the padded shortcut carries the 8 channels of the first stage into the second
    Case("resnet-padded", lambda: ResNet("padded"), (2, 3, 8, 8), (8, 8, 16, 8, 16)),
    Case("functional", Functional, (2, 2, 6, 7), (4, 6, 7)),
    Case(
        "depthwise",
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.ReLU6(),
            nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Hardswish(),
            nn.Conv2d(8, 5, 1), nn.Flatten(), nn.Linear(20, 4),
        ),
        (2, 3, 4, 4),
        (8, 5),
    ),
    Case(
        "explicit-padding",
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(8, 4, 3),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ),
        (2, 3, 6, 6),
        (8, 4),
    ),
    Case(
        "layer-norm-residual",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
        (2, 5, 6),
        (8,),
    ),
]  # fmt: skip
IDS = [case.name for case in CASES]
