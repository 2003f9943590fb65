"""Modules so small that every reordering of their parameters can be tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import join, rotate, softmax_attention, split
from .case import Size, experts, heads, perms, randomise


@dataclass(frozen=True)
class Tiny:
    """A module small enough for a search, and the size of its group by theory."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    symmetry: Size
    # numbers of these may change places between tensors: modules that move as wholes
    together: tuple[tuple[str, ...], ...] = ()
    least: Size | None = None  # what must be derived where the whole is out of reach

    def module(self, seed: int) -> nn.Module:
        return randomise(self.build().double(), seed).eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
        self.outer, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.outer(self.inner(x).tanh())).sin())


class Attention(nn.Module):
    """Two heads of two dims on a stream of one."""

    def __init__(self, rope: bool = False, slopes: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(1, 4, bias=False) for _ in range(3))
        self.out, self.rope, self.slopes = nn.Linear(4, 1, bias=False), rope, slopes

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(layer(x), 2) for layer in (self.q, self.k, self.v))
        if self.rope:
            q, k = rotate(q, interleaved=False), rotate(k, interleaved=False)
        bias = 0.0
        if self.slopes:
            distance = torch.arange(x.shape[1]).to(x)
            bias = distance * torch.tensor([1.0, 2.0]).to(x)[:, None, None]
        return self.out(join(softmax_attention(q, k, v, bias)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(2, 3), nn.Linear(2, 3, bias=False)
        self.down = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(x).sigmoid() * self.up(x))


class StackedExperts(nn.Module):
    """Two experts of two hidden units in 3-D parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(1, 2, bias=False)
        self.up, self.bias = nn.Parameter(torch.zeros(2, 1, 2)), nn.Parameter(torch.zeros(2, 2))
        self.down = nn.Parameter(torch.zeros(2, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (torch.einsum("nc,ech->neh", x, self.up) + self.bias).tanh()
        answers = torch.einsum("neh,ehc->nec", hidden, self.down)
        return (self.gate(x).softmax(-1).unsqueeze(-1) * answers).sum(1)


class ListedExperts(nn.Module):
    """The same with a module an expert."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(1, 2, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1, bias=False)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.cat([e(x) for e in self.experts], -1)
        return (self.gate(x).softmax(-1) * answers).sum(-1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.again = nn.Linear(1, 3), nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            h = (self.inner(step) + self.again(h)).tanh()
        return self.head(h)


class Tied(nn.Module):
    """A table that reads and writes, and a layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Parameter(torch.zeros(3, 2)), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x @ self.table).tanh()).tanh() @ self.table.T


class Constants(nn.Module):
    """Three units, of which a constant marks one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer((self.inner(x) + torch.tensor([0.5, 0.5, 1.0]).to(x)).tanh())


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 4), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).unflatten(-1, (2, 2)).amax(-1).tanh())


class Normed(nn.Module):
    """g v / |v|, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.length = nn.Parameter(torch.ones(3, 1))
        self.direction, self.outer = nn.Linear(2, 3, bias=False), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        v = self.direction.weight
        return self.outer(F.linear(x, self.length * v / v.norm(dim=1, keepdim=True)).tanh())


class Joined(nn.Module):
    """A skip by concatenation, as DenseNet's and a U-Net's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 2), nn.Linear(2, 2)
        self.head = nn.Linear(4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        return self.head(torch.cat([x, self.second(x).tanh()], -1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Conv1d(2, 2, 2, bias=False), nn.Tanh(), nn.Flatten(),
        nn.Linear(4, 1, bias=False),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 4, 1), nn.Tanh(), nn.Conv1d(4, 2, 1, groups=2), nn.Tanh(), nn.Flatten(1),
        nn.Linear(2, 1),
    )  # fmt: skip


TINY = [
    Tiny("mlp", lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), (5, 2),
         perms(3)),
    Tiny("mlp-deep",
         lambda: nn.Sequential(
             nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)),
         (5, 2), perms(2, 2)),
    Tiny("cnn-flatten", convolutions, (3, 1, 4), perms(2, 2)),
    Tiny("grouped", grouped, (5, 1, 1), perms(2) * perms(2) ** 2),
    Tiny("depthwise",
         lambda: nn.Sequential(
             nn.Conv1d(1, 3, 1), nn.Tanh(), nn.Conv1d(3, 3, 2, groups=3, bias=False), nn.Sigmoid(),
             nn.Flatten(), nn.Linear(3, 1)),
         (5, 1, 2), perms(3)),
    Tiny("residual", Residual, (5, 2), perms(2, 2)),
    Tiny("layer-norm",
         lambda: nn.Sequential(
             nn.Linear(2, 3, bias=False), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 2)),
         (5, 2), perms(3)),
    Tiny("group-norm",
         lambda: nn.Sequential(
             nn.Linear(2, 4, bias=False), nn.GroupNorm(2, 4), nn.Tanh(),
             nn.Linear(4, 1, bias=False)),
         (5, 2), perms(2) * perms(2) ** 2),
    Tiny("batch-norm",
         lambda: nn.Sequential(
             nn.Linear(1, 3, bias=False), nn.BatchNorm1d(3), nn.Tanh(),
             nn.Linear(3, 1, bias=False)),
         (5, 1), perms(3)),
    Tiny("weight-norm", Normed, (5, 2), perms(3)),
    Tiny("attention", Attention, (2, 3, 1), heads(2, 2)),
    Tiny("attention-rope", lambda: Attention(rope=True), (2, 3, 1), perms(2) * perms(2) ** 2),
    Tiny("attention-alibi", lambda: Attention(slopes=True), (2, 3, 1), perms(2) ** 4),
    Tiny("gated", Gated, (5, 2), perms(3)),
    Tiny("moe-stacked", StackedExperts, (5, 1), experts(2, 2)),
    Tiny("moe-listed", ListedExperts, (5, 1), experts(2, 2),
         (("experts.0.0.weight", "experts.1.0.weight"), ("experts.0.0.bias", "experts.1.0.bias"),
          ("experts.0.2.weight", "experts.1.2.weight")),
         perms(2) ** 2),  # whole modules change places: not found
    Tiny("recurrent", Recurrent, (3, 3, 1), perms(3)),
    Tiny("tied", Tied, (5, 3), perms(2)),
    Tiny("constants", Constants, (5, 2), perms(2)),
    Tiny("maxout", Maxout, (9, 2), perms(2) * perms(2) ** 2),
    Tiny("concatenation", Joined, (5, 1), perms(2, 2)),
]  # fmt: skip
