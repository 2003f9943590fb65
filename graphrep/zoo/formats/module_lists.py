"""The networks of the ModelZoos: layers in one list, their keys `module_list.{i}.weight`.

Which layers a network has follows from the places of its weights in the list: poolings,
activations and dropout take places but leave no keys. Widths follow from shapes, and so does
the image size, as far as the network depends on it.

Source: Schürholt et al. 2022, arXiv:2209.14764; ModelZoos/ModelZooDataset, def_net.py: CNN and
CNN2 (28 x 28 pixels; 5 x 5, 5 x 5 and 2 x 2 kernels, dropout only where it is above 0), CNN3
(32 x 32 pixels; 3 x 3 kernels, always with dropout), MLP. Pooling comes before the activation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from .layers import ACTIVATIONS, dtype_name, dtype_of

KEY = re.compile(r"module_list\.(\d+)\.(weight|bias)")
WEIGHTED = {4: "conv", 2: "linear"}  # by the number of axes of their weights
USUAL_SIDES = (28, 32)  # pixels; what the published networks were trained on


class LayerList(nn.Module):
    """Layers in a row, under the names that the published checkpoints have."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


def describe_list(state: Mapping[str, Tensor], activation: str) -> dict[str, Any]:
    """The design of a state dict's network; `build_list` is what it stands for.

    Raises:
        ValueError: none of the known networks; lists what was found.
    """
    found = {m: state[key] for key in state if (m := KEY.fullmatch(key))}
    if len(found) < len(state):
        raise ValueError(_unknown(state))
    weights = {int(m[1]): value for m, value in found.items() if m[2] == "weight"}
    biases = {int(m[1]) for m in found if m[2] == "bias"}
    places = sorted(weights)
    if not places or biases not in (set(), set(places)):
        raise ValueError(_unknown(state))
    present = {place: WEIGHTED.get(weights[place].dim(), "") for place in places}
    shapes = [list(weights[place].shape) for place in places]
    for network, dropout in product(("CNN", "CNN3", "MLP"), (False, True)):
        steps = _steps(network, dropout, len(places))
        if {i: step for i, step in enumerate(steps) if step in WEIGHTED.values()} == present:
            break
    else:
        raise ValueError(_unknown(state))
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation '{activation}' is none of {', '.join(ACTIVATIONS)}; the weights alone do "
            "not tell it"
        )
    dtype = weights[places[0]].dtype
    for value in (*weights.values(), *(state[m[0]] for m in found)):
        dtype = torch.promote_types(dtype, value.dtype)
    return {
        "kind": "modelzoos",
        "network": network,
        "activation": activation,
        "dropout": dropout,  # whether the list has places for it; they hold no weights
        "bias": bool(biases),
        "shapes": shapes,
        "input_shape": _input_shape(steps, shapes, state),
        "dtype": dtype_name(dtype),
    }


def build_list(design: Mapping[str, Any]) -> LayerList:
    """The module of a design, with torch's own initial values."""
    shapes = iter(design["shapes"])
    layers: list[nn.Module] = []
    for step in _steps(design["network"], design["dropout"], len(design["shapes"])):
        match step:
            case "conv":
                outputs, inputs, *kernel = next(shapes)
                layers.append(nn.Conv2d(inputs, outputs, tuple(kernel), bias=design["bias"]))
            case "linear":
                outputs, inputs = next(shapes)
                layers.append(nn.Linear(inputs, outputs, bias=design["bias"]))
            case "pool":
                layers.append(nn.MaxPool2d(2, 2))
            case "activation":
                layers.append(ACTIVATIONS[design["activation"]]())
            case "flatten":
                layers.append(nn.Flatten())
            case "dropout":
                layers.append(nn.Identity())
    return LayerList(layers).to(dtype_of(design))


def _steps(network: str, dropout: bool, num_weighted: int) -> list[str]:
    """What stands at each place of the list."""
    drop = ["dropout"] if dropout else []
    pooled = ["conv", "pool", "activation", *drop]
    head = ["flatten", "linear", "activation", *drop, "linear"]
    match network:
        case "CNN":
            return [*pooled, *pooled, "conv", "activation", *head]
        case "CNN3":
            return [*pooled, *pooled, *pooled, *head]
        case _:
            return [*["linear", "activation", *drop] * (num_weighted - 1), "linear"]


def _input_shape(
    steps: Sequence[str], shapes: Sequence[Sequence[int]], state: Mapping[str, Tensor]
) -> list[int]:
    """Of one input: a vector, or the usual or smallest square image that fits all layers."""
    if "conv" not in steps:
        widths_fit = all(after[1] == before[0] for before, after in pairwise(shapes))
        if not widths_fit:
            raise ValueError(_unknown(state))
        return [shapes[0][1]]
    for side in (*USUAL_SIDES, *range(1, 257)):
        if _fits(steps, shapes, side):
            return [shapes[0][1], side, side]
    raise ValueError(_unknown(state))


def _fits(steps: Sequence[str], shapes: Sequence[Sequence[int]], side: int) -> bool:
    """Whether a square image passes through all layers."""
    remaining = iter(shapes)
    width = shapes[0][1]  # channels, later features
    for step in steps:
        match step:
            case "conv":
                outputs, inputs, height, kernel_width = next(remaining)
                if inputs != width or height != kernel_width or side < height:
                    return False
                width, side = outputs, side - height + 1
            case "pool":
                side //= 2
            case "flatten":
                width *= side * side
            case "linear":
                outputs, inputs = next(remaining)
                if inputs != width:
                    return False
                width = outputs
    return True


def _unknown(state: Mapping[str, Tensor]) -> str:
    shown = [f"{key} {list(value.shape)}" for key, value in list(state.items())[:12]]
    more = f" and {len(state) - 12} more" if len(state) > 12 else ""
    return (
        "is none of the networks CNN, CNN2, CNN3, MLP and ResNet of the ModelZoos; its keys are "
        f"{', '.join(shown)}{more}. Import it as a folder of checkpoints with --model instead."
    )
