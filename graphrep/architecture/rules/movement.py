"""Rules of data movement: the labels do what the data do. Constants carry none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..labels import NONE, ZERO, Activation, Derived, Pointer, Reference, drop_repeats
from .call import Call, give_up, rule, settings, tensors_in
from .routing import chosen_by, first_slice


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
    held = call.held.get(value)
    if held is not None:
        for out in outs:
            call.held[out] = Reference(held.name, (move(call, held.coords[0], value),))
    if isinstance(tracked, Pointer):
        call.results += [(out, tracked) for out in outs]
        return
    if isinstance(tracked, Derived):
        some = [tensors_in(move(call, coords, value)) for coords in tracked.coords]
        call.results += [(out, Derived(tuple(m[i] for m in some))) for i, out in enumerate(outs)]
        return
    if isinstance(tracked, Reference):
        moved = [tensors_in(move(call, coords, value)) for coords in tracked.coords]
        experts = tracked.experts if call.name != "select" else chosen_by(call, tracked)
        for i, out in enumerate(outs):
            coords = tuple(m[i] for m in moved)
            if experts is not None and tracked.experts is None:
                coords = first_slice(call.ledger, tracked.name, coords)
            call.results.append((out, Reference(tracked.name, coords, experts)))
        return
    moved_labels = tensors_in(move(call, tracked.labels, value))
    producer = tracked.producer if call.name in ("view", "_unsafe_view", "reshape") else ""
    for out, labels in zip(outs, moved_labels, strict=True):
        call.give(labels, out, producer, keeps_zero=True)
    if call.name in ("flip", "roll", "pixel_shuffle", "pixel_unshuffle") or "pad" in call.name:
        call.record([tracked.labels], moved_labels, **settings(call))


@rule("clone _to_copy detach alias contiguous lift_fresh lift_fresh_copy to positive copy")
def copies(call: Call) -> None:
    """A copy carries the labels of its original."""
    tracked = call.tracked(call.args[0])
    if tracked is not None:
        call.results.append((call.out, tracked))
    if call.args[0] in call.held:
        call.held[call.out] = call.held[call.args[0]]


@rule("view_as_complex view_as_real")
def pairs(call: Call) -> None:
    """Two numbers that become one complex number are one unit."""
    labels = call.labels(call.args[0])
    if call.name == "view_as_real":
        return call.give(labels.unsqueeze(-1))
    call.give(call.ledger.tie_along(labels, {labels.dim() - 1}).squeeze(-1))


@rule("copy_")
def overwrite(call: Call) -> None:
    """An assignment carries the labels of what is assigned."""
    call.give(call.labels(call.args[1]), call.out, keeps_zero=True)


@rule("cat stack")
def join(call: Call) -> None:
    """Concatenation: labels stand beside each other."""
    parts = call.args[0]
    labels = [zero_or(call, part) for part in parts]
    dim = call.arg(1, "dim", 0)
    tell_apart(call, [(own, part) for own, part in zip(labels, parts, strict=True)])
    joined = (torch.cat if call.name == "cat" else torch.stack)(labels, dim)
    call.give(joined, keeps_zero=True)


def tell_apart(call: Call, parts: list[tuple[Tensor, Tensor]]) -> None:
    """Units that come together again after different treatment are not alike any more."""
    done = []
    for labels, part in parts:
        tracked = call.tracked(part)
        if isinstance(tracked, Activation) and bool((labels >= 0).any()):
            done.append((labels, tracked.history))
    if len({history for _, history in done}) > 1:
        atoms = torch.cat([drop_repeats(labels)[0].reshape(-1) for labels, _ in done])
        sizes = [drop_repeats(labels)[0].numel() for labels, _ in done]
        colours = torch.cat([torch.full((n,), h) for n, (_, h) in zip(sizes, done, strict=True)])
        met = torch.unique(torch.stack([atoms, colours]), dim=1)
        call.ledger.colour(met[0], met[1])


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
    call.give(padded, keeps_zero=True)


@rule("as_strided")
def restride(call: Call) -> None:
    """Strided reading of a contiguous tensor moves labels; any other freezes them."""
    value = call.args[0]
    labels = call.labels(value)
    offset = call.arg(3, "storage_offset")
    if value.is_contiguous() and value.storage_offset() == 0 and not offset:
        moved = labels.contiguous().as_strided(*call.args[1:3])
        call.give(moved, keeps_zero=True)
    else:
        give_up(call)


@rule("zeros zeros_like new_zeros")
def nothing(call: Call) -> None:
    """Zeros tell no unit from another."""
    call.give(torch.full((1,) * call.out.dim(), ZERO), keeps_zero=True)


@rule(
    "empty empty_like new_empty empty_strided new_empty_strided ones ones_like new_ones full "
    "full_like new_full arange scalar_tensor eye rand rand_like randn randn_like linspace "
    "bernoulli _assert_tensor_metadata tril_indices triu_indices"
)
def constants(call: Call) -> None:
    """A constant carries no labels; its values are looked at where it meets units."""
