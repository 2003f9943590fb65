"""The files of SANE's preprocessed data sets: splits, and samples put together from windows.

Knows what files hold and how samples are counted; knows no networks.

Letters in shapes: T tokens of a model, W of a window, D numbers a token, K copies.
Source: HSG-AIML/SANE, dataset_preprocessing.py, augmentations.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoint.reading import read_file
from ...checkpoint.shards import read_json

SPLITS = {"train": "train", "val": "validation", "test": "test"}
SAMPLE = re.compile(r"sample_(\d+)\.pt")
PROPERTIES = ("test_acc", "training_iteration", "ggap")  # where no info file names them


@dataclass(frozen=True)
class Split:
    """One folder of samples, and what its JSON files say."""

    folder: Path
    present: frozenset[int]  # numbers of the sample files
    num_samples: int
    supersample: int
    epochs: tuple[int, ...]  # of one model's samples, which follow each other
    properties: tuple[str, ...]
    scales: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=dict)


def split_names(source: Path) -> list[str]:
    """The splits that a source has.

    Raises:
        ValueError: none; says what was found.
    """
    layout = "folders dataset_torch.train, .val or .test with sample_<i>.pt in them"
    if source.is_file():
        raise ValueError(
            f"{source}: is a file. A dataset.pt pickles whole Python objects, which graphrep never "
            f"executes; pass the folder that holds {layout}."
        )
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder. SANE's preprocessed data are {layout}.")
    found = [split for split in SPLITS if (source / f"dataset_torch.{split}").is_dir()]
    if not found:
        names = ", ".join(sorted(path.name for path in source.iterdir())[:6]) or "nothing"
        hint = " Pass its parent." if source.name.startswith("dataset_torch.") else ""
        raise ValueError(f"{source}: found {names}, expected {layout}.{hint}")
    return found


def open_split(source: Path, split: str, scaled: bool, epochs_per_model: int | None) -> Split:
    """One split, its samples counted; no sample is opened.

    Raises:
        ValueError: no samples, files that contradict each other, or a scaling that is lost.
    """
    folder = source / f"dataset_torch.{split}"
    with os.scandir(folder) as entries:
        present = {int(m[1]) for entry in entries if (m := SAMPLE.fullmatch(entry.name))}
    if not present:
        raise ValueError(f"{folder}: holds no files sample_<i>.pt.")
    info_file = source / f"dataset_info_{split}.json"
    info = read_json(info_file) if info_file.is_file() else {}
    if info.get("standardize") == "l2_ind":
        raise ValueError(
            f"{info_file}: each layer was divided by its own norm (standardize l2_ind), which is "
            "kept nowhere, so that the weights are lost. Import the raw zoo."
        )
    num_samples = int(info.get("num_samples") or max(present) + 1)
    supersample = int(info.get("supersample") or 1)
    if max(present) >= num_samples * supersample:
        raise ValueError(
            f"{folder}: has sample_{max(present)}.pt, but {info_file.name} counts {num_samples} "
            f"samples, {supersample} times. Are both of one run?"
        )
    epochs = tuple(int(e) for e in info.get("epoch_list") or ())
    group = len(epochs) if epochs and num_samples % len(epochs) == 0 else 1
    group = group if epochs_per_model is None else epochs_per_model
    if group < 1 or num_samples % group:
        raise ValueError(
            f"{folder}: has {num_samples} samples, which are no models of epochs_per_model="
            f"{group} each"
        )
    return Split(
        folder=folder,
        present=frozenset(present),
        num_samples=num_samples,
        supersample=supersample,
        epochs=epochs if len(epochs) == group else (-1,) * group,
        properties=tuple(info.get("properties") or PROPERTIES),
        scales=_scales(source / f"dataset_normalization_{split}.json", scaled),
        info=info,
    )


def _scales(file: Path, scaled: bool) -> dict[str, Any]:
    """How the layers of a split were scaled.

    Raises:
        ValueError: the file is missing and nobody said that there was no scaling.
    """
    if file.is_file():
        return read_json(file)
    if scaled:
        raise ValueError(
            f"{file}: no such file; without it the weights' scale is lost. Put it there, or pass "
            "scaled=false if the tokens hold the weights as they were."
        )
    return {"mode": None}


def read_sample(split: Split, sample: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All tokens [T, D] of a sample, their mask and positions, and its properties.

    Raises:
        ValueError: a file of another form, or windows that do not cover all tokens.
    """
    numbers = range(sample, split.num_samples * split.supersample, split.num_samples)
    files = [split.folder / f"sample_{n}.pt" for n in numbers if n in split.present]
    if not files:
        raise ValueError(f"{split.folder}: has no sample_{sample}.pt")
    expected = split.info.get("max_positions")  # without it a sample has one window
    for number, file in enumerate(files):
        window, mask, position, props = _read_window(file)
        places = position[:, 0]
        if number == 0:
            total = int(expected[0] if expected else places.max()) + 1
            tokens = window.new_zeros(total, window.shape[1])
            all_masks, positions = mask.new_zeros(tokens.shape), position.new_zeros(total, 3)
            covered = mask.new_zeros(total)
        if window.shape[1] != tokens.shape[1] or not (0 <= places.min() <= places.max() < total):
            raise ValueError(
                f"{file}: has tokens of {window.shape[1]} numbers up to position "
                f"{int(places.max())}, expected {tokens.shape[1]} and positions below {total}."
            )
        tokens[places], all_masks[places], positions[places] = window, mask, position
        covered[places] = True
        if covered.all():
            return tokens, all_masks, positions, props
    lost = (~covered).nonzero().flatten().tolist()
    raise ValueError(
        f"{len(lost)} of its {total} tokens ({lost[0]} to {lost[-1]}) are in none of its "
        f"{len(files)} windows of {len(window)}: the rest of the model was not written. "
        f"Preprocess again with windowsize={total} or more, or import the raw zoo."
    )


def _read_window(file: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens [W, D] as they were aligned, mask, positions and properties of one file.

    Raises:
        ValueError: unreadable, in need of pickled code, or of another form.
    """
    content = read_file(file)
    parts = [content.get(k) for k in ("w", "m", "p", "props")] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file}: holds {keys}, expected tensors w, m, p and props.")
    tokens, mask, position, props = parts
    assert tokens is not None and mask is not None and position is not None and props is not None
    shapes = [list(part.shape) for part in (tokens, mask, position)]
    tokens = tokens[0] if tokens.dim() == 3 else tokens
    if tokens.dim() != 2 or mask.shape != tokens.shape or position.shape != (len(tokens), 3):
        raise ValueError(
            f"{file}: w, m and p are {shapes}, expected [1+K, W, D] or [W, D], [W, D], [W, 3]."
        )
    return tokens.float(), mask.bool(), position.long(), props.double().flatten()
