"""Tokens as SANE's public code keeps them; `formats.sane` reads them back.

A folder is what that code calls a zoo path: `dataset_torch.{train,val,test}/sample_{i}.pt`
with {w [1, T, D], m bool [T, D], p int32 [T, 3], props float32}, and beside it
`dataset_normalization_{split}.json` and `dataset_info_{split}.json`. Which numbers a token
holds stands in `formats.sane_tokens`. Unlike the published sets these hold no permuted
copies and whole networks instead of windows.

Letters in shapes: N rows, P length of theta, T tokens, D numbers a token.
Source: Schürholt et al. 2024, arXiv:2406.09997; HSG-AIML/SANE, dataset_preprocessing.py,
dataset_tokens.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import tensor_of
from ..files import write_json, write_whole
from ..progress import Advance
from .formats.sane_tokens import TokenLayer, token_layers

if TYPE_CHECKING:
    import pandas as pd

SPLITS = {"train": "train", "validation": "val", "test": "test"}  # graphrep's -> SANE's
NAMES = {  # of properties: graphrep's -> SANE's
    "test_accuracy": "test_acc",
    "epoch": "training_iteration",
    "generalisation_gap": "ggap",
    "train_accuracy": "train_acc",
}
_NO_PROPERTIES = ("model", "design")


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


def write_tokens(
    architecture: Architecture,
    theta: Rows,
    properties: pd.DataFrame,
    folder: Path,
    *,
    name: str,
    standardise: bool,
    token_size: int,
    batch: int,
    advance: Advance,
) -> None:
    """Write rows of one architecture; files that are there stay.

    Samples follow each other by model, then epoch, as in the published sets. Properties go
    by SANE's names where it has them, as numbers; metrics_{split}.csv has all of them by
    graphrep's. A zoo without any split is written as `train`.

    Args:
        theta: Values [N, P].
        properties: N rows.
        name: Of the zoo.
        standardise: Layer by layer, by what `fit_scales` finds in the training split. The
            public code fits each split apart.
        batch: Rows that are read at once.

    Raises:
        ValueError: an architecture that the layout cannot hold, rows without a split beside
            others that have one, or none to fit the standardisation on.
    """
    tokens = tokens_of(architecture, token_size)
    splits = _rows_by_split(properties)
    scales = fit_scales(tokens, theta, splits["train"], batch) if standardise else None
    shift, factor = _by_place(architecture, tokens, scales)
    text = architecture.to_json() + "\n"
    write_whole(folder / "architecture.json", lambda unfinished: unfinished.write_text(text))
    mask, names = tokens.mask, _numbers(properties)
    props = torch.from_numpy(properties[names].to_numpy(dtype=np.float32, na_value=np.nan))
    for split, rows in splits.items():
        if not len(rows):
            continue
        theirs = SPLITS[split]
        samples = folder / f"dataset_torch.{theirs}"
        samples.mkdir(exist_ok=True)
        write_json(folder / f"dataset_normalization_{theirs}.json", normalisation(tokens, scales))
        write_json(
            folder / f"dataset_info_{theirs}.json",
            {
                "zoo_path": name,
                "num_samples": len(rows),
                "supersample": 1,
                "properties": [NAMES.get(column, column) for column in names],
                "epoch_list": _epochs(properties.iloc[rows]),
                "map_to_canonical": False,
                "permutation_number": 0,
                "permutations_per_sample": 0,
                "standardize": standardise,
                "windowsize": len(tokens.index),
                "split": theirs,
                "max_positions": tokens.position.amax(0).tolist(),
            },
        )
        table = properties.iloc[rows].copy()
        table.insert(0, "sample", [f"sample_{i}.pt" for i in range(len(rows))])
        write_whole(folder / f"metrics_{theirs}.csv", partial(table.to_csv, index=False))
        for start in range(0, len(rows), batch):
            files = [
                samples / f"sample_{i}.pt" for i in range(start, min(start + batch, len(rows)))
            ]
            missing = [i for i, file in enumerate(files) if not file.exists()]
            if missing:
                chosen = rows[start : start + batch][missing]
                values = theta[chosen]
                if scales is not None:
                    values = ((values.double() - shift) / factor).to(values.dtype)
                for i, row, cut in zip(missing, chosen, tokens.cut(values), strict=True):
                    sample = {
                        "w": cut.unsqueeze(0).clone(),
                        "m": mask,
                        "p": tokens.position,
                        "props": props[row].clone(),
                    }
                    write_whole(files[i], partial(torch.save, sample))
            for _ in files:
                advance()


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


def _rows_by_split(properties: pd.DataFrame) -> dict[str, np.ndarray]:
    """Positions of each split's rows by model, then epoch."""
    keys = [properties[c].to_numpy() for c in ("epoch", "model") if c in properties]
    order = np.lexsort(keys)
    if "split" not in properties or properties["split"].isna().all():
        return {"train": order}
    split = properties["split"].iloc[order]
    if unknown := int((~split.isin(list(SPLITS))).sum()):
        raise ValueError(
            f"{unknown} of the chosen rows belong to no split, the others do; SANE's layout has a "
            "folder a split. Choose rows that have one"
        )
    return {name: order[(split == name).to_numpy()] for name in SPLITS}


def _by_place(
    architecture: Architecture, tokens: Tokens, scales: list[Scale] | None
) -> tuple[Tensor, Tensor]:
    """What to subtract from each number of theta and what to divide by, float64 [P]."""
    shift = torch.zeros(architecture.num_parameters, dtype=torch.float64)
    factor = torch.ones_like(shift)
    for places, scale in zip(tokens.places, scales or (), strict=scales is not None):
        shift[places], factor[places] = scale.mean, scale.std
    return shift, factor


def _numbers(properties: pd.DataFrame) -> list[str]:
    """Columns of numbers and truth values, SANE's own first."""
    from pandas.api.types import is_numeric_dtype

    known = [c for c in NAMES if c in properties]
    others = [
        str(c)
        for c in properties.columns
        if c not in (*known, *_NO_PROPERTIES) and is_numeric_dtype(properties[c])
    ]
    return [c for c in [*known, *others] if properties[c].notna().any()]


def _epochs(rows: pd.DataFrame) -> list[int]:
    """The epochs of each model, where all have the same; else none.

    Whoever reads takes so many samples in a row for one model.
    """
    if "epoch" not in rows or "model" not in rows or rows["epoch"].isna().any():
        return []
    by_model = rows.groupby("model")["epoch"].agg(tuple)
    same = by_model.nunique() == 1
    return [int(epoch) for epoch in by_model.iloc[0]] if same else []
