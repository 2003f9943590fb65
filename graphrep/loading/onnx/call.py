"""What an operator is handed: working tensors, known values, settings.

A value is *known* when it follows from shapes and constants alone. Only known values
decide sizes, so that a graph has the same operations whatever numbers flow through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .file import Node

Result = Tensor | Sequence[Tensor]
MOST_NUMBERS = 1 << 16  # of a known value that is read as sizes


class Unsupported(Exception):
    """What this node asks for that is not done here, in words."""


@dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on inputs or weights, also as numbers."""

    tensor: Tensor
    numbers: tuple[Any, ...] | None

    @classmethod
    def of(cls, tensor: Tensor) -> Known:
        small = tensor.numel() <= MOST_NUMBERS
        return cls(tensor, tuple(tensor.flatten().tolist()) if small else None)


@dataclass(frozen=True, eq=False)
class Call:
    """One run of one node. Indices count its inputs; one left out reads as None."""

    node: Node
    values: Sequence[Tensor | None]
    known: Sequence[Known | None]
    dtype: torch.dtype | None = None  # a wider float than the file's, while symmetries are checked

    def __getitem__(self, index: int) -> Tensor:
        value = self.get(index)
        if value is None:
            raise Unsupported(f"lacks its input {index}")
        return value

    def __len__(self) -> int:
        return len(self.values)

    def get(self, index: int) -> Tensor | None:
        return self.values[index] if index < len(self.values) else None

    def tensors(self) -> list[Tensor]:
        """All inputs, none left out."""
        return [self[i] for i in range(len(self.values))]

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def numbers(self, index: int, name: str = "") -> list[Any] | None:
        """Numbers from an attribute of old opsets or from an input of newer ones, else None."""
        if name in self.node.attributes:
            found = self.node.attributes[name]
            return list(found) if isinstance(found, list) else [found]
        if self.get(index) is None:
            return None
        known = self.known[index]
        if known is None:
            raise Unsupported("takes sizes or places from values that inputs or weights decide")
        if known.numbers is None:
            raise Unsupported(f"reads {known.tensor.numel():,} numbers as sizes")
        return list(known.numbers)

    def required(self, index: int, name: str = "") -> list[Any]:
        found = self.numbers(index, name)
        if found is None:
            raise Unsupported(f"lacks its input {index} or attribute '{name}'")
        return found

    def number(self, index: int, name: str = "", default: Any = None) -> Any:
        found = self.numbers(index, name)
        return default if not found else found[0]


Operator = Callable[[Call], Result]
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Enter a function under the names of ONNX operators that it runs."""

    def enter(function: Operator) -> Operator:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function

    return enter


def axis_of(axis: int, dim: int) -> int:
    """An axis counted from the front.

    Raises:
        Unsupported: out of range.
    """
    if not -dim <= axis < max(dim, 1):
        raise Unsupported(f"names axis {axis} of a tensor with {dim}")
    return axis % max(dim, 1)
