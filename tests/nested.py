"""Architectures with units within units, blocks in groups and stacks, built by hand.

Each comes with the function it describes, so that its permutations can be checked against
outputs, and with orders that respect all but what its units sit within: these give another
function, and an encoder must tell. `tests/architectures.py` holds modules for the tracer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from graphrep.architecture import Architecture
from graphrep.architecture.reorder import tensor_of
from graphrep.architecture.spec import Block, Parent, Span, TensorSpec, Units

from .by_hand import bias, ends, hidden, span, weight, within

Function = Callable[[Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Design:
    """An architecture, what it computes, and orders that break it."""

    name: str
    units: tuple[Units, ...]
    blocks: tuple[Block, ...]
    shapes: Mapping[str, tuple[int, ...]]
    function: Function
    shape: tuple[int, ...]  # of inputs
    broken: tuple[Mapping[str, tuple[int, ...]], ...]  # orders that ignore parents

    def architecture(self) -> Architecture:
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        starts = accumulate(sizes, initial=0)
        tensors = tuple(
            TensorSpec(name=name, shape=shape, dtype="float32", role="parameter", offset=start)
            for (name, shape), start in zip(self.shapes.items(), starts, strict=False)
        )
        return Architecture(name=self.name, units=self.units, blocks=self.blocks, tensors=tensors)

    def compute(self, theta: Tensor) -> Tensor:
        """Outputs of one network [P] on inputs that are always the same."""
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(2), dtype=theta.dtype)
        stored = self.architecture().stored
        return self.function({spec.name: tensor_of(spec, theta) for spec in stored}, x)


def without_parents(architecture: Architecture) -> Architecture:
    """The same units and blocks, in which nothing belongs together."""
    return replace(architecture, units=tuple(replace(u, parents=()) for u in architecture.units))


def _swap(size: int, a: int, b: int) -> tuple[int, ...]:
    order = list(range(size))
    order[a], order[b] = b, a
    return tuple(order)


def _roll(size: int, by: int) -> tuple[int, ...]:
    return tuple((i + by) % size for i in range(size))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads [H, n, d] -> [n, H * d]."""
    mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return mixed.transpose(0, 1).flatten(1)


def attention() -> Design:
    """3 heads of 4 dims for queries and keys and of 2 dims for values."""
    inputs, outputs = ends(5, 3)
    units = (
        inputs,
        hidden("heads", 3),
        hidden("qk", 12, within("heads", 4)),
        hidden("v", 6, within("heads", 2)),
        outputs,
    )
    of = {u.name: span(u.name, u.size) for u in units}
    blocks: list[Block] = []
    for name, target, source in (
        ("q", "qk", "input"), ("k", "qk", "input"), ("v", "v", "input"), ("o", "output", "v"),
    ):  # fmt: skip
        blocks += [weight(f"{name}.weight", of[target], of[source])]
        blocks += [bias(f"{name}.bias", of[target])]
    shapes = {b.tensor: tuple(s.size for s in b.axes) for b in blocks}

    def function(t: Mapping[str, Tensor], x: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x, t[f"{n}.weight"], t[f"{n}.bias"]).unflatten(-1, (3, -1)).transpose(0, 1)
            for n in "qkv"
        )
        return F.linear(_attend(q, k, v), t["o.weight"], t["o.bias"])

    broken = (
        {"qk": _swap(12, 0, 4)},  # a dim leaves its head in q and k alone
        {"qk": _roll(12, 4)},  # whole heads move in q and k alone
        {"v": _swap(6, 1, 2)},
    )
    return Design("attention", units, tuple(blocks), shapes, function, (7, 5), broken)


def interleaved_attention() -> Design:
    """The same, but dims come before heads: member m belongs to head m % 3."""
    base = attention()

    def parents(u: Units) -> tuple[Parent, ...]:
        tables = [torch.arange(u.size) % 3 for _ in u.parents]
        return tuple(Parent.from_members("heads", table) for table in tables)

    def function(t: Mapping[str, Tensor], x: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x, t[f"{n}.weight"], t[f"{n}.bias"]).unflatten(-1, (-1, 3)).permute(2, 0, 1)
            for n in "qkv"
        )
        mixed = _attend(q, k, v).unflatten(-1, (3, 2)).mT.flatten(1)
        return F.linear(mixed, t["o.weight"], t["o.bias"])

    units = tuple(replace(u, parents=parents(u)) for u in base.units)
    broken = ({"qk": _swap(12, 0, 1)}, {"qk": _swap(12, 3, 4)}, {"v": _swap(6, 0, 1)})
    name = "interleaved-attention"
    return replace(base, name=name, units=units, function=function, broken=broken)


