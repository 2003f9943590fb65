"""Operators that make values of their own: shapes, constants, ranges, masks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call, Unsupported, operator
from ..tensors import torch_type

SETTINGS = {  # of a Constant, and the type that each gives
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}


@operator("Constant")
def constant(call: Call) -> Tensor:
    value = call.attribute("value")
    if isinstance(value, Tensor):
        return value
    for name, dtype in SETTINGS.items():
        if name in call.node.attributes:
            return torch.tensor(call.attribute(name), dtype=dtype)
    raise Unsupported("holds no tensor of numbers")


@operator("Shape")
def shape(call: Call) -> Tensor:
    end = call.attribute("end")
    sizes = list(call[0].shape)[call.attribute("start", 0) : end]
    return torch.tensor(sizes, dtype=torch.int64)


@operator("Size")
def size(call: Call) -> Tensor:
    return torch.tensor(call[0].numel(), dtype=torch.int64)


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Tensor:
    value = call.attribute("value")
    sizes = [int(s) for s in call.required(0)]
    if value is None:
        return torch.zeros(sizes)
    return torch.full(sizes, value.flatten()[0].item(), dtype=value.dtype)


@operator("Range")
def range_(call: Call) -> Tensor:
    start, end, step = (call.required(i)[0] for i in range(3))
    return torch.arange(start, end, step, dtype=call[0].dtype)


@operator("EyeLike")
def eye_like(call: Call) -> Tensor:
    rows, columns = call[0].shape
    number = call.attribute("dtype")
    dtype = call[0].dtype if number is None else torch_type(number, "its result")
    ones = torch.ones(rows, columns, dtype=dtype)
    offset = call.attribute("k", 0)
    return ones.triu(offset).tril(offset)


@operator("NonZero")
def non_zero(call: Call) -> Tensor:
    if call.known[0] is None:
        raise Unsupported("gives as many places as values that inputs or weights decide")
    return call[0].nonzero().t()


@operator("OneHot")
def one_hot(call: Call) -> Tensor:
    depth, axis = int(call.required(1)[0]), call.attribute("axis", -1)
    places = torch.where(call[0] < 0, call[0] + depth, call[0]).long()
    off, on = call[2].unbind(0)
    found = torch.where(places.unsqueeze(-1) == torch.arange(depth), on, off)
    return found if axis == -1 else found.movedim(-1, axis)
