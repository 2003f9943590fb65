"""Many SIRENs fitted at once: stacked parameters, gradients written out, torch's Adam.

One step of a 2-32-32-1 SIREN is 5 MFLOP in matrices that are too small to be
worth calls of their own, so members are stacked and multiplied in batches.
Three more things together halve the time of torch's own gradients of the stack:

- pixels form a grid, so that the first layer's sin(a_i + b_j) and its gradient
  are products of the sines and cosines of a row with those of a column;
- slices of members pass through buffers that are made once and stay in the cache;
- numpy's sine of float32 takes half as long as torch's on a CPU.

Slices are always full, and chunks of a recipe begin with one. So every member
meets the same operations at the same place of memory, and its bits do not
depend on who else is fitted.

Letters in shapes: M members (whole slices of them), S members of a slice, P
parameters of one, C, H, W channels, height and width of an image, N = H W, U
units of the first layer.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .siren import axis

SLICE = 16  # members; whole vectors of the CPU, since Adam rounds a remainder in another way


def fit(
    start: Tensor,
    pixels: Tensor,
    *,
    hidden: tuple[int, ...],
    omega: float,
    learning_rate: float,
    steps: Collection[int],
) -> tuple[Tensor, Tensor]:
    """Fit a SIREN to each image: Adam on the mean squared error over all its pixels.

    Args:
        start: A `Siren` of these settings a row, in the order of its state dict: [any, P].
        pixels: Brightness from 0 to 1, an image a member: [any, C, H, W].
        steps: After which to keep the values; 0 is the start.

    Returns:
        Parameters [steps, any, P] and mean squared errors [steps, any], by ascending step.
    """
    num = len(start)
    stack = _Stack(_whole_slices(start), _whole_slices(pixels), hidden, omega)
    optimiser = torch.optim.Adam([stack.theta], lr=learning_rate, fused=True)
    thetas, errors = [], []
    with torch.no_grad(), np.errstate(invalid="ignore"):  # members may diverge
        for step in range(max(steps) + 1):
            if step > 0:
                stack.differentiate()
                optimiser.step()
            if step in steps:
                thetas.append(stack.theta[:num].clone())
                errors.append(stack.errors()[:num])
    return torch.stack(thetas), torch.stack(errors)


def _whole_slices(rows: Tensor) -> Tensor:
    """The first rows once more stand where members are missing in the last slice."""
    missing = -len(rows) % SLICE
    return torch.cat([rows, rows[torch.arange(missing) % len(rows)]])


class _Stack:
    """The parameters of all members, their gradients, and the way from one to the other."""

    def __init__(
        self, start: Tensor, pixels: Tensor, hidden: tuple[int, ...], omega: float
    ) -> None:
        num, channels, height, width = pixels.shape
        widths = (2, *hidden, channels)
        self.theta = start.clone().requires_grad_()
        self.theta.grad = self.grad = torch.zeros_like(start)
        # sin(omega (W x + b)) is sin(W' x + b'): omega enters once, and so do its gradients.
        self.factor = torch.full_like(start[0], omega)
        self.factor[-channels * (hidden[-1] + 1) :] = 1  # the last layer
        self.scaled = torch.empty_like(start)
        (weight, bias), *values = _layers(self.scaled, widths)
        (weight_grad, bias_grad), *grads = _layers(self.grad, widths)
        self.first = _GridLayer(weight, bias, weight_grad, bias_grad, height, width)
        inputs = [start.new_empty(SLICE, n, height * width) for n in hidden]
        outputs = [start.new_empty(SLICE, n, height * width) for n in (*hidden[1:], channels)]
        self.slices = [
            _Slice(
                self.first.part(rows),
                [(w[rows], b[rows]) for w, b in values],
                [(w[rows], b[rows]) for w, b in grads],
                pixels[rows].flatten(2),
                inputs,
                outputs,
            )
            for rows in (slice(first, first + SLICE) for first in range(0, num, SLICE))
        ]

    def differentiate(self) -> None:
        """Write the gradients of all members' errors into `theta.grad`."""
        self._prepare()
        for part in self.slices:
            part.forward()
            part.backward()
        self.first.backward()
        self.grad.mul_(self.factor)

    def errors(self) -> Tensor:
        """The mean squared error of each member, [M]."""
        self._prepare()
        return torch.cat([part.forward().square().mean((1, 2)) for part in self.slices])

    def _prepare(self) -> None:
        torch.mul(self.theta, self.factor, out=self.scaled)
        self.first.forward()