def grouped_query_attention() -> Design:
    """4 query heads on 2 key-value heads of 3 dims, from one fused projection."""
    kv, heads, d = 2, 4, 3
    of_query = tuple(h // 2 * d + i for h in range(heads) for i in range(d))
    in_heads, in_kv = within("query_heads", d), within("kv_heads", d)
    inputs, outputs = ends(5, 3)
    units = (
        inputs,
        hidden("kv_heads", kv),
        hidden("query_heads", heads, within("kv_heads", 2)),
        hidden("keys", kv * d, in_kv),
        hidden("values", kv * d, in_kv),
        hidden("queries", heads * d, in_heads, Parent(units="keys", table=of_query)),
        hidden("mixed", heads * d, in_heads, Parent(units="values", table=of_query)),
        outputs,
    )
    blocks = []
    for number, (name, start, size) in enumerate(
        (("queries", 0, 12), ("keys", 12, 6), ("values", 18, 6))
    ):
        part = span(name, size, start=start)
        blocks.append(weight("qkv.weight", part, span("input", 5), name=f"qkv.weight[{number}]"))
        blocks.append(bias("qkv.bias", part, name=f"qkv.bias[{number}]"))
    blocks.append(weight("o.weight", span("output", 3), span("mixed", 12)))
    shapes = {"qkv.weight": (24, 5), "qkv.bias": (24,), "o.weight": (3, 12)}

    def function(t: Mapping[str, Tensor], x: Tensor) -> Tensor:
        fused = F.linear(x, t["qkv.weight"], t["qkv.bias"]).unflatten(-1, (-1, d)).transpose(0, 1)
        q, k, v = fused.split([heads, kv, kv])
        k, v = (part.repeat_interleave(2, 0) for part in (k, v))
        return F.linear(_attend(q, k, v), t["o.weight"])

    broken = (
        {"queries": _swap(12, 0, 1)},  # a query dim leaves its key dim
        {"queries": _roll(12, 6)},  # query heads leave their key-value heads
        {"keys": _swap(6, 2, 3), "queries": _swap(12, 2, 8)},
        {"mixed": _swap(12, 0, 3)},
    )
    name = "grouped-query-attention"
    return Design(name, units, tuple(blocks), shapes, function, (7, 5), broken)


def grouped_convolution() -> Design:
    """A convolution of 8 channels in 4 groups to 12, a norm, and a flatten of 2 x 2 places."""
    inputs, outputs = ends(3, 4)
    units = (
        inputs,
        hidden("groups", 4),
        hidden("first", 8, within("groups", 2), activation="relu"),
        hidden("second", 12, within("groups", 3), activation="relu"),
        outputs,
    )
    kernel = (Span(units=None, size=1, slots=3), Span(units=None, size=1, slots=3))
    first, second = span("first", 8), span("second", 12)
    flat = span("second", 12, slots=4, stride=4)
    blocks = (
        weight("conv1.weight", first, span("input", 3), *kernel),
        bias("conv1.bias", first),
        weight("conv2.weight", second, span("first", 2), *kernel, groups=4),
        bias("norm.weight", second, "scale", leader="norm.weight"),
        bias("norm.bias", second, "shift", leader="norm.weight"),
        weight("head.weight", span("output", 4), flat),
        bias("head.bias", span("output", 4)),
    )
    shapes = {
        "conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "conv2.weight": (12, 2, 3, 3),
        "norm.weight": (12,), "norm.bias": (12,), "head.weight": (4, 48), "head.bias": (4,),
    }  # fmt: skip

    def function(t: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, t["conv1.weight"], t["conv1.bias"]))
        x = F.conv2d(x, t["conv2.weight"], groups=4)
        x = F.relu(x * t["norm.weight"].view(-1, 1, 1) + t["norm.bias"].view(-1, 1, 1))
        return F.linear(x.flatten(1), t["head.weight"], t["head.bias"])

    broken = (
        {"second": _swap(12, 2, 3)},  # a channel reads another group
        {"first": _roll(8, 2)},  # whole groups move before the grouped convolution alone
        {"second": _roll(12, 3)},  # and after it alone
    )
    return Design("grouped-convolution", units, blocks, shapes, function, (2, 3, 6, 6), broken)


