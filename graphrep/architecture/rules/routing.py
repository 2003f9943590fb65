"""Numbers that point to units, and stacked weights of which they choose one.

A router's top-k gives the indices of experts. When experts are reordered the numbers
change and choose the same weights, so what is computed stays. Of stacked weights the first
slice stands for the one that is chosen (`experts.py` says of all what was said of it).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import NONE, Ledger, Pointer, Reference, varying_dims
from .call import Call


def chosen_by(call: Call, reference: Reference) -> Tensor | None:
    """The experts, where Python takes the slice whose number it just read from a pointer."""
    if call.ledger.last_read is None:
        return reference.experts
    number, atoms = call.ledger.last_read
    dim, index = call.arg(1, "dim"), call.arg(2, "index")
    size = call.args[0].shape[dim]
    experts = atoms[atoms >= 0]
    return experts if index == number and size == len(experts) else reference.experts


def first_slice(ledger: Ledger, name: str, coords: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Coordinates with the chosen number of the stack replaced by its first."""
    result = []
    for axis, own in enumerate(coords):
        line = ledger.axes[name, (axis,)]
        one = own.numel() > 0 and len(line) > 1 and not varying_dims(own)
        result.append(line[0].expand(own.shape) if one else own)
    return tuple(result)


def compare_pointer(call: Call, pointers: list[Tensor], operands: list[Tensor]) -> bool:
    """Pointers compared with numbers: which elements point to that unit. False if no rule fits."""
    (value,) = pointers[:1]
    pointer = call.lookup(value)
    assert isinstance(pointer, Pointer)
    num = len(pointer.atoms)
    others = [t for t in operands if t is not value]
    numbers = [a for a in call.args if isinstance(a, int | float) and not isinstance(a, bool)]
    if call.name in ("clamp", "clamp_min", "clamp_max") and not others:
        call.results.append((call.out, pointer))
        return True
    if len(pointers) > 1 or pointer.ends or len(others) + len(numbers) != 1:
        return False
    if others and (call.tracked(others[0]) is not None or others[0].is_meta):
        return False
    against = others[0] if others else torch.tensor(numbers[0])
    if call.name in ("ge", "gt", "lt", "le") and bool(((against >= num) | (against < 0)).all()):
        call.give_none()  # the same for every unit
        return True
    if call.name not in ("eq", "ne"):
        return False
    inside = (against >= 0) & (against < num)
    labels = torch.where(inside, pointer.atoms[against.long().clamp(0, num - 1)], NONE)
    call.give(labels.expand(call.out.shape))
    return True
