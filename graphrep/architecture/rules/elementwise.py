"""Rules of functions of each element, and of operands that meet element by element."""

from __future__ import annotations

import torch

from ..labels import NONE, Activation, Derived, Pointer, Reference
from .call import Call, give_up, rule, settings, tensors_in
from .deriving import derive
from .meeting import attach, meet
from .routing import compare_pointer

ACTIVATIONS = (
    "relu relu6 tanh sigmoid gelu silu leaky_relu elu softplus hardtanh hardswish hardsigmoid mish "
    "softsign hardshrink softshrink log_sigmoid_forward rrelu_with_noise sin cos erf threshold"
)
UNARY = (
    "neg abs exp exp2 expm1 log log2 log1p log10 sqrt rsqrt reciprocal sign floor ceil round "
    "trunc frac square tan asin acos atan sinh cosh asinh acosh atanh "
    "logit logical_not bitwise_not isnan isinf isfinite nan_to_num native_dropout angle erfc"
)

KEEP_ZERO = (  # zero goes to zero
    "relu relu6 tanh gelu silu leaky_relu elu mish softsign hardshrink softshrink sin erf neg abs "
    "expm1 log1p sqrt sign floor ceil round trunc square tan asin atan sinh asinh nan_to_num "
    "native_dropout"
)


@rule(ACTIVATIONS)
def activation(call: Call) -> None:
    """An activation function passes labels on."""
    unary(call)
    value = call.tracked(call.args[0])
    if isinstance(value, Activation):
        call.record([value.labels], [value.labels], **settings(call))


@rule(UNARY)
def unary(call: Call) -> None:
    """A function of each element passes labels on."""
    tracked = call.tracked(call.args[0])
    if isinstance(tracked, Pointer):
        return give_up(call)
    if isinstance(tracked, Reference | Derived):
        call.results.append((tensors_in(call.out)[0], tracked))
    elif tracked is not None:
        for out in tensors_in(call.out):
            if out.shape == tracked.labels.shape:
                call.give(tracked.labels, out, keeps_zero=call.name in KEEP_ZERO.split())


@rule(
    "add sub rsub mul div true_divide floor_divide pow maximum minimum fmin fmax fmod remainder "
    "atan2 where lerp addcmul addcdiv masked_fill eq ne lt le gt ge logical_and logical_or "
    "logical_xor bitwise_and bitwise_or bitwise_xor hypot copysign xlogy clamp clamp_min clamp_max"
)
def elementwise(call: Call) -> None:
    """Operands that meet element by element are tied; different constants tell units apart."""
    operands = [t for t in tensors_in([*call.args, *call.kwargs.values()])]
    tracked = [call.tracked(t) for t in operands]
    activations = [t for t, k in zip(operands, tracked, strict=True) if isinstance(k, Activation)]
    references = [k for k in tracked if isinstance(k, Reference)]
    pointers = [t for t, k in zip(operands, tracked, strict=True) if isinstance(k, Pointer)]
    if pointers and compare_pointer(call, pointers, operands):
        return
    if not activations and pointers:
        return give_up(call)
    weights = [k for k in tracked if isinstance(k, Reference | Derived)]
    if not activations:
        plain = all(t.numel() == 1 for t in operands if call.tracked(t) is None)
        if weights and plain:
            return derive(call, weights)
        if not references:
            return give_up(call)
        activations = [t for t, k in zip(operands, tracked, strict=True) if k is references[0]][:1]
    activations.sort(key=lambda t: not bool((call.labels(t) >= 0).any()))
    first = activations[0]
    labels = call.labels(first).expand(call.out.shape)
    if bool((call.labels(first) == NONE).all()):
        labels = torch.full((1,) * call.out.dim(), NONE).expand(call.out.shape)
    others = [t for t in operands if t is not first]
    others.sort(key=lambda t: not isinstance(call.tracked(t), Activation))
    for number, other in enumerate(others):
        labels = meet(call, labels, other, first if number == 0 else None)
    if len(activations) > 1:
        call.record([call.labels(t) for t in activations], [labels])
    numbers = [a for a in call.args[:2] if isinstance(a, int | float)]
    sums = call.name in ("add", "sub") and len(activations) == len(operands) and not numbers
    call.give(labels, keeps_zero=call.name == "mul" or sums)


@rule("_prelu_kernel prelu")
def prelu(call: Call) -> None:
    """A slope for each channel is a feature of its unit."""
    labels = call.labels(call.args[0])
    weight = call.tracked(call.args[1])
    if isinstance(weight, Reference):
        attach(call, weight, labels, role="slope")
    call.record([labels], [labels])
    call.give(labels)


@rule("glu")
def gated(call: Call) -> None:
    """A gated linear unit ties each channel to its gate."""
    dim = call.arg(1, "dim", -1)
    value, gate = call.labels(call.args[0]).chunk(2, dim)
    call.ledger.tie(value, gate)
    call.record([value], [value], dim=dim)
    call.give(value)


@rule("_local_scalar_dense item is_nonzero equal")
def read_in_python(call: Call) -> None:
    """A value read by Python steers the path that was traced; its units are frozen."""
    for value in tensors_in(call.args):
        tracked = call.tracked(value)
        if tracked is not None:
            why = "Python read a computed value; this is the path it took"
            call.ledger.remark("control flow", why)
            if isinstance(tracked, Pointer):  # it may only choose a slice of stacked weights
                call.ledger.choosers.append(tracked.atoms)
                call.ledger.last_read = (int(value), tracked.atoms) if not value.is_meta else None
            else:
                call.ledger.give_up(tracked, "Python read its value")
