"""Networks with units within units, and their architectures written out by hand.

Oracles for nested alignment: what a tracer should derive, without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphrep import ParameterGraph
from graphrep.architecture import Architecture
from graphrep.architecture.spec import Block, Parent, Span, Units
from graphrep.architecture.trace import assign_offsets, describe_tensors


@dataclass(frozen=True)
class NestedCase:
    """A module, its architecture and an input."""

    name: str
    build: Callable[[], nn.Module]
    units: tuple[Units, ...]
    dense: dict[str, tuple[str, str, int]]  # layer -> target, source, groups
    shape: tuple[int, ...]

    def module(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().double()

    def example(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64)

    def graph(self, seed: int = 0) -> ParameterGraph:
        module = self.module(seed)
        return ParameterGraph.from_state_dict(self.architecture(), module.state_dict())

    def architecture(self) -> Architecture:
        tensors, _ = describe_tensors(self.module())
        shapes = {t.name: t.shape for t in tensors}
        sizes = {u.name: u.size for u in self.units}
        blocks = []
        for layer, (target, source, groups) in self.dense.items():
            shape = shapes[f"{layer}.weight"]
            rows = Span(units=target, size=shape[0])
            columns = _columns(source, sizes, shape, groups)
            kernel = tuple(Span(units=None, size=1, slots=k) for k in shape[2:])
            blocks.append(
                Block(
                    name=f"{layer}.weight",
                    tensor=f"{layer}.weight",
                    kind="dense",
                    role="weight",
                    axes=(rows, columns, *kernel),
                    source=source,
                    target=target,
                    source_axis=1,
                    target_axis=0,
                    groups=groups,
                )
            )
            if f"{layer}.bias" in shapes:
                blocks.append(
                    Block(
                        name=f"{layer}.bias",
                        tensor=f"{layer}.bias",
                        kind="diagonal",
                        role="bias",
                        axes=(rows,),
                        target=target,
                        target_axis=0,
                    )
                )
        return Architecture(
            name=self.name,
            units=self.units,
            blocks=tuple(blocks),
            tensors=tuple(assign_offsets(tensors, set())),
        )


def _columns(source: str, sizes: dict[str, int], shape: tuple[int, ...], groups: int) -> Span:
    if groups > 1:  # columns are those of one group
        return Span(units=source, size=shape[1])
    slots = shape[1] // sizes[source]
    return Span(units=source, size=sizes[source], slots=slots, stride=slots)


class Attention(nn.Module):
    """Self-attention with grouped queries; q, k, v and o apart."""

    def __init__(self, model: int, heads: int, kv_heads: int, dims: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dims = heads, kv_heads, dims
        self.q = nn.Linear(model, heads * dims)
        self.k = nn.Linear(model, kv_heads * dims)
        self.v = nn.Linear(model, kv_heads * dims)
        self.o = nn.Linear(heads * dims, model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, self.dims)).transpose(1, 2)
        return x.repeat_interleave(self.heads // x.shape[1], 1)


class Shuffled(nn.Module):
    """Two convolutions in groups with a channel shuffle between: channels in two groupings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.first = nn.Conv2d(6, 12, 3, groups=3)
        self.second = nn.Conv2d(12, 8, 1, groups=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.first(F.gelu(self.stem(x))))
        x = x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)  # shuffled: 4 x 3
        return self.head(F.gelu(self.second(x)).mean((2, 3)))


def _hidden(name: str, size: int, *parents: Parent) -> Units:
    return Units(name=name, size=size, kind="hidden", parents=parents)


def _within(units: str, every: int) -> Parent:
    return Parent(units=units, every=every)


def _queries(heads: int, kv_heads: int, dims: int) -> Tensor:
    """The key dim that each query dim meets: heads in order, dims within."""
    head, dim = torch.arange(heads).unsqueeze(1), torch.arange(dims)
    return (head // (heads // kv_heads) * dims + dim).flatten()


INPUT, OUTPUT = (Units(name="input", size=6, kind="input"), Units(name="o", size=6, kind="output"))

NESTED = [
    NestedCase(
        "attention",
        lambda: Attention(6, 4, 4, 5),
        (
            INPUT,
            _hidden("qk", 20, _within("heads", 5)),
            _hidden("v", 20, _within("heads", 5)),
            _hidden("heads", 4),
            OUTPUT,
        ),
        {
            "q": ("qk", "input", 1),
            "k": ("qk", "input", 1),
            "v": ("v", "input", 1),
            "o": ("o", "v", 1),
        },
        (2, 5, 6),
    ),
    NestedCase(
        "grouped-queries",
        lambda: Attention(6, 6, 2, 4),
        (
            INPUT,
            _hidden("q", 24, _within("q-heads", 4), Parent.from_members("k", _queries(6, 2, 4))),
            _hidden("q-heads", 6, _within("kv-heads", 3)),
            _hidden("k", 8, _within("kv-heads", 4)),
            _hidden("v", 8, _within("kv-heads", 4)),
            _hidden("kv-heads", 2),
            _hidden("y", 24, _within("q-heads", 4), Parent.from_members("v", _queries(6, 2, 4))),
            OUTPUT,
        ),
        {
            "q": ("q", "input", 1),
            "k": ("k", "input", 1),
            "v": ("v", "input", 1),
            "o": ("o", "y", 1),
        },
        (2, 5, 6),
    ),
    NestedCase(
        "grouped-convolution",
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.GELU(), nn.Conv2d(12, 20, 3, groups=4), nn.GELU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(80, 5),
        ),
        (
            Units(name="input", size=3, kind="input"),
            _hidden("in", 12, _within("groups", 3)),
            _hidden("out", 20, _within("groups", 5)),
            _hidden("groups", 4),
            Units(name="o", size=5, kind="output"),
        ),
        {"0": ("in", "input", 1), "2": ("out", "in", 4), "6": ("o", "out", 1)},
        (2, 3, 9, 9),
    ),
]  # fmt: skip

# the second convolution reads the channels in another order than the first gives them
SHUFFLE = torch.arange(12).view(3, 4).t().flatten()