def experts() -> Design:
    """3 experts as stacks: gate and up fused [E, 2f, D], a middle [E, f, h], down [E, D, h]."""
    E, D, f, h = 3, 5, 4, 2
    inputs, outputs = ends(D, D)
    units = (
        inputs,
        hidden("experts", E),
        hidden("up", E * f, within("experts", f), activation="silu"),
        hidden("middle", E * h, within("experts", h), activation="relu"),
        outputs,
    )
    every = torch.arange(E).view(-1, 1) * 2 * f + torch.arange(f)
    fused = Span.from_index("up", torch.stack([every.flatten(), every.flatten() + f], 1))
    gates, middle = span("experts", E), span("middle", E * h)
    read, written = span("input", D), span("output", D)
    blocks = (
        weight("router.weight", gates, read),
        bias("router.bias", gates),
        weight("up.weight", fused, read, layout=((0, 1), (2,))),
        bias("up.bias", fused, layout=((0, 1),)),
        weight(
            "middle.weight", middle, span("up", f), layout=((0, 2), (1,)), groups=E
        ),
        bias("middle.bias", middle, layout=((0, 1),)),
        weight("down.weight", written, middle, layout=((1,), (0, 2))),
        weight(
            "down.bias", written, gates, axes=(gates, written), source_axis=0, target_axis=1,
            role="bias", leader="down.weight",
        ),
    )  # fmt: skip
    shapes = {
        "router.weight": (E, D), "router.bias": (E,),
        "up.weight": (E, 2 * f, D), "up.bias": (E, 2 * f),
        "middle.weight": (E, f, h), "middle.bias": (E, h),
        "down.weight": (E, D, h), "down.bias": (E, D),
    }  # fmt: skip

    def function(t: Mapping[str, Tensor], x: Tensor) -> Tensor:
        gates = F.linear(x, t["router.weight"], t["router.bias"]).softmax(-1)
        y = torch.einsum("nd,efd->nef", x, t["up.weight"]) + t["up.bias"]
        gate, up = y.chunk(2, -1)
        y = torch.einsum("nef,efh->neh", F.silu(gate) * up, t["middle.weight"])
        y = F.relu(y + t["middle.bias"])
        y = torch.einsum("neh,edh->ned", y, t["down.weight"]) + t["down.bias"]
        return (gates.unsqueeze(-1) * y).sum(1)

    broken = (
        {"middle": _swap(E * h, 0, 2)},  # a unit reads another expert's
        {"experts": _roll(E, 1)},  # the router and the last bias alone
    )
    return Design("experts", units, blocks, shapes, function, (6, D), broken)


def uneven_parts() -> Design:
    """6 neurons in parts of 3, 1 and 2 that keep their places."""
    inputs, outputs = ends(4, 2)
    parts = Units(name="parts", size=3, kind="fixed")
    parent = Parent(units="parts", table=(0, 0, 0, 2, 2, 1))
    units = (inputs, parts, hidden("hidden", 6, parent, activation="tanh"), outputs)
    blocks = (
        weight("first.weight", span("hidden", 6), span("input", 4)),
        bias("first.bias", span("hidden", 6)),
        weight("last.weight", span("output", 2), span("hidden", 6)),
    )
    shapes = {b.tensor: tuple(s.size for s in b.axes) for b in blocks}

    def function(t: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(x, t["first.weight"], t["first.bias"]))
        return F.linear(x * x.new_tensor([1, 1, 1, 3, 3, 2]), t["last.weight"])

    broken = ({"hidden": _swap(6, 0, 3)}, {"hidden": _swap(6, 4, 5)})
    return Design("uneven-parts", units, blocks, shapes, function, (7, 4), broken)


DESIGNS = [
    attention(),
    interleaved_attention(),
    grouped_query_attention(),
    grouped_convolution(),
    experts(),
    uneven_parts(),
]
