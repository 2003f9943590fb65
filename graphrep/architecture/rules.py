"""The table of rules: what each primitive operation does to unit labels.

One rule an operation (or a family that behaves alike). A rule reads the labels
of an operation's operands and says three things: which labels the result
carries, which atoms must move together, and which must not move. An operation
without a rule freezes all that it touches, so a missing rule costs symmetry,
never soundness. The numeric check in `verify.py` is what holds a rule to its word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .labels import (
    NONE,
    ZERO,
    Activation,
    Ledger,
    Reference,
    Tracked,
    index_of,
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
            case _:
                return torch.full((1,) * value.dim(), NONE).expand(value.shape)

    def as_activation(self, reference: Reference) -> Tensor:
        """A parameter in the place of an activation, such as a class token: last axis units."""
        use = self.ledger.use(reference.name, "position")
        wide = [k for k, coords in enumerate(reference.coords) if varying_dims(coords)]
        for axis in wide[:-1]:
            use.axis_parts.setdefault(axis, "position")
            self.ledger.freeze(reference.coords[axis], "")
        if not wide:
            self.ledger.give_up(reference, "a scalar among activations")
            return torch.full((), NONE).expand(self.out_shape(reference))
        use.axis_parts.setdefault(wide[-1], "unit")
        return reference.coords[wide[-1]]

    @staticmethod
    def out_shape(reference: Reference) -> torch.Size:
        return reference.coords[0].shape if reference.coords else torch.Size()

    def give(self, labels: Tensor, out: Tensor | None = None, producer: str = "") -> None:
        """Set the labels of a result."""
        out = self.out if out is None else out
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


# Shared steps -----------------------------------------------------------------


def meet(call: Call, labels: Tensor, operand: Tensor) -> Tensor:
    """Labels [out] face another operand element by element; the labels of the result."""
    ledger = call.ledger
    match call.lookup(operand):
        case None:
            face_constant(call, labels, operand)
            return labels
        case Reference() as reference:
            attach(call, reference, labels)
            return labels
        case Activation(other):
            untold = other == NONE
            if untold.any() and operand.numel() > 1:
                numbers = torch.where(untold, index_of(operand.shape), -1)
                where = (numbers >= 0).expand(labels.shape)
                ledger.colour(
                    torch.where(where, labels, NONE) if not untold.all() else labels,
                    numbers.expand(labels.shape),
                )
            wide = other.expand(labels.shape)
            if bool((wide >= 0).any()):
                if bool((labels == NONE).any()):
                    reverse = torch.where(labels == NONE, wide, NONE)
                    ledger.colour(reverse, index_of(labels.shape))
                ledger.tie(
                    torch.where(labels == NONE, ZERO, labels),
                    torch.where(wide == NONE, ZERO, wide),
                )
                return torch.where(labels >= 0, labels, torch.maximum(labels, wide))
            return torch.where(labels >= 0, labels, torch.maximum(labels, wide))


def face_constant(call: Call, labels: Tensor, operand: Tensor) -> None:
    """Units that meet different constants cannot be exchanged."""
    if operand.numel() <= 1:
        return
    dims = varying_dims(labels)
    if operand.is_meta or operand.dim() > labels.dim():
        own = [d - labels.dim() + operand.dim() for d in dims]
        if any(o >= 0 and operand.shape[o] > 1 for o in own):
            call.ledger.freeze(labels, "it meets a constant whose values are not known")
        return
    values = operand.detach().expand(labels.shape)
    told = [d for d in dims if values.stride(d) != 0]
    if not told:
        return
    if len(dims) > 1:
        if not bool((values == values.reshape(-1)[0]).all()):
            call.ledger.freeze(labels, "it meets constants that differ from unit to unit")
        return
    (dim,) = told
    rows = values.movedim(dim, 0).reshape(values.shape[dim], -1)
    _, colours = torch.unique(torch.nan_to_num(rows.double()), dim=0, return_inverse=True)
    shape = [1] * labels.dim()
    shape[dim] = -1
    call.ledger.colour(labels, colours.view(shape).expand(labels.shape))


def attach(call: Call, reference: Reference, labels: Tensor, role: str = "") -> None:
    """A parameter meets an activation element by element: it belongs to the units it meets."""
    ledger = call.ledger
    leader = ""
    for value in call.args[:2]:
        match call.tracked(value):
            case Activation(_, producer) if producer:
                leader = producer
    role = role or {"add": "bias", "sub": "bias", "mul": "scale", "div": "scale"}.get(
        call.name, "other"
    )
    use = ledger.use(reference.name, role, leader if role == "bias" else "")
    dims = varying_dims(labels)
    lone = not dims and bool((labels >= 0).any())
    for axis, coords in enumerate(reference.coords):
        wide = coords.expand(labels.shape)
        moving = varying_dims(wide)
        if (moving & dims) or (lone and not moving):
            use.axis_parts.setdefault(axis, "unit")
            ledger.tie(wide, labels)
        else:
            use.axis_parts.setdefault(axis, "position")
            ledger.freeze(coords, "")


def contract_weight(
    call: Call, x: Tensor, weight: Reference, in_dim: int, out_dim: int
) -> Tensor | None:
    """Tie inputs to the weight's axis along `in_dim`; the labels along its `out_dim`, [m].

    `x` [..., k] holds the labels of the contracted operand, k last. None when
    the weight was reshaped so that its axes are mixed: all of it is given up.
    """
    ledger = call.ledger
    use = ledger.use(weight.name, "weight")
    parts: dict[str, int] = {}
    rank = weight.coords[0].dim() if weight.coords else 0
    moving = {k: varying_dims(c) for k, c in enumerate(weight.coords)}
    for part, dim in (("in", in_dim % rank), ("out", out_dim % rank)):
        along = [k for k, dims in moving.items() if dim in dims]
        if len(along) > 1 or any(moving[k] != {dim} for k in along):
            ledger.give_up(weight, "its axes are mixed by a reshape")
            ledger.freeze(x, "it meets a weight whose axes are mixed")
            return None
        if along:
            parts[part] = along[0]
    leftover = [k for k, dims in moving.items() if not dims and k not in parts.values()]
    for part in ("out", "in"):  # axes of size one
        if part not in parts and leftover:
            parts[part] = leftover.pop(0)
    for axis, coords in enumerate(weight.coords):
        if axis not in parts.values():
            use.axis_parts.setdefault(axis, "position")
            ledger.freeze(coords, "")
    for part, axis in parts.items():
        use.axis_parts.setdefault(axis, part)
    columns = _line(weight.coords[parts["in"]], in_dim)
    ledger.tie(x, columns.expand(x.shape))
    return _line(weight.coords[parts["out"]], out_dim)


def _line(coords: Tensor, dim: int) -> Tensor:
    """The coordinates along one dimension, [size]."""
    dim %= coords.dim()
    return coords[tuple(slice(None) if d == dim else 0 for d in range(coords.dim()))]


def matmul(call: Call, a: Tensor, b: Tensor) -> None:
    """Matrix product a [..., n, k] @ b [..., k, m]."""
    ledger, ta, tb = call.ledger, call.tracked(a), call.tracked(b)
    match ta, tb:
        case None, None:
            return
        case Reference(), Reference():
            ledger.give_up(ta, "a product of two parameters")
            ledger.give_up(tb, "a product of two parameters")
            call.give_none()
        case _, Reference():
            rows = contract_weight(call, call.labels(a), tb, -2, -1)
            if rows is None:
                return call.give_none()
            call.record([call.labels(a)], [rows])
            call.give(rows, producer=tb.name)
        case Reference(), _:
            rows = contract_weight(call, call.labels(b).movedim(-2, -1), ta, -1, -2)
            if rows is None:
                return call.give_none()
            call.record([call.labels(b)], [rows])
            call.give(rows.unsqueeze(-1), producer=ta.name)
        case _:
            product_of_activations(call, a, b)


def product_of_activations(call: Call, a: Tensor, b: Tensor) -> None:
    """Queries with keys, attention with values: what is contracted is tied pairwise."""
    ledger = call.ledger
    if call.tracked(a) is None or call.tracked(b) is None:
        labelled = a if call.tracked(b) is None else b
        ledger.freeze(call.labels(labelled), "it is multiplied with a constant matrix")
        return call.give_none()
    la, lb = call.labels(a), call.labels(b)
    batch = index_of(torch.Size([*call.out.shape[:-2], 1, 1]))
    ledger.colour(la, batch.expand(*batch.shape[:-2], *la.shape[-2:]).expand(la.shape))
    ledger.colour(lb, batch.expand(*batch.shape[:-2], *lb.shape[-2:]).expand(lb.shape))
    va, vb = varying_dims(la), varying_dims(lb)
    n, k_a, k_b, m = la.dim() - 2, la.dim() - 1, lb.dim() - 2, lb.dim() - 1
    if k_a in va or k_b in vb or la.shape[-1] == 1:
        if n in va or m in vb:
            ledger.freeze(la, "it is contracted over units that differ from row to row")
            ledger.freeze(lb, "it is contracted over units that differ from row to row")
        else:
            ledger.tie(la.narrow(n, 0, 1).unsqueeze(-1), lb.narrow(m, 0, 1).unsqueeze(-3))
        call.give_none()
    elif m in vb and n not in va:
        call.give(lb.narrow(k_b, 0, 1))
    elif n in va and m not in vb:
        call.give(la.narrow(k_a, 0, 1))
    else:
        ledger.freeze(la, "an outer product of units")
        ledger.freeze(lb, "an outer product of units")
        call.give_none()


def settings(call: Call, *names: str) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, tensors left out."""
    found = dict(call.kwargs)
    for argument, value in zip(call.func._schema.arguments, call.args, strict=False):
        found[argument.name] = value
    return {k: v for k, v in found.items() if (not names or k in names) and not tensors_in(v)}


