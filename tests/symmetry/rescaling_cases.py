"""Modules whose rescalings are known by theory: what the laws of rescalings run over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.architectures import CASES, Case


@dataclass(frozen=True)
class Rescalable(Case):
    """A module with the numbers of free positive scales and of free signs that it must have."""

    positive: int
    sign: int

    def __str__(self) -> str:
        return self.name


class Elementwise(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Gated(nn.Module):
    """down(gate(g(x)) * u(x)): the linear branch scales against what reads the product."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.function = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Two heads of three dims: each dim of q against k's, each of v against o's column."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 6) for _ in range(3))
        self.o = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 3)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(-2, -1) / 3**0.5, -1) @ v
        return self.o(mixed.transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """The same, but q, k and v are rows of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(4, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-2, -1) / 3**0.5, -1) @ v
        return self.o(mixed.transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """One key head for two query heads: a dim of k scales against that dim of both queries."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, n) for n in (6, 3, 3))
        self.o = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (2, 3)).transpose(1, 2)
        k, v = self.k(x).unsqueeze(1), self.v(x).unsqueeze(1)
        mixed = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        return self.o(mixed.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """The same units before and after each step: rows against columns of one matrix."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.step, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(5, dtype=x.dtype, device=x.device).expand(len(x), 5)
        for t in range(x.shape[1]):
            h = self.activation(self.read(x[:, t]) + self.step(h))
        return self.head(h)


class Shrunk(nn.Module):
    """Two batch norms in a chain of depthwise convolutions: scales meet at one variance."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6)
        self.middle, self.norm2 = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        return self.head(F.relu(self.norm2(self.middle(x))).mean((2, 3)))


def chain(*middle: nn.Module) -> Callable[[], nn.Module]:
    """Four inputs, six units, the given modules, three outputs."""
    return lambda: copy.deepcopy(nn.Sequential(nn.Linear(4, 6), *middle, nn.Linear(6, 3)))


def small(name: str, build: Callable[[], nn.Module], positive: int, sign: int) -> Rescalable:
    return Rescalable(name, build, (5, 4), (), positive, sign)


def image(name: str, *middle: nn.Module, positive: int, sign: int) -> Rescalable:
    """Six channels that the given modules bring to 2 x 2 places, and three outputs."""
    layers = nn.Sequential(nn.Conv2d(2, 6, 3), *middle, nn.Flatten(), nn.Linear(24, 3))
    return Rescalable(name, lambda: copy.deepcopy(layers), (3, 2, 6, 6), (), positive, sign)


KNOWN = {  # free positive scales and signs of tests/architectures.py
    "mlp": (16, 0),
    "mlp-tanh-flat-image": (0, 8),
    "mlp-no-bias": (0, 0),  # GELU
    "mlp-one-output": (0, 0),  # sigmoid
    "mlp-width-one": (0, 0),  # SiLU
    "cnn-flatten-2x2": (14, 0),
    "cnn-global-pool": (14, 0),
    "cnn-batch-norm": (8 + 8 + 6, 8),  # before the norm, after it, and its sign
    "cnn-stride": (14, 0),
    "cnn-odd-kernel": (14, 0),
    # each norm: the scale before it, and its sign; each ReLU's units: the scale after it
    "resnet-projection": (104 + 64, 104),
    "resnet-padded": (88 + 56, 88),
    "functional": (4 + 6, 4),  # a scale against PReLU and a convolution; tanh before it
    "depthwise": (5, 5),  # ReLU6 and hardswish have none, a linear channel has both
    "explicit-padding": (12, 0),
    "layer-norm-residual": (0, 0),
}

OWN = [
    small("relu", chain(nn.ReLU()), 6, 0),
    small("leaky-relu", chain(nn.LeakyReLU(0.1)), 6, 0),
    small("prelu", chain(nn.PReLU(6)), 6, 0),
    small("squared-relu", chain(nn.ReLU(), Elementwise(torch.square)), 6, 0),
    small("linear", chain(nn.Identity()), 6, 6),
    small("tanh", chain(nn.Tanh()), 0, 6),
    small("hard-tanh", chain(nn.Hardtanh(-30, 30)), 0, 6),
    small("relu6-of-a-hundred", chain(nn.Hardtanh(0, 100)), 0, 0),
    small("cosine", chain(Elementwise(torch.cos)), 0, 6),  # even: rows and biases alone
    small("gelu", chain(nn.GELU()), 0, 0),
    small("sigmoid", chain(nn.Sigmoid()), 0, 0),
    small("softplus", chain(nn.Softplus()), 0, 0),
    small("siren", lambda: nn.Sequential(
        nn.Linear(4, 7), Elementwise(lambda x: torch.sin(3 * x)), nn.Linear(7, 6),
        Elementwise(lambda x: torch.sin(3 * x)), nn.Linear(6, 2)), 0, 13),
    small("mixed", lambda: nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(),
        nn.Linear(5, 3)), 7, 6),
    small("deep", lambda: nn.Sequential(
        nn.Linear(4, 6), *[m for _ in range(5) for m in (nn.ReLU(), nn.Linear(6, 6))]), 30, 0),
    small("batch-norm", chain(nn.BatchNorm1d(6), nn.ReLU()), 12, 6),
    small("batch-norm-large-eps", chain(nn.BatchNorm1d(6, eps=0.1), nn.ReLU()), 12, 6),
    small("batch-norm-not-affine", chain(nn.BatchNorm1d(6, affine=False), nn.ReLU()), 6, 0),
    small("batch-norm-tanh", chain(nn.BatchNorm1d(6), nn.Tanh()), 6, 12),
    small("batch-norm-gelu", chain(nn.BatchNorm1d(6), nn.GELU()), 6, 6),
    small("layer-norm", lambda: nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), 11, 6),
    small("rms-norm", chain(nn.RMSNorm(6)), 6, 12),  # the stream's signs, and the norm's own
    small("length-one", chain(Elementwise(lambda x: F.normalize(x, dim=-1))), 0, 6),
    small("swiglu", lambda: Gated(F.silu), 6, 6),
    small("reglu", lambda: Gated(F.relu), 12, 6),
    Rescalable("attention", Attention, (2, 5, 4), (), 12, 12),
    Rescalable("fused-attention", Fused, (2, 5, 4), (), 12, 12),
    Rescalable("grouped-queries", Grouped, (2, 5, 4), (), 6, 6),
    small("swiglu-fused", lambda: nn.Sequential(
        nn.Linear(4, 12), Elementwise(lambda x: F.silu(x[:, :6]) * x[:, 6:]), nn.Linear(6, 3)),
        6, 6),
    image("grouped-convolution", nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3), nn.Tanh(),
          positive=6, sign=6),
    Rescalable("recurrent-relu", lambda: Recurrent(torch.relu), (2, 4, 3), (), 5, 0),
    Rescalable("recurrent-tanh", lambda: Recurrent(torch.tanh), (2, 4, 3), (), 0, 5),
    Rescalable("two-norms", Shrunk, (3, 2, 5, 5), (), 24, 12),
    # a channel's four places are scaled together, though each has a norm of its own
    image("flatten-batch-norm", nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(24),
          positive=12, sign=6),
    image("max-pool-relu", nn.ReLU(), nn.MaxPool2d(2), positive=6, sign=0),
    image("max-pool-tanh", nn.Tanh(), nn.MaxPool2d(2), positive=0, sign=0),
    image("average-pool-tanh", nn.Tanh(), nn.AvgPool2d(2), positive=0, sign=6),
]  # fmt: skip

ALL = [
    Rescalable(c.name, c.build, c.shape, c.hidden, *KNOWN[c.name]) for c in CASES if c.name in KNOWN
] + [replace(c, name=f"own-{c.name}") for c in OWN]
SOME = [c for c in ALL if c.positive or c.sign]
