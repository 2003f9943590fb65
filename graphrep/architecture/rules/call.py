"""One dispatched operation as a rule sees it, and the table that rules enter.

Knows labels and the ledger; knows no particular operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..labels import (
    NONE,
    ZERO,
    Activation,
    Derived,
    Ledger,
    Pointer,
    Reference,
    Tracked,
    varying_dims,
)


@dataclass
class Call:
    """One dispatched operation: operands, result, and the labels known of them."""

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    ledger: Ledger
    lookup: Callable[[Tensor], Tracked | None]
    statistic: Callable[[Tensor], Reference | None]  # a buffer, as normalisation statistic
    held: Any  # buffers of one axis and copies of them -> Reference
    results: list[tuple[Tensor, Tracked]] = field(default_factory=list)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by its name in the operation's schema."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def tracked(self, value: Any) -> Tracked | None:
        return self.lookup(value) if isinstance(value, Tensor) else None

    def labels(self, value: Tensor) -> Tensor:
        """Labels of any operand; NONE for a constant, positions for a bare parameter."""
        match self.lookup(value):
            case Activation(labels):
                return labels
            case Reference() as reference:
                return self.as_activation(reference)
            case Derived(coords) if len(coords) == 1:
                self.ledger.place_along(coords[0])
                return coords[0]
            case Derived() as derived:
                self.ledger.give_up(derived, "it is computed from weights along several axes")
                return torch.full((1,) * value.dim(), NONE).expand(value.shape)
            case Pointer(atoms):
                self.ledger.freeze(atoms, "numbers that point to its units are computed with")
                return torch.full((1,) * value.dim(), NONE).expand(value.shape)
            case _:
                return torch.full((1,) * value.dim(), NONE).expand(value.shape)

    def as_activation(self, reference: Reference) -> Tensor:
        """A parameter in the place of an activation, such as a class token: last axis units."""
        use = self.ledger.use(reference.name, "position")
        if reference.experts is not None:
            self.ledger.freeze(reference.experts, "it chooses more than a slice of weights")
        wide = [k for k, coords in enumerate(reference.coords) if varying_dims(coords)]
        for axis in range(len(reference.coords)):
            if axis not in wide:
                use.place("position", axis)
        for axis in wide[:-1]:
            use.place("position", axis)
            self.ledger.freeze(reference.coords[axis], "")
        if not wide:
            self.ledger.give_up(reference, "a scalar among activations")
            return torch.full((), NONE).expand(self.out_shape(reference))
        use.place("unit", wide[-1])
        return reference.coords[wide[-1]]

    @staticmethod
    def out_shape(reference: Reference) -> torch.Size:
        return reference.coords[0].shape if reference.coords else torch.Size()

    def give(
        self,
        labels: Tensor,
        out: Tensor | None = None,
        producer: str = "",
        keeps_zero: bool = False,
    ) -> None:
        """Set the labels of a result; zeros stay known as such only where a rule says so."""
        out = self.out if out is None else out
        if not keeps_zero and bool((labels == ZERO).any()):
            labels = torch.where(labels == ZERO, NONE, labels)
        self.results.append((out, Activation(labels.expand(out.shape), producer)))

    def give_none(self) -> None:
        """All results are computed values without labels."""
        for out in tensors_in(self.out):
            self.give(torch.full((1,) * out.dim(), NONE), out)

    def record(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], **settings: Any) -> None:
        """Remember the operation for the architecture's list of operations."""
        self.ledger.operations.append(
            {
                "name": self.name,
                "inputs": [_sample(t) for t in inputs],
                "outputs": [_sample(t) for t in outputs],
                "settings": tuple(sorted((k, _plain(v)) for k, v in settings.items())),
                "module": self.ledger.context[1],
            }
        )


def _sample(labels: Tensor) -> Tensor:
    """Every atom once, for naming the unit groups later."""
    for dim in range(labels.dim()):
        if labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, min(1, labels.shape[dim]))
    return torch.unique(labels[labels >= 0])


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_in(v)]
    return []


@dataclass(frozen=True)
class Rule:
    """What one operation does to labels; `says` is the line of the catalogue."""

    name: str
    apply: Callable[[Call], None]
    says: str


RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Callable[[Call], None]], Callable[[Call], None]]:
    """Enter a function into the table for each of the named aten operations."""

    def enter(function: Callable[[Call], None]) -> Callable[[Call], None]:
        for name in names.split():
            assert name not in RULES, name
            RULES[name] = Rule(name, function, (function.__doc__ or "").strip())
        return function

    return enter


def settings(call: Call, *names: str) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, tensors left out."""
    found = dict(call.kwargs)
    for argument, value in zip(call.func._schema.arguments, call.args, strict=False):
        found[argument.name] = value
    return {k: v for k, v in found.items() if (not names or k in names) and not tensors_in(v)}


def give_up(call: Call) -> None:
    """No rule: everything that the operation touches keeps its place."""
    for value in tensors_in([*call.args, *call.kwargs.values()]):
        tracked = call.tracked(value)
        if tracked is not None:
            call.ledger.give_up(tracked, "no rule for this operation")
    call.give_none()