# Data movement ------------------------------------------------------------------


def move(call: Call, labels: Tensor, value: Tensor) -> Any:
    """Do to the labels what was done to the values."""

    def swap(argument: Any) -> Any:
        if argument is value:
            return labels
        if isinstance(argument, list | tuple):
            return type(argument)(swap(a) for a in argument)
        return argument

    if call.name in ("view", "_unsafe_view", "reshape"):
        return labels.reshape(call.out.shape)
    return run_on_labels(call.func, tuple(swap(a) for a in call.args), call.kwargs)


def run_on_labels(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a movement on int64 labels, as float64 where it knows no integers."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "device", "memory_format")}
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError):
        whole = func(*_cast(args, torch.float64), **kwargs)
        return _cast(whole, torch.int64)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.int64, torch.float64):
        return value.to(dtype)
    if isinstance(value, list | tuple):
        return type(value)(_cast(v, dtype) for v in value)
    return value


@rule(
    "view _unsafe_view reshape t transpose permute unsqueeze squeeze expand slice select split "
    "split_with_sizes unsafe_split unsafe_split_with_sizes unsafe_chunk unbind chunk narrow "
    "movedim unfold diagonal repeat flip roll "
    "pixel_shuffle pixel_unshuffle channel_shuffle unflatten flatten upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d"
)
def movement(call: Call) -> None:
    """Data movement: the labels move with the data."""
    value = call.args[0]
    tracked = call.tracked(value)
    if tracked is None:
        return
    outs = tensors_in(call.out)
    if isinstance(tracked, Reference):
        moved = [tensors_in(move(call, coords, value)) for coords in tracked.coords]
        for i, out in enumerate(outs):
            coords = tuple(m[i] for m in moved)
            call.results.append((out, Reference(tracked.name, coords, plain=False)))
        return
    moved_labels = tensors_in(move(call, tracked.labels, value))
    producer = tracked.producer if call.name in ("view", "_unsafe_view", "reshape") else ""
    for out, labels in zip(outs, moved_labels, strict=True):
        call.give(labels, out, producer)
    if call.name in ("flip", "roll", "pixel_shuffle", "pixel_unshuffle") or "pad" in call.name:
        call.record([tracked.labels], moved_labels, **settings(call))


