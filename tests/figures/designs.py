"""Architectures written by hand, so that views are tested apart from the tracer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import nn

from graphrep.architecture import Architecture, Block, Parent, Span, TensorSpec, Units
from graphrep.architecture.spec import UnitKind


class UnusedTensor(nn.Module):
    """Holds a tensor that nothing reads: it stays opaque."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Design:
    """Collects units and blocks; `build` gives the architecture."""

    def __init__(self, name: str = "net") -> None:
        self.name = name
        self.units: list[Units] = []
        self.blocks: list[Block] = []
        self.tensors: list[TensorSpec] = []

    def add(
        self, name: str, size: int = 4, kind: UnitKind = "hidden", *parents: tuple[str, int],
        activations: tuple[str, ...] = (), bias: bool = True,
    ) -> str:  # fmt: skip
        """A unit group; a parent is its name and how many members each of its members has."""
        above = tuple(Parent(units=p, every=every) for p, every in parents)
        self.units.append(
            Units(name=name, size=size, kind=kind, parents=above, activations=activations)
        )
        if bias and kind == "hidden":
            axes = (Span(units=name, size=size),)
            self._block(f"{name}.bias", "diagonal", "bias", axes, target=name, target_axis=0)
        return name

    def join(self, source: str, target: str, tensor: str = "", *kernel: int) -> None:
        """A dense block."""
        sizes = {u.name: u.size for u in self.units}
        axes = (
            Span(units=target, size=sizes[target]),
            Span(units=source, size=sizes[source]),
            *(Span(units=None, size=k) for k in kernel),
        )
        tensor = tensor or f"{target}.weight"
        while tensor in {t.name for t in self.tensors}:
            tensor += "'"
        self._block(
            tensor, "dense", "weight", axes,
            source=source, target=target, source_axis=1, target_axis=0,
        )  # fmt: skip

    def carry(self, units: str, tensor: str, role: str) -> None:
        size = next(u.size for u in self.units if u.name == units)
        axes = (Span(units=units, size=size),)
        self._block(tensor, "diagonal", role, axes, target=units, target_axis=0)

    def opaque(self, tensor: str, size: int = 3) -> None:
        self._block(tensor, "opaque", "opaque", (Span(units=None, size=size),))

    def _block(self, tensor: str, kind, role: str, axes: Sequence[Span], **ends) -> None:  # type: ignore[no-untyped-def]
        shape = tuple(span.size for span in axes)
        offset = sum(t.numel for t in self.tensors)
        self.tensors.append(
            TensorSpec(name=tensor, shape=shape, dtype="float32", role="parameter", offset=offset)
        )
        self.blocks.append(
            Block(name=tensor, tensor=tensor, kind=kind, role=role, axes=tuple(axes), **ends)
        )
        assert prod(shape) > 0

    def build(self) -> Architecture:
        return Architecture(
            name=self.name,
            units=tuple(self.units),
            blocks=tuple(self.blocks),
            tensors=tuple(self.tensors),
        )


def chain(edges: Iterable[tuple[str, str]], hidden: Sequence[str]) -> Architecture:
    """An architecture by its edges; every unit group has 4 members and a bias."""
    design = Design()
    design.add("input", kind="input")
    for name in hidden:
        design.add(name)
    design.add("output", kind="output")
    for source, target in edges:
        design.join(source, target)
    return design.build()


def straight(num_layers: int) -> Architecture:
    names = [f"h{i}" for i in range(num_layers)]
    return chain(list(pairwise(["input", *names, "output"])), names)


def residual(num_branches: int) -> Architecture:
    inner = [f"branch{i}" for i in range(num_branches)]
    edges = [("input", "stream")]
    for name in inner:
        edges += [("stream", name), (name, "stream")]
    return chain([*edges, ("stream", "output")], ["stream", *inner])


def u_shaped(depth: int) -> Architecture:
    down, up = [f"down{i}" for i in range(depth)], [f"up{i}" for i in reversed(range(depth))]
    edges = list(pairwise(["input", *down, "bottom", *up, "output"]))
    edges += [(f"down{i}", f"up{i}") for i in range(depth)]
    return chain(edges, [*down, "bottom", *up])


def transformer(
    num_layers: int, num_heads: int = 3, dim: int = 4, cross: bool = False, model: str = "model"
) -> Architecture:
    """Heads as units that hold the dims of queries, keys and values; key dims hold queries."""
    design = Design("transformer")
    design.add("tokens", 50, "input")
    if cross:
        design.add("encoder.states", 12)
        design.join("tokens", "encoder.states")
    design.add("stream", 12)
    design.join("tokens", "stream", f"{model}.embed.weight")
    for i in range(num_layers):
        at = f"{model}.layers.{i}"
        design.carry("stream", f"{at}.norm.weight", "scale")
        design.carry("stream", f"{at}.norm.bias", "shift")
        for kind in ("self_attn", "cross_attn")[: 1 + cross]:
            heads = design.add(f"{at}.{kind}.heads", num_heads, bias=False)
            size = num_heads * dim
            keys = design.add(f"{at}.{kind}.k_proj", size, "hidden", (heads, dim))
            design.add(f"{at}.{kind}.q_proj", size, "hidden", (heads, dim), (keys, 1))
            design.add(f"{at}.{kind}.v_proj", size, "hidden", (heads, dim))
            source = "encoder.states" if kind == "cross_attn" else "stream"
            design.join("stream", f"{at}.{kind}.q_proj")
            design.join(source, keys)
            design.join(source, f"{at}.{kind}.v_proj")
            design.join(f"{at}.{kind}.v_proj", "stream", f"{at}.{kind}.o_proj.weight")
        design.add(f"{at}.mlp.fc1", 16, activations=("gelu",))
        design.join("stream", f"{at}.mlp.fc1")
        design.join(f"{at}.mlp.fc1", "stream", f"{at}.mlp.fc2.weight")
    design.add("head", 5, "output")
    design.join("stream", "head")
    return design.build()


