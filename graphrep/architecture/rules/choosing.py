"""Rules of operations that choose or order: largest entries, sorting, counting, masks."""

from __future__ import annotations

import torch

from ..labels import NONE, ZERO, Activation, Pointer, Reference, varying_dims
from .call import Call, give_up, rule, settings, tensors_in
from .elementwise import elementwise
from .products import contract_weight
from .routing import first_slice


@rule("topk sort argsort argmax argmin kthvalue median mode msort")
def choose(call: Call) -> None:
    """The largest members of a set are the same in any order; their numbers point to units."""
    value = call.args[0]
    tracked = call.tracked(value)
    outs = tensors_in(call.out)
    if isinstance(tracked, Pointer):
        call.give_none()
        if call.name in ("sort", "msort"):
            call.results[0] = (outs[0], tracked)
        return
    labels = call.labels(value)
    dim = settings(call).get("dim", -1 if call.name != "argmax" else None)
    if dim is None or isinstance(tracked, Reference):
        return give_up(call)
    dim = dim % max(1, labels.dim())
    if dim not in varying_dims(labels):
        line = labels.narrow(dim, 0, 1)
        for out in outs:
            call.give(line if out.dim() == labels.dim() else line.squeeze(dim), out)
        return
    rows = torch.unique(labels.movedim(dim, -1).reshape(-1, labels.shape[dim]), dim=0)
    if len(rows) > 1 or call.name in ("sort", "msort", "argsort"):
        return give_up(call)
    call.ledger.hub(rows, "parts")
    call.give_none()
    if not outs[-1].is_floating_point():
        call.results[-1] = (outs[-1], Pointer(rows[0]))


@rule("max min aminmax")
def extreme(call: Call) -> None:
    """The extreme of a set is the same in any order."""
    tracked = call.tracked(call.args[0])
    if isinstance(tracked, Pointer):
        return call.give_none()  # a range of numbers, which is read to check them
    if len(call.args) > 1 and isinstance(call.args[1], torch.Tensor):
        return elementwise(call)
    if settings(call).get("dim") is not None:
        return choose(call)
    labels = call.labels(call.args[0])
    call.ledger.hub(labels.reshape(1, -1), "parts")
    call.give_none()


@rule("nonzero")
def nonzero(call: Call) -> None:
    """The places of entries that are not zero; along units they point to them."""
    labels = call.labels(call.args[0])
    atoms = torch.unique(labels[labels >= 0])
    call.give_none()
    if labels.dim() == 1 and len(atoms) == int((labels >= 0).sum()) and len(atoms) > 1:
        call.results[-1] = (call.out, Pointer(labels.contiguous()))
    elif varying_dims(labels):
        give_up(call)
    else:
        call.ledger.choosers.append(atoms)
    why = "computed values chose places; what other inputs reach was not traced"
    call.ledger.remark("control flow", why)


@rule("histc bincount")
def count(call: Call) -> None:
    """How often each unit is pointed to: a number of its own."""
    tracked = call.tracked(call.args[0])
    if not isinstance(tracked, Pointer) or len(call.out) != len(tracked.atoms):
        return give_up(call)
    call.give(tracked.atoms)


@rule("cumsum cumprod logcumsumexp cummax cummin")
def running(call: Call) -> None:
    """A running sum over places of one unit keeps its label; over units their order matters."""
    if isinstance(call.tracked(call.args[0]), Reference):
        return give_up(call)
    labels = call.labels(call.args[0])
    dim = call.arg(1, "dim") % max(1, labels.dim())
    if dim not in varying_dims(labels):
        for out in tensors_in(call.out):
            call.give(labels, out, keeps_zero=call.name == "cumsum")
    elif labels.dim() == 1 and call.name == "cumsum" and not call.out.is_floating_point():
        call.results.append((call.out, Pointer(labels.contiguous(), ends=True)))
    else:
        give_up(call)


@rule("_grouped_mm")
def grouped_product(call: Call) -> None:
    """Rows sorted by expert, each multiplied with the weight of its own."""
    x, weight, ends = call.args[0], call.arg(1, "mat2"), call.arg(2, "offs")
    tracked, pointer = call.tracked(weight), call.tracked(ends)
    if not isinstance(tracked, Reference) or not isinstance(pointer, Pointer) or weight.dim() != 3:
        return give_up(call)
    stack = tuple(c.narrow(0, 0, 1).expand(c.shape) if c.stride(0) else c for c in tracked.coords)
    coords = first_slice(call.ledger, tracked.name, tuple(c[0] for c in stack))
    chosen = Reference(tracked.name, coords, pointer.atoms[pointer.atoms >= 0])
    rows = contract_weight(call, call.labels(x), chosen, -2, -1, x)
    if rows is None:
        return call.give_none()
    call.record([call.labels(x)], [rows])
    call.give(rows, producer=tracked.name)


@rule("tril triu")
def triangle(call: Call) -> None:
    """A triangle of a matrix: entries are zeroed by their places."""
    tracked = call.tracked(call.args[0])
    if isinstance(tracked, Activation):
        labels = tracked.labels
        last = {labels.dim() - 2, labels.dim() - 1}
        if not varying_dims(labels) & last:
            return call.give(labels, keeps_zero=True)
    give_up(call)


@rule("masked_select")
def select_by_mask(call: Call) -> None:
    """Entries chosen by a computed mask keep one common label, or none."""
    labels = call.labels(call.args[0])
    if varying_dims(labels):
        return give_up(call)
    call.give(labels.reshape(-1)[:1] if labels.numel() else torch.full((1,), NONE))


@rule("one_hot")
def one_hot(call: Call) -> None:
    """A row with a one at the unit pointed to."""
    tracked = call.tracked(call.args[0])
    if not isinstance(tracked, Pointer):
        return give_up(call)
    size = call.out.shape[-1]
    line = torch.full((size,), ZERO)
    line[: len(tracked.atoms)] = tracked.atoms[:size]
    call.give(line, keeps_zero=True)