@rule("clone _to_copy detach alias contiguous lift_fresh lift_fresh_copy to positive copy")
def copies(call: Call) -> None:
    """A copy carries the labels of its original."""
    tracked = call.tracked(call.args[0])
    if tracked is not None:
        call.results.append((call.out, tracked))


@rule("copy_")
def overwrite(call: Call) -> None:
    """An assignment carries the labels of what is assigned."""
    call.give(call.labels(call.args[1]), call.out)


@rule("cat stack")
def join(call: Call) -> None:
    """Concatenation: labels stand beside each other."""
    parts = call.args[0]
    labels = [zero_or(call, part) for part in parts]
    dim = call.arg(1, "dim", 0)
    call.give((torch.cat if call.name == "cat" else torch.stack)(labels, dim))


def zero_or(call: Call, part: Tensor) -> Tensor:
    """Labels of a part of a concatenation; constants that are zero tell nothing apart."""
    if call.tracked(part) is None and not part.is_meta and not bool(part.any()):
        return torch.full((1,) * part.dim(), ZERO).expand(part.shape)
    return call.labels(part)


@rule("constant_pad_nd")
def pad(call: Call) -> None:
    """Padding: zeros tell nothing apart, other constants do."""
    labels = call.labels(call.args[0])
    value = call.arg(2, "value", 0)
    padded = torch.constant_pad_nd(labels, call.args[1], ZERO if value == 0 else NONE)
    call.record([labels], [padded], pad=call.args[1], value=value)
    call.give(padded)


