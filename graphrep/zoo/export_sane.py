"""Tokens as SANE's public code keeps them; `formats.sane` reads them back.

A folder is what that code calls a zoo path: `dataset_torch.{train,val,test}/sample_{i}.pt`
with {w [1, T, D], m bool [T, D], p int32 [T, 3], props float32}, and beside it
`dataset_normalization_{split}.json` and `dataset_info_{split}.json`. Which numbers a token
holds stands in `sane_places`. Unlike the published sets these hold no permuted
copies and whole networks instead of windows.

Letters in shapes: N rows, P length of theta, T tokens, D numbers a token.
Source: Schürholt et al. 2024, arXiv:2406.09997; HSG-AIML/SANE, dataset_preprocessing.py,
dataset_tokens.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture
from ..files import write_json, write_whole
from ..progress import Advance
from .sane_places import Rows, Scale, Tokens, fit_scales, normalisation, tokens_of

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
                    write_whole(files[i], partial(save_tensors, sample), durable=False)
            for _ in files:
                advance()


def save_tensors(content: object, path: Path) -> None:
    """`torch.save` whose bytes do not depend on the file's name."""
    with open(path, "wb") as file:
        torch.save(content, file)


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
