"""Which numbers SANE's tokens hold, and how they are standardised.

The rows of a tensor and its bias stand in `formats.sane_tokens`, which reads them back;
here they become places in theta. Knows no files.

Letters in shapes: N rows, P length of theta, T tokens, D numbers a token.
Source: Schürholt et al. 2024, arXiv:2406.09997; HSG-AIML/SANE, dataset_auxiliaries.py
(tokenize_checkpoint), dataset_tokens.py (standardize_data_checkpoints), de_normalize.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import tensor_of
from .formats.sane_tokens import TokenLayer, token_layers


class Rows(Protocol):
    """Values [N, P], read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Tokens:
    """Where the numbers of an architecture's tokens stand in theta."""

    index: Tensor  # int64 [T, D], -1 where a token is padded
    position: Tensor  # int32 [T, 3]: of the token, of its layer, of its channel
    layers: tuple[TokenLayer, ...]
    places: tuple[Tensor, ...]  # int64, of each layer's numbers, with its bias

    @property
    def mask(self) -> Tensor:
        """Real numbers, bool [T, D]."""
        return self.index >= 0

    def cut(self, theta: Tensor) -> Tensor:
        """theta [N, P] -> [N, T, D], zero where padded."""
        return theta[:, self.index.clamp(min=0)].masked_fill(~self.mask, 0)


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of one layer, weights and bias together."""

    mean: float
    std: float


def tokens_of(architecture: Architecture, token_size: int = 0) -> Tokens:
    """The tokens of an architecture; `formats.sane_tokens.join_tokens` is the way back.

    Args:
        token_size: Numbers a token; 0 for the longest row. The public code looks for the
            longest row among layers with a bias alone.

    Raises:
        ValueError: tensors that the layout has no place for; they are named.
    """
    places = torch.arange(architecture.num_parameters)
    by_name = {t.name: t for t in architecture.stored}
    state = {
        t.name: tensor_of(by_name[t.tied_to or t.name], places)
        for t in architecture.tensors
        if (t.tied_to or t.name) in by_name
    }
    _check_places(architecture, state)
    layers = tuple(token_layers(state, with_norms=True))
    size = token_size or max(layer.length for layer in layers)
    if size < 1:
        raise ValueError(f"token_size must not be negative, got {token_size}")
    index, position = [], []
    for number, layer in enumerate(layers):
        rows = state[layer.key].reshape(layer.num_rows, -1)
        if layer.bias is not None:
            rows = torch.cat([rows, state[layer.bias].unsqueeze(1)], 1)
        pieces = -(-layer.length // size)
        padded = torch.full((layer.num_rows, pieces * size), -1)
        padded[:, : layer.length] = rows
        index.append(padded.view(-1, size))
        channel = torch.arange(layer.num_rows).repeat_interleave(pieces)
        position.append(torch.stack([torch.full_like(channel, number), channel], 1))
    positions = torch.cat(position)
    order = torch.arange(len(positions)).unsqueeze(1)
    return Tokens(
        index=torch.cat(index),
        position=torch.cat([order, positions], 1).to(torch.int32),
        layers=layers,
        places=tuple(
            torch.cat([state[key].flatten() for key in (layer.key, layer.bias) if key is not None])
            for layer in layers
        ),
    )


def fit_scales(tokens: Tokens, theta: Rows, rows: np.ndarray, batch: int) -> list[Scale]:
    """Mean of the networks' means and root of their mean variance, of each layer.

    Networks with values that are not finite do not count; a layer without spread has
    deviation 1.

    Args:
        rows: Those of the training split alone. The public code fits each split apart, on
            that split, and fits and scales running statistics twice.

    Raises:
        ValueError: no row to fit on.
    """
    means = torch.zeros(len(tokens.places), dtype=torch.float64)
    variances = torch.zeros_like(means)
    count = 0
    for start in range(0, len(rows), batch):
        values = theta[rows[start : start + batch]].double()
        values = values[values.isfinite().all(1)]
        count += len(values)
        for number, places in enumerate(tokens.places):
            own = values[:, places]
            means[number] += own.mean(1).sum()
            variances[number] += own.var(1, correction=min(1, own.shape[1] - 1)).sum()
    if count == 0:
        raise ValueError(
            "standardise is fitted on the training split, and there is no finite network of it "
            "among the chosen rows. Choose some, or leave standardise out"
        )
    stds = (variances / count).sqrt()
    return [
        Scale(mean, std or 1.0)
        for mean, std in zip((means / count).tolist(), stds.tolist(), strict=True)
    ]


def normalisation(tokens: Tokens, scales: list[Scale] | None) -> dict[str, object]:
    """The content of dataset_normalization_{split}.json.

    The public code takes a running statistic for its own bias, so that its way back scales
    it twice. Its tokens here are scaled once, and its numbers are such that twice undoes it.
    """
    content: dict[str, object] = {"mode": None if scales is None else "standardize"}
    for layer, scale in zip(tokens.layers, scales or (), strict=scales is not None):
        mean, std = scale.mean, scale.std
        if "weight" not in layer.key:
            std = sqrt(std)
            mean = mean / (1 + std)
        content[layer.key] = {"mean": mean, "std": std}
    return content


def _check_places(architecture: Architecture, state: dict[str, Tensor]) -> None:
    """Raise ValueError unless every number of theta has a place in the tokens."""
    problems = []
    shapeless = [key for key, value in state.items() if "weight" in key and value.dim() == 0]
    problems += [f"{key} is a single number" for key in shapeless]
    layers = token_layers({k: v for k, v in state.items() if k not in shapeless}, True)
    for layer in layers:
        if layer.bias is not None and state[layer.bias].shape != (layer.num_rows,):
            problems.append(
                f"{layer.bias} has not one number for each of the {layer.num_rows} rows of "
                f"{layer.key}"
            )
    placed = {key for layer in layers for key in (layer.key, layer.bias)} | set(shapeless)
    held = {architecture.tensor[key].tied_to or key for key in placed if key is not None}
    problems += [f"{t.name} has no place" for t in architecture.stored if t.name not in held]
    problems += [
        f"{t.name} is no weight"
        for t in architecture.tensors
        if "weight" in t.name and t.name not in state
    ]
    if problems or not layers:
        raise ValueError(
            f"SANE's layout cannot hold '{architecture.name}': it takes tensors whose names "
            "contain weight, each with the bias of its name, and running statistics, but "
            + ("; ".join(problems[:8]) or "there are none")
            + ". Export it as safetensors, pt or npy"
        )
