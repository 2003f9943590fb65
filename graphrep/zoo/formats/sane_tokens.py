"""SANE's tokens and the way back: where each tensor's numbers stand, scaling undone.

In the order of the state dict, every tensor whose key contains `weight` (and the running mean
and variance of a normalisation, if those are kept) is cut into rows, one an output channel; its
bias is appended to the rows as their last number; a row is padded with zeros to whole tokens. A
token's position is (its number, the layer's number, the channel). Before that, each layer was
standardised, or stretched to [-1, 1], together with its bias.

Letters in shapes: T tokens of a model, D numbers a token.
Source: Schürholt et al. 2024, arXiv:2406.09997; HSG-AIML/SANE, dataset_auxiliaries.py
(tokenize_checkpoint), dataset_tokens.py (standardize_data_checkpoints).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

NORM_NAMES = ("bn", "downsample.1", "batchnorm")  # in keys, wherever they stand
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class TokenLayer:
    """One tensor as rows, with the bias that ends them."""

    key: str
    shape: tuple[int, ...]
    bias: str | None

    @property
    def num_rows(self) -> int:
        return self.shape[0]

    @property
    def length(self) -> int:
        """Numbers a row."""
        return prod(self.shape[1:]) + (self.bias is not None)


def token_layers(state: Mapping[str, Tensor], with_norms: bool) -> list[TokenLayer]:
    """The layers of a state dict's tokens, in order."""
    layers = []
    for key, value in state.items():
        if not with_norms and any(name in key for name in NORM_NAMES):
            continue
        if "weight" in key or any(name in key for name in STATISTICS):
            bias = key.replace("weight", "bias")
            has_bias = "weight" in key and bias in state
            layers.append(TokenLayer(key, tuple(value.shape), bias if has_bias else None))
    return layers


def row_shapes(layers: Sequence[TokenLayer]) -> list[tuple[int, int]]:
    """Rows and numbers a row, of each layer."""
    return [(layer.num_rows, layer.length) for layer in layers]


def found_row_shapes(mask: Tensor, position: Tensor) -> list[tuple[int, int]]:
    """The same as the tokens of a whole model show it.

    Args:
        mask: Real numbers, bool [T, D].
        position: [T, 3].

    Raises:
        ValueError: rows of one layer differ in length.
    """
    shapes = []
    counts = mask.sum(1)
    for number in position[:, 1].unique().tolist():
        of_layer = position[:, 1] == number
        channels, place = position[of_layer, 2].unique(return_inverse=True)
        lengths = torch.zeros(len(channels), dtype=counts.dtype)
        lengths.index_add_(0, place, counts[of_layer])
        if (lengths != lengths[0]).any():
            raise ValueError(f"the rows of layer {number} are of several lengths by their mask")
        shapes.append((len(channels), int(lengths[0])))
    return shapes


def join_tokens(tokens: Tensor, layers: Sequence[TokenLayer]) -> dict[str, Tensor]:
    """Every tensor's values by key, from the tokens [T, D] of a whole model.

    Raises:
        ValueError: more or fewer tokens than these layers have.
    """
    size = tokens.shape[1]
    pieces = [-(-layer.length // size) for layer in layers]
    counts = [layer.num_rows * n for layer, n in zip(layers, pieces, strict=True)]
    if sum(counts) != len(tokens):
        raise ValueError(f"has {len(tokens)} tokens of {size}, its layers have {sum(counts)}")
    values = {}
    for layer, part in zip(layers, tokens.split(counts), strict=True):
        rows = part.reshape(layer.num_rows, -1)[:, : layer.length]
        if layer.bias is not None:
            values[layer.bias] = rows[:, -1].clone()
            rows = rows[:, :-1]
        values[layer.key] = rows.reshape(layer.shape).clone()
    return values


def undo_scaling(
    values: Mapping[str, Tensor], layers: Sequence[TokenLayer], scales: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The values before they were standardised or stretched, in the types they had.

    Computed in float64. Running statistics were standardised twice by the public code, which
    appends to each key's values those of its bias and takes such a key for its own bias.

    Args:
        scales: What dataset_normalization_{split}.json holds: `mode`, and by layer mean and
            std or min and max.

    Raises:
        ValueError: an unknown mode, or a layer without its numbers.
    """
    mode = scales.get("mode")
    restored = dict(values)
    if mode is None:
        return restored
    if mode not in ("standardize", "minmax"):
        raise ValueError(f"has normalisation mode '{mode}', expected standardize, minmax or none")
    for layer in layers:
        twice = "weight" not in layer.key
        if mode == "minmax" and twice:
            continue  # that mode looks at weights alone
        try:
            numbers = scales[layer.key]
            if mode == "minmax":
                factor = (float(numbers["max"]) - float(numbers["min"])) / 2
                offset = float(numbers["min"]) + factor
            else:
                factor, offset = float(numbers["std"]), float(numbers["mean"])
        except (KeyError, TypeError, ValueError) as error:
            known = ", ".join(key for key in list(scales)[:6] if key != "mode")
            raise ValueError(
                f"has no {mode} numbers for '{layer.key}'; its normalisation names {known} ..."
            ) from error
        for key in (layer.key, *([layer.bias] if layer.bias else [])):
            value = values[key].double() * factor + offset
            restored[key] = (value * factor + offset if twice else value).to(values[key].dtype)
    return restored
