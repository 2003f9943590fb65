"""Rules of linear maps: matrix products, convolutions, tables."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import NONE, Activation, Reference, index_of, varying_dims
from .call import Call, give_up, rule, settings
from .meeting import attach, meet


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
    if call.tracked(call.args[1]) is not None:
        call.ledger.freeze(call.labels(call.args[1]), "it chooses rows of a table")
    use = call.ledger.use(tracked.name, "table", lookup=True)
    use.axis_parts.setdefault(0, "in")
    use.axis_parts.setdefault(1, "out")
    call.ledger.freeze(tracked.coords[0], "")
    columns = _line(tracked.coords[1], 1)
    call.record([], [columns])
    call.give(columns, producer=tracked.name)
