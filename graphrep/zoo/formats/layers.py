"""What modules of foreign zoos are made of, and each of their designs traced once.

A design is plain JSON that a format's `build` turns into a module. Knows no files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ...architecture import Architecture
from ...graph import to_graph

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "linear": nn.Identity,
}


class TracedDesigns:
    """The architecture of each design, traced when it is first met.

    Args:
        build: The module of a design; every design has `input_shape` (of one input, without
            the batch) and `dtype`.
    """

    def __init__(self, build: Callable[[Mapping[str, Any]], nn.Module]) -> None:
        self._build = build
        self._known: dict[str, Architecture] = {}

    def architecture(self, design: Mapping[str, Any], name: str) -> Architecture:
        """The design's architecture, called `name` if it is new."""
        key = json.dumps(design, sort_keys=True)
        if key not in self._known:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = self._build(design)
                example = torch.randn(2, *design["input_shape"]).to(dtype_of(design))
                self._known[key] = to_graph(module, example, name=name).architecture
        return self._known[key]


def dtype_of(design: Mapping[str, Any]) -> torch.dtype:
    """The type of a design's weights."""
    dtype = getattr(torch, design["dtype"])
    assert isinstance(dtype, torch.dtype)
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """How a design writes a type down: `float32`."""
    return str(dtype).removeprefix("torch.")
