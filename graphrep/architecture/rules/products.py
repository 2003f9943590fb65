"""Rules of linear maps: matrix products, convolutions, tables."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import NONE, Activation, Ledger, Reference, drop_repeats, index_of, varying_dims
from .call import Call, give_up, rule, settings
from .deriving import contract_vector
from .meeting import attach, meet
from .pairing import product_of_activations


def contract_weight(
    call: Call, x: Tensor, weight: Reference, in_dim: int, out_dim: int, value: Tensor
) -> Tensor | None:
    """Tie inputs to the weight's axis along `in_dim`; the labels along its `out_dim`.

    `x` [..., k] holds the labels of the contracted operand `value`, k last; the result is
    [m], or [..., 1, m] of a stack of weights. None when axes of the weight cannot be told
    apart: all of it is given up.
    """
    ledger = call.ledger
    use = ledger.use(weight.name, "weight")
    rank = weight.coords[0].dim() if weight.coords else 0
    ends = {"in": in_dim % rank, "out": out_dim % rank}
    moving = [varying_dims(c) for c in weight.coords]
    axes: dict[str, list[int]] = {"in": [], "out": []}
    stack = []  # axes along which the weight is one of several
    for axis, dims in enumerate(moving):
        where = [part for part, dim in ends.items() if dim in dims]
        if len(where) > 1 or (where and len(dims) > 1):
            ledger.give_up(weight, "its axes are mixed by a reshape")
            ledger.freeze(x, "it meets a weight whose axes are mixed")
            return None
        if where:
            axes[where[0]].append(axis)
        elif dims or weight.is_slice(ledger, axis):
            stack.append(axis)
    leftover = [a for a in range(len(moving)) if a not in (*axes["in"], *axes["out"], *stack)]
    for part in ("out", "in"):  # axes of size one
        if not axes[part] and leftover:
            axes[part] = [leftover.pop(0)]
    for axis in leftover:
        use.place("position", axis)
        ledger.freeze(weight.coords[axis], "")
    if not axes["in"] or not axes["out"]:
        ledger.give_up(weight, "a product with a part of it that is no matrix")
        ledger.freeze(x, "it meets a part of a weight that is no matrix")
        return None
    if stack:
        return contract_stack(call, x, weight, ends, axes, stack, value)
    section = _section(ledger, weight, axes, ends)
    if section is not None:
        use.place("out", *axes["out"])
        use.place("in", *axes["out"], *axes["in"])
        wide = section.expand(*x.shape[:-1], *section.shape) if x.dim() > 1 else section
        ledger.tie(x.unsqueeze(-2).expand(wide.shape), wide)
        return _line(weight.coords[axes["out"][0]], out_dim)
    for part, found in axes.items():
        use.place(part, *found)
    columns = _line(ledger.joint(weight, tuple(axes["in"])), in_dim)
    rows = _line(ledger.joint(weight, tuple(axes["out"])), out_dim)
    lead = varying_dims(x) - {x.dim() - 1}
    if lead and not bool(ledger.is_input(x).any()) and bool((x >= 0).all()):
        mixed = mix_places(ledger, x, columns, rows)
        if mixed is not None:
            return mixed
    ledger.tie(x, columns.expand(x.shape))
    return rows


def _section(
    ledger: Ledger, weight: Reference, axes: dict[str, list[int]], ends: dict[str, int]
) -> Tensor | None:
    """Units [m, k] of some rows of a weight: each section of a packed one may read other inputs."""
    if len(weight.coords) != 2:
        return None
    (rows,), (columns,) = axes["out"], axes["in"]
    line = _line(weight.coords[rows], ends["out"])
    all_rows = ledger.axes[weight.name, (rows,)]
    small = len(all_rows) * len(ledger.axes[weight.name, (columns,)]) <= 4_000_000
    if rows > columns or len(line) == len(all_rows) or not small:
        return None
    used = ledger.sections.setdefault(weight.name, torch.zeros(len(all_rows), dtype=torch.bool))
    used[line - all_rows[0]] = True
    joint = ledger.joint(weight, (rows, columns))
    return joint if ends["out"] < ends["in"] else joint.mT


def mix_places(ledger: Ledger, x: Tensor, columns: Tensor, rows: Tensor) -> Tensor | None:
    """One weight applied to several units' places, or to each of several larger units.

    Each output belongs to a row of the weight and to the unit whose places it mixes. None
    where the labels [..., k] are neither.
    """
    (narrow,) = drop_repeats(x)
    narrow = narrow.expand(*narrow.shape[:-1], x.shape[-1])
    flat = narrow.reshape(-1, x.shape[-1])
    kept, number = torch.unique(flat, dim=0, return_inverse=True)
    too_many = len(kept) * len(rows) > 4_000_000
    if len(kept) == 1 or too_many or not ledger.are_siblings(kept):
        return None
    ordered = kept.sort(1).values
    if bool((kept == kept[:, :1]).all()):
        ledger.freeze(columns, "it mixes places")
        larger = kept[:, 0]
    elif bool((ordered[:, 1:] != ordered[:, :-1]).all()):
        ledger.link(kept, columns.expand(kept.shape))
        larger = ledger.hub(kept, "larger")
    else:
        return None
    found = ledger.product(larger, rows)[number]
    return found.view(*narrow.shape[:-1], len(rows))


def contract_stack(
    call: Call,
    x: Tensor,
    weight: Reference,
    ends: dict[str, int],
    axes: dict[str, list[int]],
    stack: list[int],
    value: Tensor,
) -> Tensor:
    """Each of several weights [..., m, k] contracts inputs of its own: experts, heads.

    Where all read the same inputs their rows are as free as those of one wide weight. Where
    each has inputs of its own, its columns and rows have a larger unit in common.
    """
    ledger = call.ledger
    use = ledger.use(weight.name, "weight")
    rank = weight.coords[0].dim()
    joint = {part: tuple(sorted((*stack, *found))) for part, found in axes.items()}
    for part, found in joint.items():
        use.place(part, *found)
    batch = [d for d in range(rank) if d not in ends.values()]
    columns = _lines(ledger.joint(weight, joint["in"]), batch, ends["in"])
    rows = _lines(ledger.joint(weight, joint["out"]), batch, ends["out"])
    wide = torch.broadcast_shapes(columns.unsqueeze(-2).shape, x.shape)
    ledger.tie(x.expand(wide), columns.unsqueeze(-2).expand(wide))
    flat = torch.cat([columns.reshape(-1, columns.shape[-1]), rows.reshape(-1, rows.shape[-1])], 1)
    if weight.experts is not None and len(stack) == 1:
        for found in joint.values():
            ledger.route(weight, found, stack[0], weight.experts)
        return rows.reshape(-1, rows.shape[-1])[0]
    if not any(varying_dims(weight.coords[a]) for a in stack):  # one slice, chosen by its number
        number = torch.zeros((), dtype=torch.int64)
        for axis in stack:
            line = ledger.axes[weight.name, (axis,)]
            number = number * len(line) + weight.coords[axis].reshape(-1)[0] - line[0]
        ledger.colour(flat, number.expand(flat.shape))
        return rows.reshape(-1)
    own = x.select(-2, 0) if x.dim() > 1 else x
    own = own.expand(columns.shape).reshape(-1, columns.shape[-1])
    if 0 in varying_dims(own):
        ledger.hub(flat, "stack")
    elif not all(_is_spread(value, d - rank) for d in batch if rows.shape[batch.index(d)] > 1):
        ledger.colour(flat, index_of(torch.Size([len(flat), 1])).expand(flat.shape))
    return rows.unsqueeze(-2)


def _is_spread(value: Tensor, dim: int) -> bool:
    """Whether a tensor, broadcast, has one value along a dimension counted from the end."""
    return value.dim() < -dim or value.shape[dim] == 1 or value.stride(dim) == 0


def _lines(coords: Tensor, batch: list[int], dim: int) -> Tensor:
    """The coordinates along the batch dimensions and one more, [..., size]."""
    kept = sorted([*batch, dim])
    place = tuple(slice(None) if d in kept else 0 for d in range(coords.dim()))
    return coords[place].permute([kept.index(d) for d in [*batch, dim]])


def _line(coords: Tensor, dim: int) -> Tensor:
    """The coordinates along one dimension, [size]."""
    dim %= coords.dim()
    return coords[tuple(slice(None) if d == dim else 0 for d in range(coords.dim()))]


def matmul(call: Call, a: Tensor, b: Tensor) -> None:
    """Matrix product a [..., n, k] @ b [..., k, m]."""
    ta, tb = call.tracked(a), call.tracked(b)
    match ta, tb:
        case None, None:
            return
        case _, Reference():
            rows = contract_weight(call, call.labels(a), tb, -2, -1, a)
            if rows is None:
                return call.give_none()
            call.record([call.labels(a)], [rows])
            call.give(rows, producer=tb.name)
        case Reference(), _:
            turned = call.labels(b).transpose(-2, -1)
            rows = contract_weight(call, turned, ta, -1, -2, b.transpose(-2, -1))
            if rows is None:
                return call.give_none()
            call.record([call.labels(b)], [rows])
            rows = rows.transpose(-2, -1) if rows.dim() > 1 else rows.unsqueeze(-1)
            call.give(rows, producer=ta.name)
        case _:
            product_of_activations(call, a, b)


@rule("mm bmm matmul dot mv vdot")
def product(call: Call) -> None:
    """A matrix product with a weight ties inputs to its columns and gives its rows as labels."""
    a, b = call.args[0], call.args[1]
    if b.dim() == 1 or a.dim() == 1:
        contract_vector(call, a, b)
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
    rows = contract_weight(call, call.labels(x), tracked, -1, -2, x)
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
    if not isinstance(tracked, Reference) or not tracked.is_whole:
        return give_up(call)
    channel = labels.dim() - (weight.dim() - 2) - 1
    channels = ledger.tie_along(labels, set(range(labels.dim())) - {channel})
    channels = channels.flatten()
    options = settings(
        call, "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    )
    if groups == 1:
        in_dim, out_dim = (0, 1) if transposed else (1, 0)
        rows = contract_channels(call, channels, tracked, in_dim, out_dim, 1)
    elif not transposed and weight.shape[1] == 1 and weight.shape[0] == groups:
        rows = depthwise(call, channels, tracked)
    elif not transposed:
        rows = contract_channels(call, channels, tracked, 1, 0, groups)
    elif weight.shape[1] == 1 and weight.shape[0] == groups:
        rows = depthwise(call, channels, tracked)
    else:
        ledger.give_up(tracked, "a transposed convolution in groups of several channels")
        ledger.freeze(channels, "a transposed convolution in groups of several channels")
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


def contract_channels(
    call: Call, channels: Tensor, weight: Reference, in_axis: int, out_axis: int, groups: int
) -> Tensor:
    """Tie input channels to a kernel's columns, group by group; the labels of its rows.

    The channels that a group reads and those that it gives have a larger unit in common.
    """
    ledger = call.ledger
    use = ledger.use(weight.name, "weight")
    for axis, coords in enumerate(weight.coords):
        if axis not in (in_axis, out_axis):
            use.place("position", axis)
            ledger.freeze(coords, "")
    use.place("out", out_axis)
    rows = _line(weight.coords[out_axis], out_axis)
    if groups == 1:
        use.place("in", in_axis)
        ledger.tie(channels, _line(weight.coords[in_axis], in_axis))
        return rows
    joint = tuple(sorted((in_axis, out_axis)))
    use.place("in", *joint)
    columns = ledger.joint(weight, joint)
    columns = columns.flatten(2)[..., 0] if columns.dim() > 2 else columns
    columns = columns.view(groups, len(rows) // groups, -1)
    own = channels.view(groups, 1, -1)
    ledger.tie(columns, own.expand(columns.shape))
    ledger.hub(torch.cat([own.squeeze(1), rows.view(groups, -1)], 1), "groups")
    return rows


def depthwise(call: Call, channels: Tensor, weight: Reference) -> Tensor:
    """One filter a channel: it belongs to the channel that it reads."""
    use = call.ledger.use(weight.name, "weight")
    for axis, coords in enumerate(weight.coords):
        use.place("unit" if axis == 0 else "position", axis)
        if axis:
            call.ledger.freeze(coords, "")
    rows = _line(weight.coords[0], 0)
    call.ledger.tie(rows, channels)
    return rows


@rule("embedding")
def embedding(call: Call) -> None:
    """A table: its rows keep their places, its columns are units."""
    tracked = call.tracked(call.args[0])
    if not isinstance(tracked, Reference) or len(tracked.coords) != 2 or not tracked.is_whole:
        return give_up(call)
    if call.tracked(call.args[1]) is not None:
        call.ledger.freeze(call.labels(call.args[1]), "it chooses rows of a table")
    use = call.ledger.use(tracked.name, "table", lookup=True)
    use.place("in", 0)
    use.place("out", 1)
    call.ledger.freeze(tracked.coords[0], "")
    columns = _line(tracked.coords[1], 1)
    call.record([], [columns])
    call.give(columns, producer=tracked.name)
