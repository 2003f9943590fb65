"""Norms, parametrisations and scales: what stands beside the weights of a unit."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .case import Family, floats, perms
from .convolutional import Pooled


def between(*layers: nn.Module) -> nn.Module:
    """Layers on 8 channels between two convolutions."""
    return Pooled(
        nn.Conv2d(3, 8, 3), *layers, nn.ReLU(), nn.Conv2d(8, 5, 2), nn.ReLU(), width=5
    )  # fmt: skip


def within(*layers: nn.Module, width: int = 8) -> nn.Module:
    """Layers on 8 features between two linear layers."""
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.ReLU(), nn.Linear(width, 3))


class Scaled(nn.Module):
    """A residual branch under a layer scale, and raw parameters of several shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.gamma = nn.Parameter(torch.full((8,), 1e-5))
        self.shift = nn.Parameter(torch.zeros(1, 6))
        self.temperature = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.gamma * self.outer(F.gelu(self.inner(x) + self.shift))
        return self.head(x) * self.temperature.exp()


class Standardised(nn.Conv2d):
    """Weight standardisation: each kernel with mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - mean) / (spread + 1e-5).sqrt(), self.bias)


class Normalise(nn.Module):
    """Features of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Maxout(nn.Module):
    """The larger of each pair of neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).amax(-1)


class BothSigns(nn.Module):
    """CReLU: both signs of each feature, concatenated; the layer after it has twice the width."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(x), F.relu(-x)], -1)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def hooked(style: str) -> nn.Module:
    """An MLP under the older, hook-based weight norm or spectral norm."""
    norm = getattr(nn.utils, style)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(
            norm(nn.Linear(4, 8)), nn.ReLU(), norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3)
        )


def parametrised(style: str, **settings: object) -> nn.Module:
    norm = getattr(parametrizations, style)
    return nn.Sequential(
        norm(nn.Linear(4, 8), **settings), nn.ReLU(), norm(nn.Linear(8, 6), **settings),
        nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


def weight_norm_conv() -> nn.Module:
    norm = parametrizations.weight_norm
    return Pooled(
        norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), norm(nn.ConvTranspose2d(8, 5, 2), dim=1), nn.ReLU(),
        width=5,
    )  # fmt: skip


def square(orthogonal: bool) -> nn.Module:
    """Between two free layers, a square layer whose entries depend on each other."""
    middle = nn.Linear(6, 6, bias=False)
    if orthogonal:
        parametrizations.orthogonal(middle, orthogonal_map="cayley", use_trivialization=False)
    else:
        parametrize.register_parametrization(middle, "weight", Symmetric())
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), middle, nn.ReLU(), nn.Linear(6, 3)
    )


