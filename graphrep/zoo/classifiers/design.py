"""What a network of a zoo is: its kind, widths, kernels, poolings, head.

Settings and their checks alone; `networks` builds the modules. Input shape and
number of classes come from the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...parsing import parse_dataclass
from ..recipe import check_choice

KINDS = ("mlp", "cnn", "resnet", "vit")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
}
PADDINGS = ("same", "valid")
POOLINGS = ("max", "avg", "none")
HEADS = ("flatten", "global", "token")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One network design. What does not concern its kind is ignored."""

    kind: str = "cnn"  # mlp, cnn, resnet or vit
    hidden: tuple[int, ...] = (8, 12)  # units of each layer (vit: of each block's mlp),
    # channels of each layer or stage
    kernel_size: int = 3  # of all convolutions, unless kernel_sizes says otherwise
    activation: str = "relu"
    dropout: float = 0.0  # probability, after each hidden layer, stage or branch of a vit
    batch_norm: bool = False
    bias: bool = True
    pooling: str = "max"  # by 2 after each cnn layer, or between resnet stages
    head: str = "flatten"  # or global: an average over the image; or token: a vit's class token
    projection: bool = True  # resnet: a 1x1 convolution on the shortcut where widths change
    kernel_sizes: tuple[int, ...] = ()  # of each cnn layer or resnet stage
    padding: str = "same"  # or valid (cnn): none, so that a kernel shrinks the image
    stride: int = 1  # of each cnn convolution
    num_pooled: int | None = None  # only the first so many poolings are done; None for all
    pool_first: bool = False  # cnn: pooling before the activation, not after it
    linear: tuple[int, ...] = ()  # cnn, resnet: units of hidden layers between head and output
    stream_dim: int = 32  # vit: width of the residual stream
    num_heads: int = 4  # vit: heads of each block; they share stream_dim
    patch_size: int = 4  # vit: pixels along the side of a patch

    def __post_init__(self) -> None:
        for name in ("hidden", "kernel_sizes", "linear"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, allowed in (
            ("kind", KINDS),
            ("activation", ACTIVATIONS),
            ("pooling", POOLINGS),
            ("padding", PADDINGS),
            ("head", HEADS),
        ):
            check_choice(name, getattr(self, name), allowed)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must hold positive widths, got {list(self.hidden)}")
        if self.linear and min(self.linear) < 1:
            raise ValueError(f"linear must hold positive widths, got {list(self.linear)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.num_pooled is not None and self.num_pooled < 0:
            raise ValueError(f"num_pooled must not be negative, got {self.num_pooled}")
        if self.stride < 1:
            raise ValueError(f"stride must be positive, got {self.stride}")
        if self.head == "token" and self.kind != "vit":
            raise ValueError(f"head=token needs a class token, which a {self.kind} does not have")
        self._check_kernels()
        if self.kind == "resnet":
            self._check_resnet()
        if self.kind == "vit":
            self._check_vit()

    def _check_kernels(self) -> None:
        if self.kernel_sizes and len(self.kernel_sizes) != len(self.hidden):
            raise ValueError(
                f"kernel_sizes has {len(self.kernel_sizes)} entries for "
                f"{len(self.hidden)} layers of hidden"
            )
        for name, sizes in (
            ("kernel_size", [self.kernel_size]),
            ("kernel_sizes", list(self.kernel_sizes)),
        ):
            if any(size < 1 for size in sizes):
                raise ValueError(f"{name} must be positive, got {sizes}")
            if self.padding == "same" and any(size % 2 == 0 for size in sizes):
                raise ValueError(f"{name} must be odd with padding=same, got {sizes}")

    def _check_resnet(self) -> None:
        if not self.projection and len(set(self.hidden)) > 1:
            raise ValueError(
                "a resnet without projection needs stages of one width, "
                f"got hidden={list(self.hidden)}"
            )
        if self.padding != "same" or self.stride != 1:
            raise ValueError(
                "a resnet adds images of one size, so it needs padding=same and stride=1, "
                f"got {self.padding} and {self.stride}"
            )

    def _check_vit(self) -> None:
        if self.batch_norm:
            raise ValueError("a vit has layer norms, not batch_norm")
        if min(self.stream_dim, self.num_heads, self.patch_size) < 1:
            raise ValueError(
                "stream_dim, num_heads and patch_size must be positive, got "
                f"{self.stream_dim}, {self.num_heads} and {self.patch_size}"
            )
        if self.stream_dim % self.num_heads:
            raise ValueError(
                f"num_heads must divide stream_dim, got {self.num_heads} and {self.stream_dim}"
            )

    @property
    def kernels(self) -> tuple[int, ...]:
        """The kernel size of each layer or stage."""
        return self.kernel_sizes or (self.kernel_size,) * len(self.hidden)

    @property
    def label(self) -> str:
        """A short name, such as `cnn-8-12-relu`."""
        widths = [*self.hidden, *(f"linear{width}" for width in self.linear)]
        return "-".join([self.kind, *map(str, widths), self.activation])

    def to_columns(self) -> dict[str, Any]:
        """The design as one plain value a field; lists become text such as `8-12`."""
        return {
            name: "-".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in self._items()
        }

    def to_mapping(self) -> dict[str, Any]:
        """The design as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._items()
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_mapping`; fields that are not there have their defaults.

        Raises:
            ValueError: an unknown key, a wrong type, a value out of range.
        """
        return parse_dataclass(cls, content, "network")

    def _items(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]
