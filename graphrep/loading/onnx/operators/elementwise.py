"""Operators that act on every element alone, or on pairs after broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import OPERATORS, Call, Unsupported, operator
from ..tensors import torch_type

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call[0], call[1])


OPERATORS.update({name: _unary(function) for name, function in UNARY.items()})
OPERATORS.update({name: _binary(function) for name, function in BINARY.items()})


@operator("Identity")
def identity(call: Call) -> Tensor:
    return call[0]


@operator("Dropout")
def dropout(call: Call) -> list[Tensor]:
    """Nothing is dropped outside of training; the second output is the mask."""
    return [call[0], torch.ones_like(call[0], dtype=torch.bool)][: len(call.node.outputs)]


@operator("Div")
def div(call: Call) -> Tensor:
    whole = not (call[0].is_floating_point() or call[0].is_complex())
    return torch.div(call[0], call[1], rounding_mode="trunc" if whole else None)


@operator("Mod")
def mod(call: Call) -> Tensor:
    return (torch.fmod if call.attribute("fmod", 0) else torch.remainder)(call[0], call[1])


@operator("Pow")
def power(call: Call) -> Tensor:
    exponent = call.known[1]
    if exponent is not None and exponent.tensor.numel() == 1 and call[0].is_floating_point():
        shape = torch.broadcast_shapes(call[0].shape, exponent.tensor.shape)
        return torch.pow(call[0], float(call.number(1))).expand(shape)
    return torch.pow(call[0], call[1]).to(call[0].dtype)


@operator("Sum")
def total(call: Call) -> Tensor:
    return reduce(torch.add, call.tensors())


@operator("Mean")
def mean(call: Call) -> Tensor:
    return reduce(torch.add, call.tensors()) / len(call)


@operator("Max")
def maximum(call: Call) -> Tensor:
    return reduce(torch.maximum, call.tensors())


@operator("Min")
def minimum(call: Call) -> Tensor:
    return reduce(torch.minimum, call.tensors())


@operator("Where")
def where(call: Call) -> Tensor:
    return torch.where(call[0].bool(), call[1], call[2])


@operator("IsInf")
def is_infinite(call: Call) -> Tensor:
    return torch.isinf(call[0])


@operator("Clip")
def clip(call: Call) -> Tensor:
    low, high = call.number(1, "min"), call.number(2, "max")
    return call[0] if low is None and high is None else torch.clamp(call[0], low, high)


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call[0], call.attribute("alpha", 0.01))


@operator("Elu")
def elu(call: Call) -> Tensor:
    return F.elu(call[0], call.attribute("alpha", 1.0))


@operator("Celu")
def celu(call: Call) -> Tensor:
    return F.celu(call[0], call.attribute("alpha", 1.0))


@operator("Selu")
def selu(call: Call) -> Tensor:
    """torch knows one alpha and one gamma, those that the paper derives."""
    alpha, gamma = call.attribute("alpha", 1.67326319), call.attribute("gamma", 1.05070102)
    if abs(alpha - 1.67326319) > 1e-4 or abs(gamma - 1.05070102) > 1e-4:
        raise Unsupported(f"has alpha {alpha} and gamma {gamma}")
    return torch.selu(call[0])


@operator("Gelu")
def gelu(call: Call) -> Tensor:
    return F.gelu(call[0], approximate=call.attribute("approximate", "none"))


@operator("Swish")
def swish(call: Call) -> Tensor:
    return call[0] * torch.sigmoid(call.attribute("alpha", 1.0) * call[0])


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    return torch.clamp(alpha * call[0] + beta, 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Tensor:
    return F.threshold(call[0], call.attribute("alpha", 1.0), 0.0)


@operator("Shrink")
def shrink(call: Call) -> Tensor:
    x, bias, edge = call[0], call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, x * 0))


@operator("PRelu")
def prelu(call: Call) -> Tensor:
    x, slope = call[0], call[1]
    per_channel = x.dim() > 1 and slope.dim() == x.dim() - 1 and slope.shape[1:].numel() == 1
    if per_channel and slope.shape[0] == x.shape[1]:
        return F.prelu(x, slope.flatten())
    return torch.where(x < 0, slope * x, x)


@operator("Cast")
def cast(call: Call) -> Tensor:
    dtype = torch_type(call.attribute("to", 1), "its target")
    return call[0].to(_wider(call, dtype))


@operator("CastLike")
def cast_like(call: Call) -> Tensor:
    return call[0].to(call[1].dtype)


def _wider(call: Call, dtype: torch.dtype) -> torch.dtype:
    """The wider float that stands for float32 while symmetries are checked in it."""
    wide = call.dtype is not None and dtype == torch.float32 and call[0].dtype != torch.bool
    return call.dtype if wide and call.dtype is not None else dtype
