"""Rules of reading and writing by index: constants move labels, computed indices need care."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..labels import NONE, ZERO, Activation, Pointer, Reference, varying_dims
from .call import Call, give_up, rule, tensors_in
from .meeting import meet
from .movement import move, run_on_labels, zero_or
from .routing import first_slice


@rule("index index_select gather take_along_dim")
def pick(call: Call) -> None:
    """Indexing by constants moves labels; computed indices may run over places of one unit."""
    value = call.args[0]
    indices = tensors_in(call.args[1:])
    tracked = call.tracked(value)
    known = all(call.tracked(i) is None and not i.is_meta for i in indices)
    if known and isinstance(tracked, Activation):
        call.give(tensors_in(move(call, tracked.labels, value))[0], keeps_zero=True)
    elif known and isinstance(tracked, Reference):
        moved = tuple(tensors_in(move(call, coords, value))[0] for coords in tracked.coords)
        call.results.append((call.out, Reference(tracked.name, moved, tracked.experts)))
    elif isinstance(tracked, Pointer):
        call.results.append((call.out, tracked))
    elif isinstance(tracked, Reference):
        pick_weights(call, tracked)
    else:
        pick_values(call, call.labels(value))


def pick_values(call: Call, labels: Tensor) -> None:
    """Computed indices into an activation."""
    value = call.args[0]
    if call.name != "gather":
        freeze_choosers(call, tensors_in(call.args[1:]))
    pointers = [k for i in tensors_in(call.args[1:]) if isinstance(k := call.tracked(i), Pointer)]
    dims = _indexed_dims(call)
    if varying_dims(labels) & dims:
        (dim,) = dims if len(dims) == 1 else (None,)
        if dim is not None and len(pointers) == 1 and call.name == "index":
            along = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)
            if bool((along == along[:, :1]).all()):
                return call.give_none()  # the value of the unit that is pointed to
        return give_up(call)
    for pointer in pointers:
        call.ledger.give_up(pointer, "numbers that point to its units choose something else")
    if call.name in ("gather", "take_along_dim"):
        dim = next(iter(dims))
        line = labels.narrow(dim, 0, 1).expand(call.out.shape)
        return call.give(
            meet(call, line, call.arg(2, "index") if call.name == "gather" else call.args[1])
        )
    call.give(_at_zero(call, labels, value), keeps_zero=True)


def pick_weights(call: Call, reference: Reference) -> None:
    """Computed indices into a parameter: rows of a table, or the weights of an expert."""
    indices = tensors_in(call.args[1:])
    freeze_choosers(call, indices)
    dims = _indexed_dims(call)
    pointer = call.tracked(indices[0])
    if len(indices) != 1 or len(dims) != 1:
        return give_up(call)
    (dim,) = dims
    axes = [a for a, c in enumerate(reference.coords) if dim in varying_dims(c)]
    if len(axes) != 1 or reference.experts is not None:
        return give_up(call)
    experts = None
    if isinstance(pointer, Pointer):
        experts = pointer.atoms[pointer.atoms >= 0]
        if len(experts) != call.args[0].shape[dim] or pointer.ends:
            return give_up(call)
    else:
        call.ledger.freeze(reference.coords[axes[0]], "")
    coords = tuple(_at_zero(call, c, call.args[0]) for c in reference.coords)
    if experts is not None:
        coords = first_slice(call.ledger, reference.name, coords)
    else:  # any of its rows
        none = torch.tensor(NONE)
        coords = tuple(none.expand(c.shape) if a in axes else c for a, c in enumerate(coords))
    call.results.append((call.out, Reference(reference.name, coords, experts)))


def freeze_choosers(call: Call, indices: list[Tensor]) -> None:
    """Units whose values choose what is read or written keep their places."""
    for index in indices:
        tracked = call.tracked(index)
        if isinstance(tracked, Activation):
            call.ledger.freeze(tracked.labels, "it chooses what is read or written")


def _indexed_dims(call: Call) -> set[int]:
    """The dimensions of the value that indices run over."""
    value = call.args[0]
    if call.name != "index":
        return {call.arg(1 if call.name != "take_along_dim" else 2, "dim") % max(1, value.dim())}
    dims, dim = set(), 0
    for index in call.args[1]:
        width = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            dims |= set(range(dim, dim + width))
        dim += width
    return dims


def _at_zero(call: Call, labels: Tensor, value: Tensor) -> Tensor:
    """Labels picked as the values are, where any index would find the same."""

    def swap(argument: Any) -> Any:
        if argument is value:
            return labels
        if isinstance(argument, Tensor):
            if argument.dtype in (torch.bool, torch.uint8):
                if argument.is_meta:
                    raise ValueError("a mask without values")
                return tuple(torch.zeros_like(i) for i in argument.nonzero(as_tuple=True))
            return torch.zeros(argument.shape, dtype=torch.int64)
        if isinstance(argument, list | tuple):
            flat: list[Any] = []
            for item in argument:
                found = swap(item)
                flat += found if isinstance(item, Tensor) and isinstance(found, tuple) else [found]
            return flat
        return argument

    shape = None
    if call.name in ("index", "index_select"):  # what repeats along the other dimensions stays so
        for dim in set(range(labels.dim())) - _indexed_dims(call):
            if labels.stride(dim) == 0 and labels.shape[dim]:
                labels, shape = labels.narrow(dim, 0, 1), call.out.shape
    found = run_on_labels(call.func, tuple(swap(a) for a in call.args), call.kwargs)
    return found if shape is None else found.expand(shape)


@rule("index_add index_copy scatter_add scatter_reduce index_reduce scatter")
def write_by_index(call: Call) -> None:
    """Values written at computed places of one unit are tied to what was there."""
    into, dim, index = call.args[:3]
    values = call.arg(3, "source" if call.name.startswith("index") else "src")
    labels = zero_or(call, into)
    dim = dim % max(1, labels.dim())
    pointer = call.tracked(index)
    if isinstance(pointer, Pointer):
        own_units = isinstance(values, Tensor) and bool((call.labels(values) >= 0).any())
        if own_units or not bool((labels == ZERO).all()):
            return give_up(call)
        line = torch.full((labels.shape[dim],), ZERO)
        line[: len(pointer.atoms)] = pointer.atoms[: len(line)]
        shape = [1] * labels.dim()
        shape[dim] = -1
        return call.give(line.view(shape), keeps_zero=True)
    if not call.name.startswith("scatter") or not isinstance(values, Tensor):
        freeze_choosers(call, [index])
    if not isinstance(values, Tensor):
        if varying_dims(labels):
            return give_up(call)
        return call.give(torch.where(labels == ZERO, NONE, labels))
    own = call.labels(values)
    if dim in varying_dims(labels) | varying_dims(own):
        return give_up(call)
    line, other = labels.narrow(dim, 0, 1), own.narrow(dim, 0, 1)
    sizes = torch.Size([min(a, b) for a, b in zip(line.shape, other.shape, strict=True)])
    if line.shape != other.shape and varying_dims(own) | varying_dims(labels):
        return give_up(call)
    if call.name.startswith("scatter") and index.dim() == own.dim():
        other = meet(call, other.expand(sizes), index.narrow(dim, 0, 1)) if index.numel() else other
    call.ledger.tie(line, other)
    found = (
        torch.where(line >= 0, line, torch.maximum(line, other)) if sizes == line.shape else line
    )
    call.give(found, keeps_zero=True)


@rule("index_put _index_put_impl _unsafe_index_put")
def put(call: Call) -> None:
    """An assignment at computed places ties what is written to what was there."""
    into, indices, values = call.args[:3]
    labels, own = zero_or(call, into), call.labels(values)
    dims = {d for d, index in enumerate(indices) if index is not None}
    freeze_choosers(call, tensors_in(list(indices)))
    masks = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
    if any(isinstance(call.tracked(i), Pointer) for i in indices if i is not None):
        return give_up(call)
    lead = len(indices)
    if masks and len(indices) == 1:
        lead = indices[0].dim()
        dims = set(range(lead))
    elif masks or dims != set(range(lead)):
        return give_up(call)
    rest = labels.dim() - lead
    vary = {d - own.dim() for d in varying_dims(own)}
    if varying_dims(labels) & dims or any(d < -rest for d in vary):
        return give_up(call)
    line = labels[(0,) * lead]
    other = (
        own[(0,) * max(0, own.dim() - rest)].expand(line.shape)
        if own.dim()
        else own.expand(line.shape)
    )
    call.ledger.tie(line, other)
    call.give(torch.where(line >= 0, line, torch.maximum(line, other)), keeps_zero=True)


@rule("_embedding_bag _embedding_bag_forward_only")
def embedding_bag(call: Call) -> None:
    """A sum of rows of a table: its rows keep their places, its columns are units."""
    tracked = call.tracked(call.args[0])
    out = tensors_in(call.out)[0]
    if not isinstance(tracked, Reference) or len(tracked.coords) != 2 or not tracked.is_whole:
        return give_up(call)
    use = call.ledger.use(tracked.name, "table", lookup=True)
    use.place("in", 0)
    use.place("out", 1)
    call.ledger.freeze(tracked.coords[0], "")
    columns = tracked.coords[1][0]
    call.record([], [columns])
    call.give_none()
    call.give(columns, out, producer=tracked.name)
