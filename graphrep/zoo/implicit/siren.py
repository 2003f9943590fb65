"""Images as networks: a SIREN takes a place in the image and gives its brightness.

Knows nothing of fitting. Places are (row, column), each from -1 to 1, the
centres of the outermost pixels at the ends.
Source: Sitzmann et al. 2020, arXiv:2006.09661. The size 2-32-32-1 with omega
30 is that of the zoos of Navon et al. 2023, arXiv:2301.12780, and Zhou et al.
2023, arXiv:2302.14040.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Siren(nn.Module):
    """A multi-layer perceptron with x -> sin(omega x) after each hidden layer."""

    def __init__(
        self, hidden: tuple[int, ...] = (32, 32), num_channels: int = 1, omega: float = 30.0
    ) -> None:
        super().__init__()
        widths = (2, *hidden, num_channels)
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.omega = omega

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Siren:
        """Draw all values as the paper does, and return the module.

        Weights are uniform within 1 / n of the first layer's n inputs and within
        sqrt(6 / n) / omega of the others'. The paper leaves biases open; as in its
        authors' code they are torch's, uniform within 1 / sqrt(n).
        """
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            n = layer.in_features
            bound = math.sqrt(6 / n) / self.omega if i else 1 / n
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Brightness [N, C] at places [N, 2], from 0 (black) to 1, not clipped."""
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.sin(self.omega * layer(x))
        return last(x)


def build_siren(design: Mapping[str, Any]) -> Siren:
    """The module of a design of the kind `siren`, with values yet to be loaded."""
    return Siren(tuple(design["hidden"]), design["image_shape"][0], design["omega"])


def axis(num_pixels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Centres of a row of pixels, [num_pixels] from -1 to 1."""
    return torch.linspace(-1, 1, num_pixels, dtype=dtype)


def places(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Centres of an image's pixels, row by row: [height * width, 2]."""
    return torch.cartesian_prod(axis(height, dtype), axis(width, dtype))


@torch.no_grad()
def render(siren: nn.Module, height: int, width: int) -> Tensor:
    """The image of a SIREN at any resolution, [C, height, width], not clipped to 0..1."""
    dtype = next(siren.parameters()).dtype
    values: Tensor = siren(places(height, width, dtype))
    return values.T.reshape(-1, height, width)