class _GridLayer:
    """The first layer, sin(a_i + b_j) at row i and column j, by what rows and columns add.

    With a = w_row * row + bias and b = w_column * column, a unit's image is
    [sin a, cos a] [cos b, sin b]^T. With G the loss's gradient there, that of b is
    cos b * (cos a G) - sin b * (sin a G); that of a, summed with weights, is alike.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        weight_grad: Tensor,
        bias_grad: Tensor,
        height: int,
        width: int,
    ) -> None:
        num, units, _ = weight.shape
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = weight_grad, bias_grad
        self.rows, self.columns = axis(height, weight.dtype), axis(width, weight.dtype)
        self.left = weight.new_empty(num, units, 4, height)  # sin a, cos a, both times the row
        self.right = weight.new_empty(num, units, 2, width)  # cos b, sin b
        self.moments = weight.new_empty(num, units, 4, width)  # left G

    def forward(self) -> None:
        a = self.weight[:, :, :1] * self.rows + self.bias
        b = self.weight[:, :, 1:] * self.columns
        _sine(a, self.left[:, :, 0])
        _cosine(a, self.left[:, :, 1])
        torch.mul(self.left[:, :, :2], self.rows, out=self.left[:, :, 2:])
        _cosine(b, self.right[:, :, 0])
        _sine(b, self.right[:, :, 1])

    def part(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """`left`, `right` and `moments` of some members, a matrix a unit."""
        left, right, moments = self.left[rows], self.right[rows], self.moments[rows]
        return left.flatten(0, 1), right.flatten(0, 1), moments.flatten(0, 1)

    def backward(self) -> None:
        """Gradients from `moments`."""
        cosine, sine = self.right.unbind(2)
        by_sine, by_cosine, row_by_sine, row_by_cosine = self.moments.unbind(2)
        b_grad = cosine * by_cosine - sine * by_sine
        row_grad = cosine * row_by_cosine - sine * row_by_sine
        self.weight_grad[:, :, 0] = row_grad.sum(2)
        self.weight_grad[:, :, 1] = b_grad @ self.columns
        self.bias_grad[:] = b_grad.sum(2, keepdim=True)


class _Slice:
    """Some members on their way through buffers that all slices share."""

    def __init__(
        self,
        first: tuple[Tensor, Tensor, Tensor],
        values: list[tuple[Tensor, Tensor]],
        grads: list[tuple[Tensor, Tensor]],
        pixels: Tensor,
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        self.left, self.right, self.moments = first
        self.values, self.grads, self.pixels = values, grads, pixels
        self.inputs, self.outputs = inputs, outputs  # of each layer but the first
        units = len(self.left)
        self.image = inputs[0].view(units, self.left.shape[2], self.right.shape[2])

    def forward(self) -> Tensor:
        """What the members' images have too much, [S, C, N]."""
        torch.bmm(self.left[:, :2].transpose(1, 2), self.right, out=self.image)
        for i, (weight, bias) in enumerate(self.values):
            if i > 0:
                _sine(self.outputs[i - 1], self.inputs[i])
            torch.baddbmm(bias, weight, self.inputs[i], out=self.outputs[i])
        return self.outputs[-1].sub_(self.pixels)

    def backward(self) -> None:
        """Gradients of the mean squared error, after `forward`, whose results they replace."""
        grad = self.outputs[-1].mul_(2 / self.pixels[0].numel())
        for i in reversed(range(len(self.values))):
            weight, (weight_grad, bias_grad) = self.values[i][0], self.grads[i]
            torch.bmm(grad, self.inputs[i].transpose(1, 2), out=weight_grad)
            torch.sum(grad, 2, keepdim=True, out=bias_grad)
            torch.bmm(weight.transpose(1, 2), grad, out=self.inputs[i])
            if i > 0:
                grad = _cosine(self.outputs[i - 1], self.outputs[i - 1]).mul_(self.inputs[i])
        torch.bmm(self.left, self.image, out=self.moments)


def _layers(theta: Tensor, widths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Each layer's weights [M, out, in] and biases [M, out, 1], as views of theta [M, P]."""
    shapes = [shape for n, m in pairwise(widths) for shape in ((m, n), (m, 1))]
    pieces = theta.split([m * n for m, n in shapes], dim=1)
    views = [piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return list(zip(views[::2], views[1::2], strict=True))


def _sine(x: Tensor, out: Tensor) -> Tensor:
    np.sin(x.numpy(), out=out.numpy())
    return out


def _cosine(x: Tensor, out: Tensor) -> Tensor:
    np.cos(x.numpy(), out=out.numpy())
    return out
