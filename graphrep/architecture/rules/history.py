"""What was done to a value since its units were made: equal digests, equal treatment.

Labels say which units a tensor holds, not what became of them. Where parts of one set of units
are put side by side again, those that were treated differently are told apart by this digest.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..labels import Activation, varying_dims
from .call import Call, settings, tensors_in

COPIES = {"clone", "_to_copy", "detach", "alias", "contiguous", "to", "positive", "expand"}
PARTS = {"slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind"}
PARTS |= {f"unsafe_{name}" for name in PARTS}


def histories(call: Call, constants: WeakIdKeyDictionary) -> list[int]:
    """A digest for each result of a call: its operation, its plain arguments, what came before."""
    operands = tensors_in([*call.args, *call.kwargs.values()])
    first = call.tracked(operands[0]) if operands else None
    if call.name in COPIES and isinstance(first, Activation):
        return [first.history] * len(call.results)
    if call.name in PARTS and isinstance(first, Activation):
        dim = settings(call).get("dim", 0)
        if dim % max(1, first.labels.dim()) in varying_dims(first.labels):
            return [first.history] * len(call.results)  # some of its units, treated alike so far
    before = [_digest_of(call, operand, constants) for operand in operands]
    text = f"{call.name}{plain_text(call.args)}{plain_text(call.kwargs)}{before}"
    return [_hash(f"{text}{number}") for number in range(len(call.results))]


def _digest_of(call: Call, value: Tensor, constants: WeakIdKeyDictionary) -> str:
    tracked = call.tracked(value)
    if isinstance(tracked, Activation):
        return str(tracked.history)
    if tracked is not None:
        return type(tracked).__name__
    if value.is_meta or value.layout != torch.strided:
        return f"constant {constants.setdefault(value, len(constants))}"
    numbers = value.detach().flatten()
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers).flatten()
    numbers = numbers.double()
    if len(numbers) > 4096:
        place = torch.arange(len(numbers), dtype=torch.float64).sin()
        numbers = torch.stack([numbers.sum(), (numbers * place).nan_to_num().sum()])
    return plain_text(numbers.tolist())


def plain_text(value: Any) -> str:
    """Arguments without their tensors' values, for telling two runs apart."""
    if isinstance(value, Tensor):
        return "T"
    if isinstance(value, list | tuple):
        return f"({','.join(map(plain_text, value))})"
    if isinstance(value, dict):
        return str({k: plain_text(v) for k, v in value.items()})
    return str(value)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
