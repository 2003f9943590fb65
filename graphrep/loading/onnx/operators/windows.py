"""Operators that slide over positions: convolutions, pools, resizing, pixel shuffles."""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Unsupported, operator

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Window:
    """Kernel, stride, dilation and padding of a node, with the padding of both sides."""

    def __init__(self, call: Call, kernel: list[int]) -> None:
        sizes = list(call[0].shape[2:])
        dims = len(sizes)
        if dims not in CONVOLUTIONS or len(kernel) != dims:
            raise Unsupported(f"slides a kernel {kernel} over {dims} dimensions")
        self.kernel = kernel
        self.stride = call.attribute("strides", [1] * dims)
        self.dilation = call.attribute("dilations", [1] * dims)
        pads = call.attribute("pads", [0] * 2 * dims)
        auto = call.attribute("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [
                max(0, (ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
                for n, s, k, d in zip(sizes, self.stride, kernel, self.dilation, strict=True)
            ]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = less + more if auto == "SAME_UPPER" else more + less
        elif auto == "VALID":
            pads = [0] * 2 * dims
        if len(pads) != 2 * dims or len(self.stride) != dims or len(self.dilation) != dims:
            raise Unsupported(f"has settings for other than {dims} dimensions")
        self.before, self.after = pads[:dims], pads[dims:]

    @property
    def even(self) -> bool:
        return self.before == self.after

    def pad(self, x: Tensor, value: float) -> Tensor:
        """The input with its padding in place, last dimension first as torch has it."""
        pairs = [p for b, a in zip(self.before, self.after, strict=True) for p in (a, b)]
        return F.pad(x, pairs[::-1], value=value) if any(pairs) else x


@operator("Conv")
def conv(call: Call) -> Tensor:
    x, weight = call[0], call[1]
    window = Window(call, list(weight.shape[2:]))
    padding = window.before
    if not window.even:
        x, padding = window.pad(x, 0.0), [0] * len(window.kernel)
    return CONVOLUTIONS[len(window.kernel)](
        x, weight, call.get(2), window.stride, padding, window.dilation, call.attribute("group", 1)
    )


@operator("ConvTranspose")
def conv_transpose(call: Call) -> Tensor:
    weight = call[1]
    auto = call.attribute("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID") or call.attribute("output_shape"):
        raise Unsupported("derives its padding from the size of its output")
    window = Window(call, list(weight.shape[2:]))
    dims = len(window.kernel)
    extra = call.attribute("output_padding", [0] * dims)
    common = [min(b, a) for b, a in zip(window.before, window.after, strict=True)]
    found = TRANSPOSED[dims](
        call[0], weight, call.get(2), window.stride, common, extra,
        call.attribute("group", 1), window.dilation,
    )  # fmt: skip
    for axis, (b, a, c) in enumerate(zip(window.before, window.after, common, strict=True)):
        if b != a:
            found = found.narrow(axis + 2, b - c, found.shape[axis + 2] - (b - c) - (a - c))
    return found


@operator("MaxPool")
def max_pool(call: Call) -> Tensor:
    if len([o for o in call.node.outputs if o]) > 1:
        raise Unsupported("gives the places of the maxima too")
    window = Window(call, call.attribute("kernel_shape", []))
    x, padding = call[0], window.before
    if not window.even or any(2 * p > k for p, k in zip(padding, window.kernel, strict=True)):
        x, padding = window.pad(x, float("-inf")), [0] * len(window.kernel)
    return MAX_POOLS[len(window.kernel)](
        x, window.kernel, window.stride, padding, window.dilation,
        ceil_mode=bool(call.attribute("ceil_mode", 0)),
    )  # fmt: skip


@operator("AveragePool")
def average_pool(call: Call) -> Tensor:
    window = Window(call, call.attribute("kernel_shape", []))
    counted = bool(call.attribute("count_include_pad", 0))
    rounded = bool(call.attribute("ceil_mode", 0))
    if any(d != 1 for d in window.dilation):
        raise Unsupported("is an average pool with dilation")
    pool = AVERAGE_POOLS[len(window.kernel)]
    if window.even and all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True)):
        counted = counted or not any(window.before)
        return pool(call[0], window.kernel, window.stride, window.before, rounded, counted)
    if rounded:
        raise Unsupported("pads its sides unevenly and rounds sizes up")
    found = pool(window.pad(call[0], 0.0), window.kernel, window.stride)
    if counted:
        return found
    share = pool(window.pad(torch.ones_like(call[0][:1, :1]), 0.0), window.kernel, window.stride)
    return found / share


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Tensor:
    return call[0].mean(tuple(range(2, call[0].dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Tensor:
    return call[0].amax(tuple(range(2, call[0].dim())), keepdim=True)


@operator("Resize", "Upsample")
def resize(call: Call) -> Tensor:
    x, old = call[0], call.node.op == "Upsample" or call.node.opset < 11
    scales = call.numbers(1 if old else 2, "scales")
    sizes = None if old else call.numbers(3)
    axes = call.attribute("axes") or list(range(x.dim()))
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("keeps the aspect ratio")
    target = list(x.shape)
    for number, axis in enumerate(axes):
        if sizes:
            target[axis] = int(sizes[number])
        elif scales:
            target[axis] = int(x.shape[axis] * scales[number])
    if target[:2] != list(x.shape[:2]) or not 3 <= x.dim() <= 5:
        raise Unsupported(f"resizes {list(x.shape)} to {target}")
    mode = call.attribute("mode", "nearest")
    where = call.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if mode == "nearest":
        return F.interpolate(x, target[2:], mode="nearest")
    shapes = {"linear": MODES[x.dim() - 2], "cubic": "bicubic"}
    if mode not in shapes or where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise Unsupported(f"resizes by mode '{mode}' with '{where}'")
    return F.interpolate(x, target[2:], mode=shapes[mode], align_corners=where == "align_corners")


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Tensor:
    x, size = call[0], call.attribute("blocksize", 1)
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    n, c, h, w = x.shape
    parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Tensor:
    x, size = call[0], call.attribute("blocksize", 1)
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size**2, h // size, w // size)
