"""Operators that fold axes: sums, means, extremes, counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..call import OPERATORS, Call, axis_of, operator

Fold = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _sum_like(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


FOLDS: dict[str, Fold] = {
    "ReduceL1": lambda x, axes, keep: _sum_like(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: _sum_like(x * x, axes, keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: _sum_like(x, axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: torch.mean(x, axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceSum": _sum_like,
    "ReduceSumSquare": lambda x, axes, keep: _sum_like(x * x, axes, keep),
}


def _fold(call: Call) -> Tensor:
    x = call[0]
    axes = call.numbers(1, "axes")
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return x
    found = [axis_of(a, x.dim()) for a in axes] if axes else list(range(x.dim()))
    return FOLDS[call.node.op](x, found, bool(call.attribute("keepdims", 1)))


OPERATORS.update({name: _fold for name in FOLDS})


@operator("ArgMax", "ArgMin")
def place_of_extreme(call: Call) -> Tensor:
    function = torch.argmax if call.node.op == "ArgMax" else torch.argmin
    return function(call[0], call.attribute("axis", 0), keepdim=bool(call.attribute("keepdims", 1)))


@operator("CumSum")
def cumulative_sum(call: Call) -> Tensor:
    x, axis = call[0], axis_of(int(call.required(1)[0]), call[0].dim())
    backwards, before = call.attribute("reverse", 0), call.attribute("exclusive", 0)
    x = x.flip(axis) if backwards else x
    found = torch.cumsum(x, axis, dtype=x.dtype)
    found = found - x if before else found
    return found.flip(axis) if backwards else found


@operator("TopK")
def largest(call: Call) -> tuple[Tensor, Tensor]:
    count = int(call.required(1, "k")[0])
    found = torch.topk(
        call[0], count, call.attribute("axis", -1), largest=bool(call.attribute("largest", 1))
    )
    return found.values, found.indices
