"""Trial folders of Ray Tune: parameters, results by iteration, checkpoints.

Knows which of a trial's numbers are metrics and what they are called here. Reads no weights.

Layout: `params.json`; `result.json`, a JSON object a line, one for each `training_iteration`;
a folder `checkpoint_7` or `checkpoint_000007` for each checkpoint. The number is the iteration,
except where results name their folder (`checkpoint_dir_name`, Ray from 2.7 on): there it
counts checkpoints. In a trial of the ModelZoos the first result is of the untrained network
(iteration 0), whose training metrics are written as -999.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoint.shards import read_json
from .property_tables import unreserved

CHECKPOINT = re.compile(r"checkpoint_(\d+)")
NOT_MEASURED = -999
METRICS = {
    f"{part}_{short}": f"{name}_{long}"
    for part, name in (("train", "train"), ("test", "test"), ("val", "validation"))
    for short, long in (("acc", "accuracy"), ("loss", "loss"))
}
NAMES = {  # the last part of a parameter's name, and what this project calls it
    "nlin": "activation",
    "activation": "activation",
    "optimizer": "optimiser",
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "wd": "weight_decay",
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "init_type": "init",
    "dropout": "dropout",
    "seed": "seed",
    "batchsize": "batch_size",
    "batch_size": "batch_size",
    "epochs_train": "epochs",
}
VALUES = {
    "activation": {"leakyrelu": "leaky_relu"},
    "optimiser": {"rms_prop": "rmsprop"},
}


@dataclass(frozen=True)
class CheckpointFolder:
    """One checkpoint of a trial."""

    path: Path
    epoch: int | None  # None where neither the name nor a result tells it


def is_trial(folder: Path) -> bool:
    """Whether a folder looks like a trial's."""
    return "_trainable_" in folder.name or (folder / "params.json").is_file()


def read_params(trial: Path) -> dict[str, Any]:
    """The parameters of a trial, from its results where the file is missing.

    Raises:
        ValueError: neither is there, or the file is not readable JSON.
    """
    file = trial / "params.json"
    if file.is_file():
        return read_json(file)
    for result in _lines(trial):
        if isinstance(config := result.get("config"), dict):
            return config
    raise ValueError(f"has no params.json and no parameters in result.json; found {listing(trial)}")


def read_results(trial: Path) -> dict[int, dict[str, Any]]:
    """Results by training iteration; of a trial that was resumed the last ones."""
    results = {}
    for result in _lines(trial):
        if isinstance(iteration := result.get("training_iteration"), int):
            results[iteration] = result
    return results


def list_checkpoints(
    trial: Path, results: Mapping[int, Mapping[str, Any]]
) -> list[CheckpointFolder]:
    """Every checkpoint folder, in the order of epochs; those of no known epoch come last."""
    named = {
        result["checkpoint_dir_name"]: iteration
        for iteration, result in results.items()
        if isinstance(result.get("checkpoint_dir_name"), str)
    }
    found = []
    for path in trial.iterdir():
        if path.name.startswith("checkpoint_") and path.is_dir():
            number = CHECKPOINT.fullmatch(path.name)
            by_name = int(number[1]) if number and not named else None
            found.append(CheckpointFolder(path, named.get(path.name, by_name)))
    return sorted(found, key=lambda c: (c.epoch is None, c.epoch or 0, c.path.name))


def to_row(epoch: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of one checkpoint; what was not measured is None."""
    row: dict[str, Any] = {"epoch": epoch}
    for key, name in METRICS.items():
        value = result.get(key)
        measured = isinstance(value, int | float) and value != NOT_MEASURED
        if measured or name.startswith(("train", "test")):
            row[name] = float(value) if measured else None  # type: ignore[arg-type]
    train, test = row["train_accuracy"], row["test_accuracy"]
    row["generalisation_gap"] = None if train is None or test is None else train - test
    return row


def to_properties(params: Mapping[str, Any]) -> dict[str, Any]:
    """Plain parameters as columns: by this project's names where there is one, else their own."""
    columns: dict[str, Any] = {}
    for key, value in params.items():
        if not isinstance(value, str | int | float | bool):
            continue
        cleaned = re.sub(r"\W+", "_", key).strip("_").lower()
        name = NAMES.get(re.split(r"\W+", key.lower())[-1], cleaned)
        name = cleaned if name in columns else name
        if isinstance(value, str):
            value = VALUES.get(name, {}).get(value, value)
        columns[name] = value
    return unreserved(columns)


def listing(folder: Path, most: int = 6) -> str:
    """A few of the names in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" * (len(names) > most))
    return shown or "nothing"


def _lines(trial: Path) -> Iterator[dict[str, Any]]:
    """Each readable line of result.json; a trial that was killed leaves a part of one."""
    file = trial / "result.json"
    if not file.is_file():
        return
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                yield content
