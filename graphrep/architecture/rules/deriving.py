"""What is computed from parameters alone: norms of weights, weights divided by their norm."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import Activation, Derived, Reference, varying_dims
from .call import Call, give_up, rule, tensors_in


def derive(call: Call, weights: list[Reference | Derived]) -> None:
    """Weights that meet element by element: along each dimension their units are the same.

    The one that varies along most dimensions stands for the result: a direction times its
    length is used as the direction is.
    """
    out = call.out
    first = max(weights, key=lambda w: (len(_moving(w)), isinstance(w, Reference)))
    if isinstance(first, Reference) and not _moving(first):
        first = weights[0]
    own = {frozenset(dims): coords for dims, coords in _moving(_aligned(first, out))}
    if any(isinstance(w, Reference) and w.experts is not None for w in weights[1:]):
        return give_up(call)
    for other in weights:
        if other is first:
            continue
        if isinstance(first, Reference) and isinstance(other, Reference):
            same = first.name != other.name or _same_part(first, other)
            if not same:
                return give_up(call)
        for dims, coords in _moving(_aligned(other, out)):
            mine = own.get(frozenset(dims))
            if mine is None:
                return give_up(call)
            call.ledger.tie(coords, mine)
        if isinstance(other, Reference) and not _place(call, first, other):
            return give_up(call)
    call.results.append((out, _aligned(first, out)))


def _same_part(one: Reference, other: Reference) -> bool:
    """Whether two views of one parameter show the same part of it."""
    first, second = ([torch.unique(c) for c in r.coords] for r in (one, other))
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _place(call: Call, first: Reference | Derived, other: Reference) -> bool:
    """Another parameter that scales or shifts a weight belongs to the units that it meets."""
    if isinstance(first, Reference) and first.name == other.name:
        return True
    role = {"add": "bias", "sub": "bias"}.get(call.name, "scale")
    leader = first.name if isinstance(first, Reference) else ""
    moving = [bool(varying_dims(c)) for c in other.coords]
    if sum(moving) > 1:
        return False
    use = call.ledger.use(other.name, role, leader)
    for axis, coords in enumerate(other.coords):
        use.place("unit" if moving[axis] else "position", axis)
        if not moving[axis]:
            call.ledger.freeze(coords, "")
    return True


def _moving(weights: Reference | Derived) -> list[tuple[set[int], Tensor]]:
    return [(dims, c) for c in weights.coords if (dims := varying_dims(c))]


def _aligned(weights: Reference | Derived, out: Tensor) -> Reference | Derived:
    """Coordinates broadcast to the shape of the result."""
    coords = tuple(c.expand(out.shape) for c in weights.coords)
    if isinstance(weights, Reference):
        return Reference(weights.name, coords, weights.experts)
    return Derived(coords)


def reduce_weights(call: Call, dims: set[int], keep: bool) -> None:
    """A norm or a mean of weights varies with the axes that were not reduced."""
    tracked = call.tracked(call.args[0])
    assert isinstance(tracked, Reference | Derived)
    left = []
    for coords in tracked.coords:
        moving = varying_dims(coords)
        if moving and not moving & dims:
            for dim in sorted(dims, reverse=True):
                coords = coords.narrow(dim, 0, 1) if keep else coords.select(dim, 0)
            left.append(coords)
        elif moving and not moving <= dims:
            return give_up(call)
    for out in tensors_in(call.out):
        call.results.append((out, Derived(tuple(c.expand(out.shape) for c in left))))


def contract_vector(call: Call, a: Tensor, b: Tensor) -> None:
    """Products with a vector: of weights with the vectors of their power iteration, or a row."""
    found = []
    for value in (a, b):
        tracked = call.tracked(value)
        unlabelled = isinstance(tracked, Activation) and not bool((tracked.labels >= 0).any())
        if tracked is None or unlabelled:
            tracked = call.statistic(value) or tracked
        found.append(tracked)
    left, right = found
    if not all(isinstance(k, Reference | Derived) for k in found):
        return give_up(call)
    assert isinstance(left, Reference | Derived) and isinstance(right, Reference | Derived)
    inner = [c for dims, c in _moving(left) if a.dim() - 1 in dims]
    outer = [c for dims, c in _moving(right) if 0 in dims]
    if b.dim() != 1 or len(outer) > 1:
        return give_up(call)
    for mine in outer:
        for theirs in inner[:1]:  # of several, the channels; places of a kernel come after
            line = theirs if theirs.dim() == 1 else theirs.narrow(0, 0, 1).reshape(-1)
            call.ledger.tie(line, mine)
    for vector in (k for k in found if isinstance(k, Reference) and len(k.coords) == 1):
        call.ledger.use(vector.name, "vector").place("unit", 0)
    rest = () if a.dim() == 1 else tuple(c[:, 0] for dims, c in _moving(left) if dims == {0})
    call.results.append((call.out, Derived(rest)))


@rule("_weight_norm_interface _weight_norm norm_except_dim")
def weight_norm(call: Call) -> None:
    """Weight norm: each row's length is a feature of the row's unit."""
    value, length = (call.tracked(t) for t in call.args[:2])
    if not isinstance(value, Reference) or not isinstance(length, Reference):
        return give_up(call)
    if not value.is_whole or not length.is_whole:
        return give_up(call)
    dim = call.arg(2, "dim", 0)
    rows = value.coords[dim].movedim(dim, 0).flatten(1)[:, 0]
    line = length.coords[dim].movedim(dim, 0).flatten(1)[:, 0]
    call.ledger.tie(rows, line)
    use = call.ledger.use(length.name, "scale", value.name)
    for axis, coords in enumerate(length.coords):
        use.place("unit" if axis == dim else "position", axis)
        if axis != dim:
            call.ledger.freeze(coords, "")
    outs = tensors_in(call.out)
    call.results.append((outs[0], value))
    call.results += [(out, Derived((line.view(length.coords[dim].shape),))) for out in outs[1:]]