@rule("as_strided")
def restride(call: Call) -> None:
    """Strided reading of a contiguous tensor moves labels; any other freezes them."""
    value = call.args[0]
    labels = call.labels(value)
    if value.is_contiguous() and value.storage_offset() == 0:
        call.give(labels.contiguous().as_strided(*call.args[1:3]))
    else:
        give_up(call)


@rule("index index_select gather take_along_dim")
def pick(call: Call) -> None:
    """Indexing by constants moves labels; by computed indices it freezes those it can tell."""
    value = call.args[0]
    indices = tensors_in(call.args[1:])
    tracked = call.tracked(value)
    known = all(call.tracked(i) is None and not i.is_meta for i in indices)
    if known and isinstance(tracked, Activation):
        call.give(tensors_in(move(call, tracked.labels, value))[0])
    elif known and isinstance(tracked, Reference):
        moved = tuple(tensors_in(move(call, coords, value))[0] for coords in tracked.coords)
        call.results.append((call.out, Reference(tracked.name, moved, plain=False)))
    else:
        give_up(call)


@rule("zeros zeros_like new_zeros")
def nothing(call: Call) -> None:
    """Zeros tell no unit from another."""
    call.give(torch.full((1,) * call.out.dim(), ZERO))


@rule(
    "empty empty_like new_empty empty_strided new_empty_strided ones ones_like new_ones full "
    "full_like new_full arange scalar_tensor eye rand rand_like randn randn_like linspace "
    "bernoulli _assert_tensor_metadata tril_indices triu_indices"
)
def constants(call: Call) -> None:
    """A constant carries no labels; its values are looked at where it meets units."""


# Element by element ---------------------------------------------------------------

