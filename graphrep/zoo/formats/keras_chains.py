"""Chains of Keras layers from a table of their variables: other axis orders, torch's names.

A chain is convolutions, an average over the image, dense layers; or dense layers alone, which
read an image as Keras flattens it: channels last.

Letters in shapes: H, W kernel, I inputs, O outputs.
"""

from __future__ import annotations

import ast
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from .layers import ACTIVATIONS, dtype_of

VARIABLE = re.compile(r"(?P<layer>.*)/(?P<part>kernel|bias)(:0)?")
KERAS_ACTIVATIONS = ("relu", "tanh", "sigmoid", "selu", "elu", "gelu", "linear")
COLUMNS = ("varname", "start_idx", "end_idx", "shape")


@dataclass(frozen=True)
class Variable:
    """One variable of a chain, and the columns that hold it."""

    name: str
    key: str  # of torch's state dict, such as conv1.weight
    start: int
    end: int
    shape: tuple[int, ...]

    def to_torch(self, values: np.ndarray) -> np.ndarray:
        """A kernel's values with torch's axes: HWIO -> OIHW, IO -> OI; a bias as it is."""
        match values.ndim:
            case 4:
                return values.transpose(3, 2, 0, 1)
            case 2:
                return values.transpose(1, 0)
            case _:
                return values


def read_layout(file: Path) -> list[Variable]:
    """The variables of a layout.csv, in the order of their columns.

    Raises:
        ValueError: not such a table, columns in no variable or in two, or variables that are
            neither a kernel nor a bias of a convolution or dense layer.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not a readable table ({str(error)[:100]}).") from error
    if missing := [c for c in COLUMNS if c not in table]:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"{file}: has no column {', '.join(missing)}; found {found}.")
    entries = sorted((_entry(file, line) for line in table.to_dict("records")), key=_start)
    layers = _layer_names(entries)
    variables: list[Variable] = []
    end = 0
    for entry in entries:
        if entry.layer not in layers:
            raise ValueError(
                f"{file}: '{entry.name}' belongs to no kernel of two or four axes; only chains of "
                "convolutions and dense layers are known."
            )
        if entry.start != end or entry.end - entry.start != prod(entry.shape):
            raise ValueError(
                f"{file}: '{entry.name}' {list(entry.shape)} stands in columns {entry.start} to "
                f"{entry.end}; expected {end} to {end + prod(entry.shape)}, each column in one "
                "variable."
            )
        key = f"{layers[entry.layer]}.{'weight' if entry.part == 'kernel' else 'bias'}"
        variables.append(Variable(entry.name, key, entry.start, entry.end, entry.shape))
        end = entry.end
    if not variables:
        raise ValueError(f"{file}: lists no variables.")
    return variables


def describe_chain(
    variables: Sequence[Variable], *, activation: str, stride: int, dtype: str
) -> dict[str, Any]:
    """The design of a chain; `build_chain` is what it stands for.

    Raises:
        ValueError: layers that do not follow each other, or an unknown activation.
    """
    if activation not in KERAS_ACTIVATIONS:
        known = ", ".join(KERAS_ACTIVATIONS)
        raise ValueError(f"its activation is '{activation}'; those known are {known}")
    kernels = {v.key.removesuffix(".weight"): v for v in variables if v.key.endswith(".weight")}
    shapes = [list(v.to_torch(np.empty(v.shape, dtype=bool)).shape) for v in kernels.values()]
    width = shapes[0][1]
    for name, shape in zip(kernels, shapes, strict=True):
        if shape[1] != width:
            raise ValueError(
                f"{name} reads {shape[1]} values where the layer before gives {width}; only "
                "convolutions, an average over the image and dense layers in a row are known"
            )
        width = shape[0]
    side = 2  # pixels after the last convolution; the network takes images of any size
    for shape in reversed([shape for shape in shapes if len(shape) == 4]):
        side = (side - 1) * stride + max(shape[2:])
    return {
        "kind": "unterthiner",
        "names": list(kernels),
        "shapes": shapes,
        "biases": [f"{name}.bias" in {v.key for v in variables} for name in kernels],
        "activation": activation,
        "stride": stride,
        "input_shape": [shapes[0][1], side, side] if len(shapes[0]) == 4 else [shapes[0][1]],
        "dtype": dtype,
    }


def build_chain(design: Mapping[str, Any]) -> nn.Module:
    """The module of a design, with torch's own initial values."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    specified = list(zip(design["names"], design["shapes"], design["biases"], strict=True))
    for number, (name, shape, bias) in enumerate(specified, start=1):
        if len(shape) == 4:
            outputs, inputs, *kernel = shape
            layers[name] = nn.Conv2d(inputs, outputs, tuple(kernel), design["stride"], bias=bias)
        else:
            layers[name] = nn.Linear(shape[1], shape[0], bias=bias)
        if number < len(specified):
            layers[f"activation{number}"] = ACTIVATIONS[design["activation"]]()
            if len(shape) == 4 and len(specified[number][1]) == 2:
                layers["average"] = nn.AdaptiveAvgPool2d(1)
                layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers).to(dtype_of(design))


class _Entry(NamedTuple):
    """A line of layout.csv."""

    name: str
    layer: str
    part: str  # kernel or bias
    start: int
    end: int
    shape: tuple[int, ...]


def _start(entry: _Entry) -> int:
    return entry.start


def _entry(file: Path, line: Mapping[Any, Any]) -> _Entry:
    name = str(line["varname"])
    match = VARIABLE.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{file}: '{name}' is neither a kernel nor a bias; only chains of convolutions and "
            "dense layers are known."
        )
    try:
        shape = ast.literal_eval(str(line["shape"]))
        sizes = tuple(int(size) for size in (shape if isinstance(shape, tuple | list) else [shape]))
        start, end = int(line["start_idx"]), int(line["end_idx"])
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"{file}: '{name}' has the shape '{line['shape']}' in columns {line['start_idx']} to "
            f"{line['end_idx']}, expected sizes such as (3, 3, 1, 16) and whole numbers."
        ) from error
    return _Entry(name, match["layer"], match["part"], start, end, sizes)


def _layer_names(entries: Sequence[_Entry]) -> dict[str, str]:
    """torch's name of each layer with a kernel: its kind and its number among those."""
    names: dict[str, str] = {}
    for entry in entries:
        kind = {4: "conv", 2: "dense"}.get(len(entry.shape))
        if entry.part == "kernel" and kind is not None:
            number = sum(name.startswith(kind) for name in names.values()) + 1
            names[entry.layer] = f"{kind}{number}"
    return names
