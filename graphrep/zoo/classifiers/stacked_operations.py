"""One call of many networks of one design, each with its own parameters and images.

The networks of a stack lie side by side as channels: the module is called on images
[B, S C, H, W], and the operations in which channels meet (linear layers, convolutions,
normalisation, dropout) are replaced by ones that keep the networks apart. All others need
no change. In memory the images of a batch are innermost, so that everything runs over whole
batches and a linear layer or a convolution is one matrix product a network. The modules
know nothing of it, and this file nothing of training.

`torch.func.vmap` does the same for any module, but makes grouped convolutions of few
channels a group, which are slower: benchmarks/zoo_training.py measures both.

Letters in shapes: S networks, B images of a batch, C channels or features, O those of an
output, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
_PLAIN_POOLING = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}


def call_stacked(
    module: nn.Module,
    values: Mapping[str, Tensor],
    images: Tensor,
    weights: Tensor,
    masks: Iterable[Tensor] = (),
) -> Tensor:
    """Logits [S, O, B] of S networks, each of its own images.

    Args:
        module: An MLP, CNN or ResNet of `networks`; its mode counts, its values do not.
        values: Parameters and buffers by name, each [S, ...]. Running statistics change in
            place where the module is in training mode.
        images: [S, B, C, H, W].
        weights: [S, B], what each image counts in means over a batch: equal for those that
            count, 0 for those that only fill it up, 1 in all. The first always counts.
        masks: Factors of the dropouts in the order of their calls, each [S, B, ...] of the
            shape that one network's dropout sees; dropouts beyond them keep their inputs.
    """
    x = side_by_side(images.movedim(1, -1).contiguous())
    with _StackedOperations(weights, masks):
        logits = functional_call(module, dict(values), (x,), tie_weights=False)  # none are tied
    return apart(logits, len(images))


@torch.no_grad()
def largest_operation(module: nn.Module, image: Tensor) -> int:
    """Numbers that a network's largest operation reads or writes for one image [1, C, H, W].

    The module is left in evaluation mode.
    """
    module.eval()
    with _Sizes() as sizes:
        module(image)
    return max(image.numel(), *sizes.found)


def apart(x: Tensor, num: int) -> Tensor:
    """[B, S C, ...] as [S, C, ..., B]."""
    return x.movedim(0, -1).unflatten(0, (num, -1))


def side_by_side(x: Tensor) -> Tensor:
    """[S, C, ..., B] as [B, S C, ...]."""
    return x.flatten(0, 1).movedim(-1, 0)


class _Sizes(TorchFunctionMode):
    """Counts the numbers of operations' results and of the patches that convolutions read."""

    def __init__(self) -> None:
        super().__init__()
        self.found = [0]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.found.append(result.numel())
        if func is F.conv2d:
            self.found.append(args[1][0].numel() * result[0, 0].numel())
        return result


