"""From finished members to a finished zoo: the staging area and what becomes of it.

A member is finished when its JSON file stands in `members/`. `consolidate`
can be repeated after a crash at any point: it reads the staging area alone,
writes the same bytes each time, and removes the staging area last.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..architecture import Architecture
from ..files import is_unfinished, remove_unfinished, sha256, write_json, write_whole
from ..graph import ParameterGraph
from . import layout
from .config import Member, ZooConfig
from .train import Checkpoint


def write_member(
    path: Path, member: Member, architecture: Architecture, checkpoints: list[Checkpoint]
) -> None:
    """Put a trained member into the staging area of the zoo at `path`."""
    from safetensors.torch import save_file

    file = path / layout.architecture_file(architecture.fingerprint)
    if not file.exists():
        text = architecture.to_json() + "\n"
        write_whole(file, lambda unfinished: unfinished.write_text(text))
    graphs = [ParameterGraph.from_state_dict(architecture, c.state_dict) for c in checkpoints]
    tensors = {"theta": torch.stack([graph.theta for graph in graphs])}
    for name in graphs[0].buffers:
        tensors[f"buffer.{name}"] = torch.stack([graph.buffers[name] for graph in graphs])
    stem = path / layout.MEMBERS / f"{member.index:07d}"
    write_whole(stem.with_suffix(".safetensors"), lambda unfinished: save_file(tensors, unfinished))
    content = {
        "index": member.index,
        "architecture": architecture.fingerprint,
        "hyperparameters": member.to_columns(),
        "checkpoints": [_metrics(checkpoint) for checkpoint in checkpoints],
    }
    write_json(stem.with_suffix(".json"), content)


def finished_members(path: Path) -> set[int]:
    """Indices of the members in the staging area."""
    files = (path / layout.MEMBERS).glob("*.json")
    return {int(file.stem) for file in files if not is_unfinished(file)}


def write_splits(path: Path, config: ZooConfig) -> None:
    """Fix the split of the models, once: a file that is there stays.

    Raises:
        ValueError: too few models to leave any for training.
    """
    import pandas as pd

    file = path / layout.SPLITS_FILE
    if file.exists():
        return
    num = config.num_models
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    sizes = {
        name: max(1, round(fraction * num)) if fraction > 0 and num >= 3 else 0
        for name, fraction in fractions.items()
    }
    if sum(sizes.values()) >= num:
        raise ValueError(f"{num} models are too few for {sizes}: none would be left for training")
    order = list(range(num))
    random.Random(f"graphrep zoo {config.seed} splits").shuffle(order)
    split = ["train"] * num
    for model in order[: sizes["validation"]]:
        split[model] = "validation"
    for model in order[sizes["validation"] :][: sizes["test"]]:
        split[model] = "test"
    table = pd.DataFrame({"model": range(num), "split": split})
    write_whole(file, lambda unfinished: table.to_parquet(unfinished, index=False))


def consolidate(path: Path) -> None:
    """Turn the staging area, which must be complete, into a finished zoo."""
    import pandas as pd

    header = layout.read_header(path)
    members = [
        json.loads((path / layout.MEMBERS / f"{index:07d}.json").read_text())
        for index in range(header["config"]["num_models"])
    ]
    (path / layout.WEIGHTS).mkdir(exist_ok=True)
    by_architecture: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for member in members:
        by_architecture[member["architecture"]].append(member)
    for fingerprint, group in by_architecture.items():
        _write_shards(path, fingerprint, [member["index"] for member in group])
    rows = [
        {
            "model": member["index"],
            "architecture": member["architecture"],
            **checkpoint,
            **member["hyperparameters"],
        }
        for member in members
        for checkpoint in member["checkpoints"]
    ]
    write_whole(
        path / layout.PROPERTIES_FILE,
        lambda unfinished: pd.DataFrame(rows).to_parquet(unfinished, index=False),
    )
    remove_unfinished(path)
    kept = [layout.SPLITS_FILE, layout.PROPERTIES_FILE]
    for folder in (layout.ARCHITECTURES, layout.WEIGHTS):
        kept += sorted(f"{folder}/{file.name}" for file in (path / folder).iterdir())
    header |= {
        "finished": True,
        "num_models": len(members),
        "num_checkpoints": len(rows),
        "sha256": {name: sha256(path / name) for name in kept},
    }
    layout.write_header(path, header)
    remove_staging(path)


def remove_staging(path: Path) -> None:
    """Delete the staging area of a finished zoo."""
    shutil.rmtree(path / layout.MEMBERS, ignore_errors=True)


def _metrics(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "epoch": checkpoint.epoch,
        "train_accuracy": checkpoint.train_accuracy,
        "train_loss": checkpoint.train_loss,
        "test_accuracy": checkpoint.test_accuracy,
        "test_loss": checkpoint.test_loss,
        "generalisation_gap": checkpoint.generalisation_gap,
        "diverged": checkpoint.diverged,
    }


def _write_shards(path: Path, fingerprint: str, indices: list[int]) -> None:
    """Stack the members' rows, in order, into files of SHARD_ROWS rows."""
    from safetensors.torch import load_file, save_file

    pending: dict[str, list[Tensor]] = defaultdict(list)
    num_pending, number = 0, 0

    def flush(num_rows: int) -> None:
        nonlocal num_pending, number
        stacked = {name: torch.cat(parts) for name, parts in pending.items()}
        shard = {name: rows[:num_rows].contiguous() for name, rows in stacked.items()}
        file = path / layout.shard_file(fingerprint, number)
        write_whole(file, lambda unfinished: save_file(shard, unfinished))
        for name, rows in stacked.items():
            pending[name] = [rows[num_rows:]]
        num_pending, number = num_pending - num_rows, number + 1

    for index in indices:
        tensors = load_file(path / layout.MEMBERS / f"{index:07d}.safetensors")
        for name, rows in tensors.items():
            pending[name].append(rows)
        num_pending += len(tensors["theta"])
        while num_pending >= layout.SHARD_ROWS:
            flush(layout.SHARD_ROWS)
    if num_pending:
        flush(num_pending)
