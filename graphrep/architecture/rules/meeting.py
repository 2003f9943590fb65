"""Operands that meet element by element: tie, tell apart, or attach a parameter."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..labels import NONE, ZERO, Activation, Derived, Pointer, Reference, index_of, varying_dims
from .call import Call
from .movement import tell_apart


def meet(call: Call, labels: Tensor, operand: Tensor, first: Tensor | None = None) -> Tensor:
    """Labels [out] face another operand element by element; the labels of the result.

    `first` is the tensor that the labels are of, when it is one.
    """
    ledger = call.ledger
    match call.lookup(operand):
        case None:
            face_constant(call, labels, operand)
            return labels
        case Reference() as reference:
            spread = None if first is None else spread_over(call, reference, labels, first)
            if spread is not None:
                return spread
            attach(call, reference, labels)
            return labels
        case Pointer() as pointer:
            ledger.give_up(pointer, "numbers that point to its units are computed with")
            return labels
        case Derived(coords) if not coords:
            return labels
        case _:
            other = call.labels(operand)
            untold = other == NONE
            if untold.any() and operand.numel() > 1:
                numbers = torch.where(untold, _numbered(operand), -1)
                where = (numbers >= 0).expand(labels.shape)
                ledger.colour(
                    torch.where(where, labels, NONE) if not untold.all() else labels,
                    numbers.expand(labels.shape),
                )
            wide = other.expand(labels.shape)
            if not bool((wide >= 0).any()):
                return torch.where(labels >= 0, labels, torch.maximum(labels, wide))
            if bool((labels == NONE).any()):
                reverse = torch.where(labels == NONE, wide, NONE)
                ledger.colour(reverse, index_of(labels.shape))
            if bool(ledger.is_input(wide).all()) and not varying_dims(labels) - _repeats(
                operand, labels.dim()
            ):
                return labels  # an input that is the same for every unit, such as a mask
            if _is_one_for_several(wide, operand, labels):
                ledger.link(labels, wide)
                return torch.where(labels >= 0, labels, torch.maximum(labels, wide))
            if first is not None and _is_one_for_several(labels, first, wide):
                ledger.link(wide, labels)
                return torch.where(wide >= 0, wide, torch.maximum(labels, wide))
            alone, beside = (wide == ZERO) & (labels >= 0), (labels == ZERO) & (wide >= 0)
            if first is not None and bool(alone.any()) and bool(beside.any()):
                tell_apart(
                    call,
                    [
                        (torch.where(alone, labels, NONE), first),
                        (torch.where(beside, wide, NONE), operand),
                    ],
                )
            ledger.tie(
                torch.where(labels == NONE, ZERO, labels),
                torch.where(wide == NONE, ZERO, wide),
            )
            return torch.where(labels >= 0, labels, torch.maximum(labels, wide))


def _repeats(value: Tensor, rank: int) -> set[int]:
    """The dimensions of a wider tensor along which a value broadcast to it is the same."""
    lead = rank - value.dim()
    own = zip(value.shape, value.stride(), strict=True)
    return {*range(lead), *(lead + d for d, (n, step) in enumerate(own) if n == 1 or step == 0)}


def _numbered(value: Tensor) -> Tensor:
    """A number for each element; what is only repeated has one."""
    sizes = [1 if st == 0 else n for n, st in zip(value.shape, value.stride(), strict=True)]
    return index_of(torch.Size(sizes)).expand(value.shape)


def _is_one_for_several(larger: Tensor, value: Tensor, labels: Tensor) -> bool:
    """Whether each value, broadcast, meets several units that have it in common.

    Only where it is the same number that meets them: along a dimension of its own
    extent different numbers carry the larger label.
    """
    repeats = _repeats(value, labels.dim())
    fine, coarse = varying_dims(labels), varying_dims(larger)
    return bool(fine & repeats) and fine - repeats == coarse - repeats and coarse <= fine


def face_constant(call: Call, labels: Tensor, operand: Tensor) -> None:
    """Units that meet different constants cannot be exchanged."""
    if operand.numel() <= 1:
        return
    dims = varying_dims(labels)
    lead = labels.dim() - operand.dim()
    if lead < 0:
        call.ledger.freeze(labels, "it meets a constant of more dimensions")
        return
    told = sorted(d for d in dims if d >= lead and operand.shape[d - lead] > 1)
    told = [d for d in told if operand.stride(d - lead) != 0]
    if not told:
        return
    own = [d - lead for d in told]
    sizes = [operand.shape[d] for d in own]
    if operand.is_meta:
        colours = index_of(torch.Size(sizes))
    else:
        values = operand.detach()
        values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
        rows = values.permute(*own, *(d for d in range(values.dim()) if d not in own))
        rows = torch.nan_to_num(rows.reshape(prod(sizes), -1).double())
        _, colours = torch.unique(rows, dim=0, return_inverse=True)
        if int(colours.max()) == 0:
            return
    shape = [1] * labels.dim()
    for dim, size in zip(told, sizes, strict=True):
        shape[dim] = size
    call.ledger.colour(labels, colours.view(shape).expand(labels.shape))


def spread_over(call: Call, reference: Reference, labels: Tensor, first: Tensor) -> Tensor | None:
    """One value times many parameters, such as a time with its frequencies: their units result.

    None where the value is not the same for all of them, or has units of its own.
    """
    ledger = call.ledger
    moving = [varying_dims(c.expand(labels.shape)) for c in reference.coords]
    dims = set().union(*moving)
    own = (labels >= 0) & ~ledger.is_input(labels)
    if (
        reference.experts is not None
        or not dims
        or not dims <= _repeats(first, labels.dim())
        or bool(own.any())
    ):
        return None
    use = ledger.use(reference.name, "bias" if call.name in ("add", "sub") else "scale")
    along = tuple(axis for axis, own_dims in enumerate(moving) if own_dims)
    for axis, coords in enumerate(reference.coords):
        if axis not in along:
            use.place("position", axis)
            ledger.freeze(coords, "")
    use.place("unit", *along)
    return ledger.joint(reference, along).expand(labels.shape)


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
    labels = torch.where(labels == ZERO, NONE, labels) if bool((labels == ZERO).any()) else labels
    dims = varying_dims(labels)
    lone = not dims and bool((labels >= 0).any())
    moving = [varying_dims(c.expand(labels.shape)) for c in reference.coords]
    along = [axis for axis, own in enumerate(moving) if own & dims]
    stack = [
        axis
        for axis, own in enumerate(moving)
        if not own and along and reference.is_slice(ledger, axis)
    ]
    along = sorted([*stack, *along])
    for axis, coords in enumerate(reference.coords):
        if lone and not moving[axis]:
            use.place("unit", axis)
            ledger.tie(coords.expand(labels.shape), labels)
        elif axis not in along:
            use.place("position", axis)
            ledger.freeze(coords, "")
    if reference.experts is not None and (not along or not stack):
        ledger.freeze(reference.experts, "it chooses more than a slice of weights")
    if not along:
        return
    use.place("unit", *along)
    units = ledger.joint(reference, tuple(along)).expand(labels.shape)
    if reference.experts is not None and stack:
        ledger.route(reference, tuple(along), stack[0], reference.experts)
    if dims - set().union(*moving):
        ledger.link(labels, units)  # one number for several units
    else:
        ledger.tie(units, labels)
