"""Operands that meet element by element: tie, tell apart, or attach a parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import NONE, ZERO, Activation, Reference, index_of, varying_dims
from .call import Call


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
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
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
    labels = torch.where(labels == ZERO, NONE, labels) if bool((labels == ZERO).any()) else labels
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
