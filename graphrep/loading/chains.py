"""A state dict without its class: plain chains are recognised by names and shapes.

A chain is a sequence of linear layers, convolutions and norms in which each layer takes
what the one before gives. What no weight shows (activations, strides, pooling) is assumed
and said in words; anything that may not be a chain is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .state_layers import COUNTER, Layer, NoChain, group_layers, orders
from .tree import place_module, scope_at

CONVOLUTIONS: dict[int, type[Any]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
POOLS = {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d}
SMALLEST_IMAGE = 8


class Chain(nn.Module):
    """Layers one after another, each under the path that it has in the state dict."""

    def __init__(self, steps: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.order = []
        for number, (path, module) in enumerate(steps):
            name = path or f"assumed_{number}"
            self.order.append(name)
            place_module(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = scope_at(self, name)(x)
        return x


@dataclass(frozen=True)
class Recognised:
    """A module with the state dict's names, an input that it takes, and what was assumed."""

    module: nn.Module
    input_shape: tuple[int, ...]
    assumed: tuple[str, ...]


def recognise_chain(
    path: Path, state: Mapping[str, Tensor], input_shape: Sequence[int] | None = None
) -> Recognised:
    """The plain chain that a state dict describes, without its values.

    Args:
        path: Of the file, for errors.
        state: Names and tensors; values play no part.
        input_shape: Instead of the one that is assumed.

    Raises:
        ValueError: not certainly a chain; says why and what to pass.
    """
    try:
        layers = group_layers(state)
        reasons = []
        for order, note in orders(layers):
            try:
                return build_chain(order, note, input_shape)
            except NoChain as error:
                reasons.append(error)
        raise reasons[0]
    except NoChain as error:
        raise ValueError(
            f"{path}: {error}, so no plain chain of layers can be read off its shapes. Pass "
            "--model package.module:factory (model= in Python), which builds the module, and "
            "--input with the shape that it takes."
        ) from None