def shared_heads(num_layers: int) -> Architecture:
    """Grouped queries as they are traced: heads within shared heads, read values within values.

    What reads the values has no weights into it: it follows them as its parent.
    """
    design = Design("shared heads")
    design.add("tokens", 20, "fixed")
    design.add("stream", 8)
    design.join("tokens", "stream")
    for i in range(num_layers):
        at = f"layers.{i}.attn"
        shared = design.add(f"{at}.shared_heads", 2, bias=False)
        heads = design.add(f"{at}.heads", 4, "hidden", (shared, 2), bias=False)
        values = design.add(f"{at}.v_proj", 6, "hidden", (shared, 3), bias=False)
        read = design.add(f"{at}.o_proj.in", 12, "hidden", (values, 2), bias=False)
        for name in (shared, heads, values):
            design.join("stream", name)
        design.join(read, "stream", f"{at}.o_proj.weight")
    design.add("lm_head", 20, "output")
    design.join("stream", "lm_head")
    return design.build()


def one_bias_for_all(num_layers: int) -> Architecture:
    """T5: the layers share their heads, which read a table of positions."""
    design = Design("shared bias")
    design.add("tokens", 20, "fixed")
    design.add("positions", 32, "fixed")
    design.add("stream", 8)
    heads = design.add("layers.0.heads", 2, bias=False)
    design.join("tokens", "stream")
    design.join("positions", heads)
    for i in range(num_layers):
        for kind in "qv":
            design.add(f"layers.{i}.{kind}", 8, "hidden", (heads, 4), bias=False)
            design.join("stream", f"layers.{i}.{kind}")
        design.join(f"layers.{i}.v", "stream", f"layers.{i}.o.weight")
    return design.build()


def two_streams() -> Architecture:
    """An encoder and a decoder, each with an embedding; a head that reads both."""
    design = Design("two streams")
    design.add("sounds", 5, "input")
    design.add("tokens", 20, "fixed")
    for name, source in (("encoder", "sounds"), ("decoder", "tokens")):
        design.add(name, 8)
        design.join(source, name)
        for i in range(2):
            inner = design.add(f"{name}.{i}.fc1", 16)
            design.join(name, inner)
            design.join(inner, name, f"{name}.{i}.fc2.weight")
    crossing = design.add("decoder.0.cross", 8)
    design.join("encoder", crossing)
    design.join("decoder", crossing, "decoder.0.cross_q.weight")
    design.join(crossing, "decoder", "decoder.0.cross_out.weight")
    for name in ("encoder", "decoder"):
        design.add(f"head.{name}", 6)
        design.join(name, f"head.{name}")
    design.add("head", 3, "output")
    for name in ("encoder", "decoder"):
        design.join(f"head.{name}", "head", f"head.{name}_out.weight")
    return design.build()


def grouped_convolutions(num_blocks: int) -> Architecture:
    """ResNeXt: two layers of channels within the same groups, one block from one to the other."""
    design = Design("resnext")
    design.add("input", 3, "input")
    design.add("stem", 16)
    design.join("input", "stem", "", 7, 7)
    for i in range(num_blocks):
        groups = design.add(f"blocks.{i}.groups", 4, bias=False)
        design.add(f"blocks.{i}.conv1", 8, "hidden", (groups, 2), activations=("relu",))
        design.add(f"blocks.{i}.conv2", 8, "hidden", (groups, 2), activations=("relu",))
        design.join("stem", f"blocks.{i}.conv1", "", 1, 1)
        design.join(f"blocks.{i}.conv1", f"blocks.{i}.conv2", "", 3, 3)
        design.join(f"blocks.{i}.conv2", "stem", f"blocks.{i}.conv3.weight", 1, 1)
    design.add("fc", 10, "output")
    design.join("stem", "fc")
    return design.build()


def side_by_side(num: int, alike: bool = False) -> Architecture:
    """Parallel branches of different sizes, or of one size, joined again."""
    design = Design("inception")
    design.add("input", 3, "input")
    names = [design.add(f"branch{i}.conv", 8 if alike else 4 + i) for i in range(num)]
    design.add("joined", 8)
    design.add("output", 2, "output")
    for name in names:
        design.join("input", name)
        design.join(name, "joined", f"joined.{name}.weight")
    design.join("input", "joined", "joined.skip.weight")
    design.join("joined", "output")
    return design.build()


def plain_attention() -> Architecture:
    """Heads without a residual stream: the frame stands in the main rows."""
    design = Design("attention")
    design.add("input", 6, "input")
    heads = design.add("heads", 3, bias=False)
    for name in ("q", "k", "v"):
        design.add(name, 12, "hidden", (heads, 4))
        design.join("input", name)
    design.add("out", 6)
    design.join("v", "out")
    design.add("head", 5, "output")
    design.join("out", "head")
    design.join("input", "head", "skip.weight")
    return design.build()


def dense_connections(num: int) -> Architecture:
    """DenseNet: every layer reads all layers before it."""
    names = [f"layer{i}" for i in range(num)]
    ends = ["input", *names, "output"]
    return chain([(a, b) for j, b in enumerate(ends) for a in ends[max(0, j - 4) : j]], names)


def skipping() -> Architecture:
    """Arrows that pass rows by, and a tensor without a place."""
    design = Design()
    design.add("input", kind="input")
    for name in "abc":
        design.add(name)
    design.add("output", kind="output")
    for pair in ("input a", "a b", "b c", "c output", "a c", "a output"):
        design.join(*pair.split())
    design.opaque("odd")
    return design.build()
