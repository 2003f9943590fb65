"""LSTM, GRU and plain recurrent layers, written out as products over time.

ONNX orders gates i o f c (LSTM) and z r h (GRU); weights stay as the file has them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Unsupported, operator

State = tuple[Tensor, ...]
LONGEST = 4096  # steps, each a handful of operations
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> list[Tensor]:
    """All outputs [time, directions, batch, hidden], then the last states."""
    kind = call.node.op
    x, weight, inner = call[0], call[1], call[2]
    hidden, directions = inner.shape[-1], weight.shape[0]
    batch_first = bool(call.attribute("layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    _check(call, kind, x, directions)
    way = call.attribute("direction", "forward")
    outputs, lasts = [], []
    for d in range(directions):
        backwards = way == "reverse" or d == 1
        cell = _cell(call, kind, d, hidden)
        state = tuple(_initial(call, i, d, x, hidden, batch_first) for i in _states(kind))
        steps: list[Tensor] = []
        times = range(x.shape[0])
        for t in reversed(times) if backwards else times:
            state = cell(x[t], state)
            steps.append(state[0])
        outputs.append(torch.stack(steps[::-1] if backwards else steps))
        lasts.append(state)
    found = [torch.stack(outputs, 1), *(torch.stack(s) for s in zip(*lasts, strict=True))]
    if batch_first:
        found = [found[0].permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in found[1:])]
    return found[: len(call.node.outputs)]


def _check(call: Call, kind: str, x: Tensor, directions: int) -> None:
    usual = USUAL[kind] * directions
    activations = call.attribute("activations") or usual
    if [a.lower() for a in activations] != [a.lower() for a in usual]:
        raise Unsupported(f"has the activations {activations}")
    if call.attribute("clip") or call.attribute("input_forget", 0):
        raise Unsupported("clips its gates or ties them")
    if kind == "LSTM" and call.get(7) is not None:
        raise Unsupported("has peepholes")
    if x.shape[0] > LONGEST:
        raise Unsupported(f"runs over {x.shape[0]:,} steps, more than {LONGEST:,}")
    lengths = call.get(4)
    if lengths is not None and call.numbers(4) != [x.shape[0]] * x.shape[1]:
        raise Unsupported("runs over sequences of different lengths")


def _states(kind: str) -> list[int]:
    """Which inputs hold the states before the first step."""
    return [5, 6] if kind == "LSTM" else [5]


def _initial(call: Call, index: int, d: int, x: Tensor, hidden: int, batch_first: bool) -> Tensor:
    value = call.get(index)
    known = call.known[index] if value is not None else None
    if value is None or (known is not None and known.numbers and not any(known.numbers)):
        return torch.zeros(x.shape[1], hidden, dtype=x.dtype, device=x.device)
    return value[:, d] if batch_first else value[d]


def _cell(call: Call, kind: str, d: int, hidden: int) -> Callable[[Tensor, State], State]:
    weight, inner, bias = call[1][d], call[2][d], call.get(3)
    gates = weight.shape[0]
    own = None if bias is None else bias[d][:gates]
    other = None if bias is None else bias[d][gates:]

    def lstm(x: Tensor, state: State) -> State:
        i, o, f, c = (F.linear(x, weight, own) + F.linear(state[0], inner, other)).chunk(4, 1)
        cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(c)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def gru(x: Tensor, state: State) -> State:
        a = F.linear(x, weight, own).chunk(3, 1)
        if call.attribute("linear_before_reset", 0):
            b = F.linear(state[0], inner, other).chunk(3, 1)
            z, r = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            h = torch.tanh(a[2] + r * b[2])
        else:
            parts = inner.chunk(3, 0), (None,) * 3 if other is None else other.chunk(3, 0)
            z = torch.sigmoid(a[0] + F.linear(state[0], parts[0][0], parts[1][0]))
            r = torch.sigmoid(a[1] + F.linear(state[0], parts[0][1], parts[1][1]))
            h = torch.tanh(a[2] + F.linear(r * state[0], parts[0][2], parts[1][2]))
        return ((1 - z) * h + z * state[0],)

    def plain(x: Tensor, state: State) -> State:
        return (torch.tanh(F.linear(x, weight, own) + F.linear(state[0], inner, other)),)

    return {"LSTM": lstm, "GRU": gru, "RNN": plain}[kind]