class _StackedOperations(TorchFunctionMode):
    """Replaces the operations of torch in which channels meet, called as torch's layers do."""

    def __init__(self, weights: Tensor, masks: Iterable[Tensor]) -> None:
        super().__init__()
        self.weights = weights
        self.masks: Iterator[Tensor] = iter(masks)
        self._replacements: dict[Callable[..., Any], Callable[..., Tensor]] = {
            F.linear: _linear,
            F.conv2d: _convolve,
            F.max_pool2d: _max_pool,
            F.batch_norm: self._normalise,
            F.dropout: self._drop,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self._replacements.get(func, func)(*args, **(kwargs or {}))

    def _drop(self, input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        mask = next(self.masks, None) if training else None
        if mask is None:
            return input
        return side_by_side(apart(input, len(mask)) * mask.movedim(1, -1))

    def _normalise(
        self,
        input: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """`F.batch_norm` over the images that count; torch's own has no weights."""
        x = apart(input, len(weight)).flatten(2)  # [S, C, H W B]
        if training:
            num_places = x.shape[-1] // len(input)
            share = (self.weights / num_places).repeat(1, num_places).unsqueeze(1)
            mean = (x * share).sum(-1, keepdim=True)
            centred = x - mean
            variance = (centred.square() * share).sum(-1, keepdim=True)
            with torch.no_grad():
                num = num_places / self.weights[:, :1]
                running_mean.lerp_(mean.squeeze(-1), momentum)
                running_var.lerp_(variance.squeeze(-1) * (num / (num - 1)), momentum)
        else:
            centred, variance = x - running_mean.unsqueeze(-1), running_var.unsqueeze(-1)
        scale = (variance + eps).rsqrt() * weight.unsqueeze(-1)
        y = torch.addcmul(bias.unsqueeze(-1), centred, scale)
        return side_by_side(y.unflatten(-1, (*input.shape[2:], len(input))))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return side_by_side(_products(weight, apart(input, len(weight)), bias))


def _products(matrices: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(matrices, columns)
    return torch.baddbmm(bias.unsqueeze(-1), matrices, columns)


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    assert dilation == (1, 1) and groups == 1
    y, _ = cast(Any, _Convolution).apply(apart(input, len(weight)), weight, bias, stride, padding)
    return side_by_side(y)


class _Convolution(torch.autograd.Function):
    """Convolutions, each a matrix product with the patches of its images.

    torch's gradient of `unfold` is slow; here each patch is added to where it was read.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> tuple[Tensor, Tensor]:
        height, width = weight.shape[-2:]
        x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        patches = x.unfold(2, height, stride[0]).unfold(3, width, stride[1])
        patches = patches.permute(0, 1, 5, 6, 2, 3, 4)  # [S, C, height, width, H, W, B]
        columns = patches.reshape(len(x), weight[0, 0].numel(), -1)
        y = _products(weight.flatten(2), columns, bias)
        return y.unflatten(-1, patches.shape[-3:]), columns

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)  # of the columns, which nobody differentiates
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(weight, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        weight, columns = ctx.saved_tensors
        dy = gradients[0].flatten(2)
        dx = _spread(ctx, weight, dy, gradients[0].shape[2:4]) if ctx.needs_input_grad[0] else None
        dw = torch.bmm(dy, columns.transpose(1, 2)).view_as(weight)
        return dx, dw, dy.sum(-1) if ctx.needs_input_grad[2] else None, None, None


def _spread(ctx: Any, weight: Tensor, dy: Tensor, size: torch.Size) -> Tensor:
    """Gradient of a convolution's input."""
    num, channels, height, width, num_images = ctx.shape
    (down, right), (top, left) = ctx.stride, ctx.padding
    patches = torch.bmm(weight.flatten(2).transpose(1, 2), dy)
    patches = patches.view(num, channels, *weight.shape[-2:], *size, num_images)
    dx = dy.new_zeros(num, channels, height + 2 * top, width + 2 * left, num_images)
    for i in range(weight.shape[-2]):
        for j in range(weight.shape[-1]):
            rows = slice(i, i + size[0] * down, down)
            dx[:, :, rows, j : j + size[1] * right : right] += patches[:, :, i, j]
    return dx[:, :, top : top + height, left : left + width]


def _max_pool(input: Tensor, kernel_size: int, stride: Any = None, **others: Any) -> Tensor:
    assert kernel_size == 2 and stride is None and others == _PLAIN_POOLING
    if not input.requires_grad:
        a, b, c, d = _corners(input.movedim(0, -1))
        return torch.maximum(torch.maximum(a, b), torch.maximum(c, d)).movedim(-1, 0)
    y, *_ = cast(Any, _MaxPool).apply(input.movedim(0, -1))
    return y.movedim(-1, 0)


class _MaxPool(torch.autograd.Function):
    """Maximum over windows of 2 x 2 of [S C, H, W, B], vectorised over the images.

    Of equal values the first has the gradient, as in torch.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a, b, c, d = _corners(x)
        top, bottom = torch.maximum(a, b), torch.maximum(c, d)
        y = torch.maximum(top, bottom)
        return y, _greater(b, a), _greater(d, c), _greater(bottom, top)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.shape = inputs[0].shape
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        right_above, right_below, below = ctx.saved_tensors
        dy = gradients[0]
        height, width = ctx.shape[1:3]
        dx = (dy.new_zeros if height % 2 or width % 2 else dy.new_empty)(ctx.shape)
        a, b, c, d = _corners(dx)
        lower = dy * below
        upper = dy - lower
        for half, is_right, left, right in ((upper, right_above, a, b), (lower, right_below, c, d)):
            torch.mul(half, is_right, out=right)
            torch.sub(half, right, out=left)
        return dx


def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four places of all windows, row by row."""
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    x = x[:, :height, :width]
    return x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]


def _greater(x: Tensor, y: Tensor) -> Tensor:
    """1 where x > y, else 0: numbers, with which products are faster than with booleans."""
    return torch.gt(x, y, out=torch.empty_like(x))