ACTIVATIONS = (
    "relu relu6 tanh sigmoid gelu silu leaky_relu elu softplus hardtanh hardswish hardsigmoid mish "
    "softsign hardshrink softshrink log_sigmoid_forward rrelu_with_noise sin cos erf threshold"
)
UNARY = (
    "neg abs exp exp2 expm1 log log2 log1p log10 sqrt rsqrt reciprocal sign floor ceil round "
    "trunc frac clamp clamp_min clamp_max square tan asin acos atan sinh cosh asinh acosh atanh "
    "logit logical_not bitwise_not isnan isinf isfinite nan_to_num native_dropout angle erfc"
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
    if isinstance(tracked, Reference):
        call.results.append((tensors_in(call.out)[0], tracked))
    elif tracked is not None:
        for out in tensors_in(call.out):
            if out.shape == tracked.labels.shape:
                call.give(tracked.labels, out)


@rule(
    "add sub rsub mul div true_divide floor_divide pow maximum minimum fmin fmax fmod remainder "
    "atan2 where lerp addcmul addcdiv masked_fill eq ne lt le gt ge logical_and logical_or "
    "logical_xor bitwise_and bitwise_or bitwise_xor hypot copysign xlogy"
)
def elementwise(call: Call) -> None:
    """Operands that meet element by element are tied; different constants tell units apart."""
    operands = [t for t in tensors_in([*call.args, *call.kwargs.values()])]
    tracked = [call.tracked(t) for t in operands]
    activations = [t for t, k in zip(operands, tracked, strict=True) if isinstance(k, Activation)]
    references = [k for k in tracked if isinstance(k, Reference)]
    if not activations:
        if len(references) == 1 and all(
            t.numel() == 1 for t in operands if call.tracked(t) is None
        ):
            call.results.append((call.out, references[0]))
        elif references:
            give_up(call)
        return
    activations.sort(key=lambda t: not bool((call.labels(t) >= 0).any()))
    first = activations[0]
    labels = call.labels(first).expand(call.out.shape)
    if bool((call.labels(first) == NONE).all()):
        labels = torch.full((1,) * call.out.dim(), NONE).expand(call.out.shape)
    others = [t for t in operands if t is not first]
    others.sort(key=lambda t: not isinstance(call.tracked(t), Activation))
    for other in others:
        labels = meet(call, labels, other)
    if len(activations) > 1:
        call.record([call.labels(t) for t in activations], [labels])
    call.give(labels)


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


# Products -------------------------------------------------------------------------


@rule("mm bmm matmul dot mv")
def product(call: Call) -> None:
    """A matrix product with a weight ties inputs to its columns and gives its rows as labels."""
    a, b = call.args[0], call.args[1]
    if b.dim() == 1 or a.dim() == 1:
        give_up(call)
    else:
        matmul(call, a, b)


@rule("addmm baddbmm")
def affine(call: Call) -> None:
    """A matrix product, then a bias that belongs to the output units."""
    bias, a, b = call.args[:3]
    matmul(call, a, b)
    _, result = call.results[-1]
    assert isinstance(result, Activation)
    add_bias(call, bias, result.labels, result.producer)


@rule("linear")
def linear(call: Call) -> None:
    """A linear layer: a matrix product with the transposed weight, then a bias."""
    x, weight, bias = call.args[0], call.args[1], call.arg(2, "bias")
    tracked = call.tracked(weight)
    if not isinstance(tracked, Reference):
        return give_up(call)
    rows = contract_weight(call, call.labels(x), tracked, -1, -2)
    if rows is None:
        return call.give_none()
    labels = rows.expand(call.out.shape)
    call.record([call.labels(x)], [rows])
    call.give(labels, producer=tracked.name)
    if bias is not None:
        add_bias(call, bias, labels, tracked.name)


def add_bias(call: Call, bias: Tensor, labels: Tensor, leader: str) -> None:
    """A bias stands in the row of the weight before it."""
    match call.tracked(bias):
        case Reference() as reference:
            call.ledger.use(reference.name, "bias", leader)
            attach(call, reference, labels, role="bias")
        case _:
            meet(call, labels, bias)


@rule("convolution _convolution")
def convolution(call: Call) -> None:
    """A convolution ties input channels over batch and space and gives its filters as labels."""
    x, weight, bias = call.args[:3]
    groups, transposed = call.args[-1], call.args[6]
    if call.name == "_convolution":
        groups, transposed = call.args[8], call.args[6]
    tracked, labels, ledger = call.tracked(weight), call.labels(x), call.ledger
    if not isinstance(tracked, Reference):
        return give_up(call)
    channel = labels.dim() - (weight.dim() - 2) - 1
    channels = ledger.tie_along(labels, set(range(labels.dim())) - {channel})
    channels = channels.flatten()
    options = settings(
        call, "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    )
    if groups == 1:
        in_dim, out_dim = (0, 1) if transposed else (1, 0)
        rows = contract_weight(call, channels, tracked, in_dim, out_dim)
    elif not transposed and weight.shape[1] == 1:
        rows = depthwise(call, channels, tracked, weight.shape[0] // groups)
    else:
        ledger.give_up(tracked, "a convolution in groups of several channels")
        ledger.freeze(channels, "a convolution in groups of several channels")
        rows = None
    if rows is None:
        call.give_none()
        if bias is not None:
            add_bias(call, bias, torch.full((1,), NONE).expand(bias.shape), "")
        return
    call.record([channels], [rows], **options)
    wide = rows.view(-1, *[1] * (weight.dim() - 2)).expand(call.out.shape)
    call.give(wide, producer=tracked.name)
    if bias is not None:
        add_bias(call, bias, rows, tracked.name)


def depthwise(call: Call, channels: Tensor, weight: Reference, multiplier: int) -> Tensor:
    """One filter (or a few) a channel: each belongs to the channel that it reads."""
    use = call.ledger.use(weight.name, "weight")
    for axis, coords in enumerate(weight.coords):
        use.axis_parts.setdefault(axis, "unit" if axis == 0 else "position")
        if axis:
            call.ledger.freeze(coords, "")
    rows = _line(weight.coords[0], 0)
    call.ledger.tie(rows, channels.repeat_interleave(multiplier))
    return rows


@rule("embedding")
def embedding(call: Call) -> None:
    """A table: its rows keep their places, its columns are units."""
    tracked = call.tracked(call.args[0])
    if not isinstance(tracked, Reference) or len(tracked.coords) != 2:
        return give_up(call)
    use = call.ledger.use(tracked.name, "table", lookup=True)
    use.axis_parts.setdefault(0, "in")
    use.axis_parts.setdefault(1, "out")
    call.ledger.freeze(tracked.coords[0], "")
    columns = _line(tracked.coords[1], 1)
    call.record([], [columns])
    call.give(columns, producer=tracked.name)


# Normalisation, reduction, pooling ----------------------------------------------------


def norm_parameters(call: Call, labels: Tensor, named: dict[str, Tensor | None]) -> None:
    """Affine parameters and statistics of a norm are features of the units they meet."""
    leader = ""
    for role, value in named.items():
        if value is None:
            continue
        tracked = call.tracked(value) or call.statistic(value)
        if isinstance(tracked, Reference):
            call.ledger.use(tracked.name, role, leader)
            leader = leader or tracked.name
            attach(call, tracked, labels, role=role)
        else:
            face_constant(call, labels, value)


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update batch_norm"
)
def batch_norm(call: Call) -> None:
    """Batch norm: scale, shift and running statistics belong to their channel."""
    labels = call.labels(call.args[0])
    others = set(range(labels.dim())) - {1}
    row = call.ledger.tie_along(labels, others)
    channel = row.flatten()
    scale, shift, mean, variance = call.args[1:5]
    norm_parameters(
        call, channel, {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
    )
    call.record([channel], [channel])
    call.give_none()
    call.give(row.expand(labels.shape), tensors_in(call.out)[0])


def within(call: Call, labels: Tensor, dims: set[int]) -> None:
    """Units summed or normalised together may be exchanged, not with those of another sum."""
    shape = torch.Size([1 if d in dims else s for d, s in enumerate(labels.shape)])
    call.ledger.colour(labels, index_of(shape).expand(labels.shape))


@rule("native_layer_norm _fused_rms_norm rms_norm")
def layer_norm(call: Call) -> None:
    """Layer and RMS norm: scale and shift belong to their units."""
    labels = call.labels(call.args[0])
    count = len(call.args[1])
    within(call, labels, set(range(labels.dim() - count, labels.dim())))
    scale = call.arg(2, "weight")
    shift = call.args[3] if call.name == "native_layer_norm" else None
    norm_parameters(call, labels, {"scale": scale, "shift": shift})
    call.record([labels], [labels])
    call.give_none()
    call.give(labels, tensors_in(call.out)[0])


@rule("native_group_norm")
def group_norm(call: Call) -> None:
    """Group norm: channels may be exchanged within their group."""
    x, scale, shift, _, num_channels, _, groups = call.args[:7]
    labels = call.labels(x)
    row = call.ledger.tie_along(labels, set(range(labels.dim())) - {1})
    channel = row.flatten()
    call.ledger.colour(channel, torch.arange(num_channels) // (num_channels // groups))
    norm_parameters(call, channel, {"scale": scale, "shift": shift})
    call.record([channel], [channel], groups=groups)
    call.give_none()
    call.give(row.expand(labels.shape), tensors_in(call.out)[0])


@rule("_softmax _log_softmax softmax log_softmax _safe_softmax")
def softmax(call: Call) -> None:
    """Softmax treats all members of its axis alike."""
    labels = call.labels(call.args[0])
    dim = call.arg(1, "dim") % max(labels.dim(), 1)
    if dim in varying_dims(labels):
        within(call, labels, {dim})
    call.record([labels], [labels])
    call.give(labels)


@rule("mean sum amax amin var std var_mean std_mean logsumexp linalg_vector_norm norm prod any all")
def reduction(call: Call) -> None:
    """A reduction keeps a label that is constant over what is reduced, else drops it."""
    value = call.args[0]
    labels = call.labels(value)
    dims, keep = _reduced_dims(call, labels.dim())
    if varying_dims(labels) & dims:
        within(call, labels, dims)
        return call.give_none()
    for dim in sorted(dims, reverse=True):
        labels = labels.narrow(dim, 0, 1) if keep else labels.select(dim, 0)
    call.record([labels], [labels], dims=tuple(sorted(dims)))
    for out in tensors_in(call.out):
        call.give(labels, out)


def _reduced_dims(call: Call, rank: int) -> tuple[set[int], bool]:
    given = settings(call)
    dim = given.get("dim")
    if dim is None or dim == []:
        dim = list(range(rank))
    dims = {d % max(rank, 1) for d in (dim if isinstance(dim, list | tuple) else [dim])}
    return dims, bool(given.get("keepdim", False))


@rule(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "mkldnn_max_pool2d mkldnn_max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool2d adaptive_max_pool3d upsample_linear1d upsample_bilinear2d "
    "upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa"
)
def pooling(call: Call) -> None:
    """Pooling and smooth resizing mix places of one channel: labels are tied over space."""
    labels = call.labels(call.args[0])
    out = tensors_in(call.out)[0]
    space = int("1d" in call.name) + 2 * int("2d" in call.name) + 3 * int("3d" in call.name)
    row = call.ledger.tie_along(labels, set(range(labels.dim() - space, labels.dim())))
    call.record([row], [row], **settings(call))
    call.give_none()
    call.give(row, out)


@rule("_local_scalar_dense item is_nonzero equal")
def read_in_python(call: Call) -> None:
    """A value read by Python steers the path that was traced; its units are frozen."""
    for value in tensors_in(call.args):
        tracked = call.tracked(value)
        if tracked is not None:
            call.ledger.notes.append(
                (
                    "control flow",
                    *call.ledger.context,
                    "Python read a computed value; this is the path it took",
                )
            )
            call.ledger.give_up(tracked, "Python read its value")


def give_up(call: Call) -> None:
    """No rule: everything that the operation touches keeps its place."""
    for value in tensors_in([*call.args, *call.kwargs.values()]):
        tracked = call.tracked(value)
        if tracked is not None:
            call.ledger.give_up(tracked, "no rule for this operation")
    call.give_none()