class _Builder:
    """Adds layers to a chain while it knows what comes out of it."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, nn.Module]] = []
        self.assumed: list[str] = []
        self.channels = 0
        self.dim = 0  # of the activation: 2 after linear layers, more after convolutions
        self.last = ""
        self.activate = False  # whether the next layer is preceded by an activation

    def assume(self, text: str) -> None:
        if text not in self.assumed:
            self.assumed.append(text)

    def add(self, layer: Layer) -> None:
        if layer.is_norm:
            self.steps.append((layer.path, self.norm(layer)))
        elif layer.dim == 1:
            self.steps.append((layer.path, self.slope(layer)))
            self.activate = False
        else:
            if self.activate:
                self.assume("ReLU before every layer but the first, none at the end")
                self.steps.append(("", nn.ReLU()))
            module = self.linear(layer) if layer.dim == 2 else self.convolution(layer)
            self.steps.append((layer.path, module))
            self.activate = True
        self.last = layer.path

    def require(self, layer: Layer, condition: bool, takes: int) -> None:
        if not condition:
            raise NoChain(
                f"{layer.shown} takes {takes:,} channels, but '{self.last}' before it gives "
                f"{self.channels:,}"
            )

    def linear(self, layer: Layer) -> nn.Module:
        assert layer.weight is not None
        out, inner = layer.weight.shape
        if self.dim > 2:
            self.require(layer, inner % self.channels == 0, inner)
            self.flatten(inner // self.channels)
        elif self.dim:
            self.require(layer, inner == self.channels, inner)
        self.channels, self.dim = out, 2
        return nn.Linear(inner, out, bias="bias" in layer.tensors)

    def flatten(self, positions: int) -> None:
        sizes = positions_of(positions, self.dim - 2)
        where = "position" if positions == 1 else "positions"
        self.assume(
            f"pooling to {' x '.join(map(str, sizes))} {where} before the flatten, each "
            "channel's positions side by side"
        )
        self.steps.append(("", POOLS[self.dim](sizes)))
        self.steps.append(("", nn.Flatten()))

    def convolution(self, layer: Layer) -> nn.Module:
        assert layer.weight is not None
        out, inner, *kernel = layer.weight.shape
        if self.dim == 2:
            raise NoChain(f"{layer.shown} is a convolution behind the linear layer '{self.last}'")
        groups = 1
        if self.dim:
            self.require(layer, self.dim == layer.dim, inner)
            self.require(layer, self.channels % inner == 0, inner)
            groups = self.channels // inner
            self.require(layer, out % groups == 0, inner)
            if groups > 1:
                self.assume(f"'{layer.path}' in {groups} groups")
        self.assume("convolutions with stride 1 and padding of half a kernel")
        self.channels, self.dim = out, layer.dim
        return CONVOLUTIONS[layer.dim](
            inner * groups,
            out,
            tuple(kernel),
            padding=tuple(k // 2 for k in kernel),
            groups=groups,
            bias="bias" in layer.tensors,
        )

    def norm(self, layer: Layer) -> nn.Module:
        size = next(v for k, v in layer.tensors.items() if k != COUNTER).shape[0]
        if not self.dim:
            raise NoChain(f"{layer.shown} stands before any layer")
        self.require(layer, size == self.channels, size)
        if "running_mean" in layer.tensors:
            return NORMS[self.dim](size, affine=layer.weight is not None)
        if self.dim > 2:
            raise NoChain(f"{layer.shown} may be a group, layer or instance norm")
        self.assume(f"'{layer.path}' is a layer norm")
        return nn.LayerNorm(size)

    def slope(self, layer: Layer) -> nn.Module:
        assert layer.weight is not None
        size = layer.weight.shape[0]
        if not self.dim or (size > 1 and self.dim == 2):
            raise NoChain(f"{layer.shown} may be a PReLU or an RMS norm")
        self.require(layer, size in (1, self.channels), size)
        self.assume(f"'{layer.path}' is a PReLU")
        return nn.PReLU(size)


def build_chain(
    layers: Sequence[Layer], order: str, input_shape: Sequence[int] | None
) -> Recognised:
    """The module of layers in this order.

    Raises:
        NoChain: a layer does not take what the one before gives.
    """
    first = next((x for x in layers if x.dim > 1), None)
    if first is None or first.weight is None:
        raise NoChain("it holds no weight matrix or kernel")
    if len(layers) > 1 and any(not x.path for x in layers):
        raise NoChain("it has a layer without a name beside others")
    with torch.device("meta"):  # values come from the file, so none are made here
        builder = _Builder()
        if first.dim == 2 and input_shape is not None and len(input_shape) > 2:
            builder.assume("a flatten before the first layer")
            builder.steps.append(("", nn.Flatten()))
        for layer in layers:
            builder.add(layer)
        module = Chain(builder.steps) if layers[0].path else builder.steps[-1][1]
    sizes = [max(SMALLEST_IMAGE, k) for k in first.weight.shape[2:]]
    shape = tuple(input_shape or (1, first.weight.shape[1], *sizes))
    ends = f", '{layers[0].path}' to '{layers[-1].path}'" if len(layers) > 1 else ""
    count = f"{len(layers)} layers" if len(layers) > 1 else "one layer"
    notes = [f"a plain chain without shortcuts: {count}{ends}"]
    notes += [order] if order else []
    return Recognised(module, shape, tuple(f"assumed {n}" for n in notes + builder.assumed))


def positions_of(count: int, num_axes: int) -> tuple[int, ...]:
    """Sizes whose product is the count, as nearly square as it goes."""
    if num_axes == 1:
        return (count,)
    nearest = isqrt(count) if num_axes == 2 else round(count ** (1 / num_axes))
    side = next(s for s in range(max(1, nearest), 0, -1) if count % s == 0)
    return (side, *positions_of(count // side, num_axes - 1))