IMAGE, ROWS = floats(2, 3, 6, 6), floats(3, 4)
images = perms(8, 5)
groups = perms(4) * perms(2) ** 4 * perms(5)  # four groups of two channels, then a dense layer
FAMILIES = [
    Family(name="batch-norm", build=lambda: between(nn.BatchNorm2d(8)), inputs=IMAGE,
           symmetry=images),
    Family(name="batch-norm-not-affine", build=lambda: between(nn.BatchNorm2d(8, affine=False)),
           inputs=IMAGE, symmetry=images),
    Family(name="batch-norm-no-statistics",
           build=lambda: between(nn.BatchNorm2d(8, track_running_stats=False)), inputs=IMAGE,
           symmetry=images),
    Family(name="batch-norm-1d", build=lambda: within(nn.BatchNorm1d(8)), inputs=ROWS,
           symmetry=perms(8)),
    Family(name="batch-norm-3d",
           build=lambda: Pooled(nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), width=6,
                                space=(2, 3, 4)),
           inputs=floats(2, 2, 3, 3, 3), symmetry=perms(6)),
    Family(name="layer-norm", build=lambda: within(nn.LayerNorm(8)), inputs=ROWS,
           symmetry=perms(8)),
    Family(name="layer-norm-not-affine",
           build=lambda: within(nn.LayerNorm(8, elementwise_affine=False)), inputs=ROWS,
           symmetry=perms(8)),
    Family(name="layer-norm-channels-and-space", build=lambda: between(nn.LayerNorm([8, 4, 4])),
           inputs=IMAGE, symmetry=images, why="channels permute, places in space do not"),
    Family(name="group-norm", build=lambda: between(nn.GroupNorm(4, 8)), inputs=IMAGE,
           symmetry=groups),
    Family(name="group-norm-not-affine", build=lambda: between(nn.GroupNorm(4, 8, affine=False)),
           inputs=IMAGE, symmetry=groups),
    Family(name="group-norm-of-one", build=lambda: between(nn.GroupNorm(1, 8)), inputs=IMAGE,
           symmetry=images),
    Family(name="instance-norm", build=lambda: between(nn.InstanceNorm2d(8)), inputs=IMAGE,
           symmetry=images),
    Family(name="instance-norm-statistics",
           build=lambda: between(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
           inputs=IMAGE, symmetry=images),
    Family(name="rms-norm", build=lambda: within(nn.RMSNorm(8)), inputs=ROWS, symmetry=perms(8)),
    Family(name="rms-norm-not-affine",
           build=lambda: within(nn.RMSNorm(8, elementwise_affine=False)), inputs=ROWS,
           symmetry=perms(8)),
    Family(name="length-one", build=lambda: within(Normalise()), inputs=ROWS, symmetry=perms(8)),
    Family(name="local-response-norm", build=lambda: between(nn.LocalResponseNorm(3)),
           inputs=IMAGE, symmetry=perms(2, 5), least=perms(5),
           why="windows over neighbouring channels: only the whole order may be reversed"),
    Family(name="weight-norm-hook", build=lambda: hooked("weight_norm"), inputs=ROWS,
           symmetry=perms(8, 6), why="a row's length and direction move with its unit"),
    Family(name="weight-norm", build=lambda: parametrised("weight_norm"), inputs=ROWS,
           symmetry=perms(8, 6)),
    Family(name="weight-norm-whole", build=lambda: parametrised("weight_norm", dim=None),
           inputs=ROWS, symmetry=perms(8, 6), why="one length for the whole matrix"),
    Family(name="weight-norm-conv", build=weight_norm_conv, inputs=IMAGE, symmetry=images),
    Family(name="weight-standardised",
           build=lambda: Pooled(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 5, 2),
                                nn.ReLU(), width=5),
           inputs=IMAGE, symmetry=images),
    Family(name="spectral-norm", build=lambda: parametrised("spectral_norm"), inputs=ROWS,
           symmetry=perms(8, 6), why="its two vectors are running state and move along"),
    Family(name="spectral-norm-hook", build=lambda: hooked("spectral_norm"), inputs=ROWS,
           symmetry=perms(8, 6)),
    Family(name="symmetric-weight", build=lambda: square(False), inputs=ROWS,
           symmetry=perms(8, 6), least=perms(8), opaque=("4.parametrizations.weight.original",),
           why="rows and columns move together, and triangles with them: no reordering of axes"),
    Family(name="orthogonal-weight", build=lambda: square(True), inputs=ROWS,
           symmetry=perms(8, 6), least=perms(8), opaque=("4.parametrizations.weight.original",),
           why="as the symmetric weight: the Cayley map of a lower triangle"),
    Family(name="layer-scale", build=Scaled, inputs=ROWS, symmetry=perms(8, 6)),
    Family(name="prelu-a-channel", build=lambda: between(nn.PReLU(8)), inputs=IMAGE,
           symmetry=images),
    Family(name="prelu-shared", build=lambda: between(nn.PReLU()), inputs=IMAGE, symmetry=images),
    Family(name="softmax-between", build=lambda: within(nn.Softmax(-1)), inputs=ROWS,
           symmetry=perms(8)),
    Family(name="maxout", build=lambda: within(Maxout(), width=4), inputs=ROWS,
           symmetry=perms(4) * perms(2) ** 4, why="pairs, and the two of each pair"),
    Family(name="crelu", build=lambda: within(BothSigns(), width=16), inputs=ROWS,
           symmetry=perms(8)),
]  # fmt: skip
