"""Convolutional families: kernels of all kinds, groups, skips, and the classic networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Family, floats, perms


class Pooled(nn.Sequential):
    """Layers, the mean over space, and a linear head."""

    def __init__(self, *layers: nn.Module, width: int, space: Sequence[int] = (2, 3)) -> None:
        super().__init__(*layers)
        self.space, self.head = tuple(space), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            x = x.mean(self.space) if name == "head" else x
            x = layer(x)
        return x


def conv_norm(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1):
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU())


class Residual(nn.Module):
    """x + inside(x)."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Dense(nn.Module):
    """A DenseNet layer: its input with its own growth behind it."""

    def __init__(self, inner: int, between: int, growth: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.BatchNorm2d(inner), nn.Conv2d(inner, between, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(between)
        self.grow = nn.Conv2d(between, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grow(F.relu(self.norm2(self.reduce(F.relu(self.norm(x))))))
        return torch.cat([x, y], 1)


class Branches(nn.Module):
    """Inception: branches side by side, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, reduced, 1), nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class ShuffleChannels(nn.Module):
    """The channel shuffle of ShuffleNet."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, width, *space = x.shape
        x = x.view(batch, self.groups, width // self.groups, *space)
        return x.transpose(1, 2).reshape(batch, width, *space)


class UNet(nn.Module):
    """Two levels down, two up, skips by concatenation."""

    def __init__(self, up: str) -> None:
        super().__init__()
        self.up = up
        self.down1 = nn.Sequential(conv_norm(2, 4), conv_norm(4, 5))
        self.down2, self.middle = conv_norm(5, 6), conv_norm(6, 8)
        self.raise2, self.raise1 = nn.Identity(), nn.Identity()
        if up == "transposed":
            self.raise2 = nn.ConvTranspose2d(8, 7, 2, stride=2)
            self.raise1 = nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.up2 = conv_norm(6 + (7 if up == "transposed" else 8), 6)
        self.up1 = conv_norm(5 + (3 if up == "transposed" else 6), 4)
        self.head = nn.Conv2d(4, 2, 1)

    def enlarge(self, x: Tensor, raised: nn.Module) -> Tensor:
        if self.up == "transposed":
            return raised(x)
        return F.interpolate(x, scale_factor=2, mode=self.up)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        y = self.enlarge(self.middle(F.max_pool2d(second, 2)), self.raise2)
        y = self.enlarge(self.up2(torch.cat([second, y], 1)), self.raise1)
        return self.head(self.up1(torch.cat([first, y], 1)))


class Shortcut(nn.Module):
    """A residual block, basic or bottleneck, with a projection where the shape changes."""

    def __init__(self, inner: int, width: int, outer: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.first = nn.Sequential(
                conv_norm(inner, width, 1), conv_norm(width, width, 3, stride)
            )
        else:
            self.first = conv_norm(inner, width, 3, stride)
        kernel = 1 if bottleneck else 3
        self.last = nn.Sequential(*conv_norm(width, outer, kernel)[:2])
        self.shortcut = nn.Identity()
        if inner != outer or stride > 1:
            self.shortcut = nn.Sequential(*conv_norm(inner, outer, 1, stride)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.last(self.first(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet of given depths; the stem of CIFAR's or of ImageNet's."""

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], bottleneck: bool, imagenet: bool
    ) -> None:
        super().__init__()
        expansion = 4 if bottleneck else 1
        self.stem: nn.Module = conv_norm(3, widths[0])
        if imagenet:
            self.stem = nn.Sequential(
                conv_norm(3, widths[0], 7, 2), nn.MaxPool2d(3, stride=2, padding=1)
            )
        blocks, inner = [], widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Shortcut(inner, width, width * expansion, stride, bottleneck))
                inner = width * expansion
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inner, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def simple(kind: str, *second: object, dims: int, width: int = 6, **settings: object) -> nn.Module:
    """A dense convolution to 8 channels, the layer in question, a dense one, the head."""
    layer = getattr(nn, f"{kind}{dims}d")
    dense = getattr(nn, f"Conv{dims}d")
    return Pooled(
        dense(2, 8, 1), nn.Tanh(), layer(8, *second, **settings), nn.Tanh(), dense(width, 5, 1),
        nn.ReLU(), width=5, space=range(2, 2 + dims),
    )  # fmt: skip


def vgg() -> nn.Module:
    widths, layers, inner = (4, 0, 6, 0, 8, 8, 0), [], 3
    for width in widths:
        layers += [conv_norm(inner, width)] if width else [nn.MaxPool2d(2)]
        inner = width or inner
    head = [
        nn.Flatten(),
        nn.Linear(8 * 4, 10),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(10, 9),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *head, nn.Linear(9, 5))


IMAGE = floats(2, 3, 8, 8)
SMALL = floats(2, 2, 7, 6)
dense = perms(8, 6, 5)
FAMILIES = [
    Family(name="conv1d", build=lambda: simple("Conv", 6, 4, dims=1, stride=2),
           inputs=floats(2, 2, 9), symmetry=dense),
    Family(name="conv2d-even-kernel", build=lambda: simple("Conv", 6, (2, 4), dims=2),
           inputs=SMALL, symmetry=dense),
    Family(name="conv2d-non-square-dilated",
           build=lambda: simple("Conv", 6, (3, 2), dims=2, dilation=(2, 1), padding=(2, 0)),
           inputs=SMALL, symmetry=dense),
    Family(name="conv2d-reflected-padding",
           build=lambda: simple("Conv", 6, 3, dims=2, padding=1, padding_mode="reflect"),
           inputs=SMALL, symmetry=dense),
    Family(name="conv2d-same-padding",
           build=lambda: simple("Conv", 6, (5, 3), dims=2, padding="same"),
           inputs=SMALL, symmetry=dense),
    Family(name="conv3d", build=lambda: simple("Conv", 6, (2, 3, 1), dims=3),
           inputs=floats(2, 2, 3, 4, 4), symmetry=dense),
    Family(name="transposed1d", build=lambda: simple("ConvTranspose", 6, 4, dims=1, stride=2),
           inputs=floats(2, 2, 5), symmetry=dense),
    Family(name="transposed2d",
           build=lambda: simple("ConvTranspose", 6, 3, dims=2, stride=2, output_padding=1),
           inputs=floats(2, 2, 4, 3), symmetry=dense),
    Family(name="transposed3d", build=lambda: simple("ConvTranspose", 6, 2, dims=3),
           inputs=floats(2, 2, 2, 3, 2), symmetry=dense),
    Family(name="grouped", build=lambda: simple("Conv", 12, 3, dims=2, width=12, groups=4),
           inputs=SMALL, symmetry=perms(4) * perms(2, 3) ** 4 * perms(5),
           why="groups, channels into each group, channels out of each group"),
    Family(name="grouped-transposed",
           build=lambda: simple("ConvTranspose", 12, 3, dims=2, width=12, groups=4, stride=2),
           inputs=floats(2, 2, 3, 3), symmetry=perms(4) * perms(2, 3) ** 4 * perms(5),
           least=perms(5), opaque=("2.weight", "2.bias"),
           why="not found: its rows lie in groups along the axis of its columns"),
    Family(name="grouped-twice",
           build=lambda: Pooled(
               nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, groups=4), nn.Tanh(),
               nn.Conv2d(12, 8, 1, groups=4), nn.Tanh(), nn.Conv2d(8, 5, 1), width=5),
           inputs=IMAGE, symmetry=perms(4) * perms(2, 3, 2) ** 4 * perms(5),
           why="the second layer reads each group of the first"),
    Family(name="grouped-nested",
           build=lambda: Pooled(
               nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 8, 3, groups=4), nn.Tanh(),
               nn.Conv2d(8, 8, 1, groups=2), nn.Tanh(), nn.Conv2d(8, 5, 1), width=5),
           inputs=IMAGE,
           symmetry=perms(2) * perms(2) ** 2 * perms(2, 2) ** 4 * perms(4) ** 2 * perms(5),
           why="halves; quarters within a half; channels in and out a quarter; out a half"),
    Family(name="depthwise-separable",
           build=lambda: simple("Conv", 8, 3, dims=2, width=8, groups=8),
           inputs=SMALL, symmetry=perms(8, 5)),
    Family(name="depthwise-multiplier",
           build=lambda: simple("Conv", 16, 3, dims=2, width=16, groups=8),
           inputs=SMALL, symmetry=perms(8) * perms(2) ** 8 * perms(5),
           why="channels, and the two kernels of each"),
    Family(name="channel-shuffle",
           build=lambda: Pooled(
               nn.Conv2d(3, 6, 1), nn.Tanh(), nn.Conv2d(6, 4, 1, groups=2), ShuffleChannels(2),
               nn.Tanh(), nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), width=6),
           inputs=IMAGE, symmetry=perms(2) * perms(3) ** 2 * perms(2) * perms(3) ** 2,
           least=perms(), opaque=("2.weight", "5.weight"),
           why="not found: each shuffled channel is one pair (first group, second group), which "
           "blocks in the order of both would have to list"),
    Family(name="mobilenet-v2-block",
           build=lambda: Pooled(
               conv_norm(3, 6), Residual(
                   conv_norm(6, 12, 1), conv_norm(12, 12, 3, groups=12),
                   *conv_norm(12, 6, 1)[:2]), width=6),
           inputs=IMAGE, symmetry=perms(6, 12)),
    Family(name="resnext-block",
           build=lambda: Pooled(
               conv_norm(3, 6), Residual(
                   conv_norm(6, 8, 1), conv_norm(8, 8, 3, groups=4), *conv_norm(8, 6, 1)[:2]),
               nn.ReLU(), width=6),
           inputs=IMAGE, symmetry=perms(6) * perms(4) * perms(2, 2) ** 4),
    Family(name="densenet",
           build=lambda: Pooled(
               nn.Conv2d(3, 6, 3, padding=1), Dense(6, 8, 4), Dense(10, 8, 4),
               nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 7, 1), nn.AvgPool2d(2),
               Dense(7, 8, 4), nn.BatchNorm2d(11), nn.ReLU(), width=11),
           inputs=IMAGE, symmetry=perms(6, 4, 4, 7, 4) * perms(8) ** 3),
    Family(name="inception",
           build=lambda: Pooled(
               conv_norm(3, 6),
               Branches(
                   conv_norm(6, 4, 1), nn.Sequential(conv_norm(6, 3, 1), conv_norm(3, 5)),
                   nn.Sequential(conv_norm(6, 2, 1), conv_norm(2, 3, 5)),
                   nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(6, 2, 1))),
               conv_norm(14, 5), width=5),
           inputs=IMAGE, symmetry=perms(6, 4, 3, 5, 2, 3, 2, 5)),
    Family(name="squeeze-excite",
           build=lambda: Pooled(conv_norm(3, 8), SqueezeExcite(8, 3), conv_norm(8, 5), width=5),
           inputs=IMAGE, symmetry=perms(8, 3, 5)),
    Family(name="unet-nearest", build=lambda: UNet("nearest"), inputs=floats(1, 2, 8, 8),
           symmetry=perms(4, 5, 6, 8, 6, 4)),
    Family(name="unet-bilinear", build=lambda: UNet("bilinear"), inputs=floats(1, 2, 8, 8),
           symmetry=perms(4, 5, 6, 8, 6, 4)),
    Family(name="unet-transposed", build=lambda: UNet("transposed"), inputs=floats(1, 2, 8, 8),
           symmetry=perms(4, 5, 6, 8, 7, 6, 3, 4)),
    Family(name="pixel-shuffle",
           build=lambda: nn.Sequential(
               nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 20, 3, padding=1),
               nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(5, 8, 1), nn.ReLU(),
               nn.Conv2d(8, 2 * 9, 1), nn.PixelShuffle(3)),
           inputs=floats(1, 3, 4, 4), symmetry=perms(6, 5, 8),
           why="a channel after the shuffle owns four rows before it, each a place in space"),
    Family(name="pixel-unshuffle",
           build=lambda: Pooled(
               nn.Conv2d(3, 5, 1), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(20, 6, 1),
               nn.ReLU(), width=6),
           inputs=IMAGE, symmetry=perms(5, 6)),
    Family(name="vgg", build=vgg, inputs=floats(1, 3, 16, 16), symmetry=perms(4, 6, 8, 8, 10, 9)),
    Family(name="resnet20", build=lambda: ResNet((3, 3, 3), (8, 12, 16), False, False),
           inputs=IMAGE, symmetry=(perms(8) * perms(12) * perms(16)) ** 4,
           why="a stream a stage (the stem's is the first's) and a width inside each block"),
    Family(name="resnet50", build=lambda: ResNet((3, 4, 6, 3), (4, 6, 8, 10), True, True),
           inputs=floats(1, 3, 32, 32),
           symmetry=perms(4, 16, 24, 32, 40)
           * perms(4) ** 6 * perms(6) ** 8 * perms(8) ** 12 * perms(10) ** 6,
           why="the stem, a stream a stage, two widths inside each of 3 + 4 + 6 + 3 blocks"),
]  # fmt: skip
