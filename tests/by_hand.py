"""Short ways to write units and blocks down, for architectures built by hand."""

from __future__ import annotations

from typing import Any

from graphrep.architecture.spec import Block, Parent, Span, Units


def span(units: str, size: int, **settings: Any) -> Span:
    return Span(units=units, size=size, **settings)


def within(units: str, every: int) -> Parent:
    return Parent(units=units, every=every)


def hidden(name: str, size: int, *parents: Parent, activation: str = "") -> Units:
    activations = (activation,) if activation else ()
    return Units(name=name, size=size, kind="hidden", activations=activations, parents=parents)


def ends(inputs: int, outputs: int) -> tuple[Units, Units]:
    """Input and output units."""
    return (
        Units(name="input", size=inputs, kind="input"),
        Units(name="output", size=outputs, kind="output"),
    )


def weight(tensor: str, target: Span, source: Span, *more: Span, **settings: Any) -> Block:
    """A dense block [target, source, ...]."""
    values = {
        "name": tensor, "role": "weight", "axes": (target, source, *more),
        "source": source.units, "target": target.units, "source_axis": 1, "target_axis": 0,
    }  # fmt: skip
    return Block(tensor=tensor, kind="dense", **{**values, **settings})


def bias(tensor: str, target: Span, role: str = "bias", leader: str = "", **settings: Any) -> Block:
    """A number a unit; the bias of x.weight is called x.bias."""
    return Block(
        name=settings.pop("name", tensor), tensor=tensor, kind="diagonal", role=role,
        axes=(target,), target=target.units, target_axis=0,
        leader=leader or tensor.replace("bias", "weight"), **settings,
    )  # fmt: skip
