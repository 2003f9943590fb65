"""Operators that move data: reshapes, slices, gathers, pads, repeats."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Unsupported, axis_of, operator


@operator("Reshape")
def reshape(call: Call) -> Tensor:
    x, sizes = call[0], [int(s) for s in call.required(1, "shape")]
    if not call.attribute("allowzero", 0):
        sizes = [x.shape[i] if s == 0 and i < x.dim() else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(call: Call) -> Tensor:
    x, axis = call[0], call.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.flatten(1) if axis == 1 and x.dim() > 1 else x.reshape(x.shape[:axis].numel(), -1)


@operator("Transpose")
def transpose(call: Call) -> Tensor:
    return call[0].permute(call.attribute("perm") or list(range(call[0].dim()))[::-1])


@operator("Squeeze")
def squeeze(call: Call) -> Tensor:
    axes = call.numbers(1, "axes")
    if axes is None:
        return call[0].squeeze()
    for axis in sorted((axis_of(a, call[0].dim()) for a in axes), reverse=True):
        if call[0].shape[axis] != 1:
            raise Unsupported(f"squeezes an axis of size {call[0].shape[axis]}")
    found = call[0]
    for axis in sorted((axis_of(a, found.dim()) for a in axes), reverse=True):
        found = found.squeeze(axis)
    return found


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    x, axes = call[0], call.required(1, "axes")
    for axis in sorted(axis_of(int(a), x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call) -> Tensor:
    return call[0].expand(torch.broadcast_shapes(call[0].shape, call.required(1)))


@operator("Concat")
def concat(call: Call) -> Tensor:
    return torch.cat(call.tensors(), call.attribute("axis", 1))


@operator("Slice")
def slice_(call: Call) -> Tensor:
    x, starts, ends = call[0], call.required(1, "starts"), call.required(2, "ends")
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(axis, x.dim())
        chosen = range(x.shape[axis])[slice(start, _end(end, step, x.shape[axis]), step)]
        before = (slice(None),) * axis
        if step > 0:
            x = x[(*before, slice(chosen.start, max(chosen.stop, chosen.start), step))]
        else:
            x = x.flip(axis)
            first = x.shape[axis] - 1 - chosen.start
            x = x[(*before, slice(first, first - step * len(chosen), -step))]
    return x


def _end(end: int, step: int, size: int) -> int | None:
    """Python counts -1 from the back; going backwards ONNX means the very front by it."""
    return None if step < 0 and end < -size else end


@operator("Split")
def split(call: Call) -> list[Tensor]:
    axis = axis_of(call.attribute("axis", 0), call[0].dim())
    sizes, size = call.numbers(1, "split"), call[0].shape[axis]
    if sizes is None:
        parts = call.attribute("num_outputs", len(call.node.outputs))
        each = -(-size // parts)
        sizes = [min(each, max(0, size - i * each)) for i in range(parts)]
    return list(torch.split(call[0], [int(s) for s in sizes], axis))


@operator("Gather")
def gather(call: Call) -> Tensor:
    """Rows by number; a number that is known picks them as a slice does."""
    x, places, known = call[0], call[1], call.known[1]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    if known is not None and places.dim() == 0:
        place = call.required(1)[0]
        if not -x.shape[axis] <= place < x.shape[axis]:
            raise Unsupported(f"picks place {place} of {x.shape[axis]}")
        return x.select(axis, place)
    places = torch.where(places < 0, places + x.shape[axis], places).long()
    if x.dim() == 2 and axis == 0 and x.is_floating_point():
        return F.embedding(places, x)
    found = x.index_select(axis, places.flatten())
    return found.unflatten(axis, places.shape) if places.dim() != 1 else found


@operator("GatherElements")
def gather_elements(call: Call) -> Tensor:
    axis = axis_of(call.attribute("axis", 0), call[0].dim())
    places = torch.where(call[1] < 0, call[1] + call[0].shape[axis], call[1])
    return call[0].gather(axis, places.long())


@operator("GatherND")
def gather_nd(call: Call) -> Tensor:
    if call.attribute("batch_dims", 0):
        raise Unsupported("gathers for each member of a batch")
    return call[0][tuple(call[1].long().unbind(-1))]


@operator("ScatterElements")
def scatter_elements(call: Call) -> Tensor:
    if call.attribute("reduction", "none") != "none":
        raise Unsupported(f"scatters by '{call.attribute('reduction')}'")
    axis = axis_of(call.attribute("axis", 0), call[0].dim())
    places = torch.where(call[1] < 0, call[1] + call[0].shape[axis], call[1])
    return call[0].scatter(axis, places.long(), call[2])


@operator("ScatterND")
def scatter_nd(call: Call) -> Tensor:
    if call.attribute("reduction", "none") != "none":
        raise Unsupported(f"scatters by '{call.attribute('reduction')}'")
    return call[0].index_put(tuple(call[1].long().unbind(-1)), call[2])


@operator("Pad")
def pad(call: Call) -> Tensor:
    x, mode = call[0], call.attribute("mode", "constant")
    pads = [int(p) for p in call.required(1, "pads" if call.node.opset >= 2 else "paddings")]
    axes = call.numbers(3) or list(range(x.dim()))
    if len(pads) != 2 * len(axes):
        raise Unsupported(f"has {len(pads)} pads for {len(axes)} axes")
    sides = [[0, 0] for _ in range(x.dim())]
    for i, axis in enumerate(axes):
        sides[axis_of(int(axis), x.dim())] = [pads[i], pads[i + len(axes)]]
    fewest = 1 if mode == "constant" else x.dim() - 2  # torch's other modes take 2 axes less
    while len(sides) > fewest and sides[0] == [0, 0]:
        sides = sides[1:]
    pairs = [p for side in reversed(sides) for p in side]
    if mode == "constant":
        return F.pad(x, pairs, value=call.number(2, "value", 0.0) or 0.0)
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in modes:
        raise Unsupported(f"pads by mode '{mode}'")
    return F.pad(x, pairs, mode=modes[mode])


@operator("Tile")
def tile(call: Call) -> Tensor:
    return call[0].repeat([int(r) for r in call.required(1)])


@operator("Trilu")
def triangle(call: Call) -> Tensor:
    function = torch.triu if call.attribute("upper", 1) else torch.tril
    return function(call[0], int(call.number(1, default=0)))
