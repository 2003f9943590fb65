"""Zoos of modelzoos.cc and others that Ray Tune left: a trial folder a model.

Layout: a root with `config.json`, `readme.md` and a folder for each trial (`ray_tune.py`); a
checkpoint folder holds `checkpoints`, a bare state dict saved by torch, and `optimizer`, which
is not read. The `dataset.pt` beside them pickles whole Python objects and is never read.

Source: Schürholt et al. 2022, arXiv:2209.14764; ModelZoos/ModelZooDataset.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...checkpoint import read_checkpoint
from ...graph import ParameterGraph
from ..record import Record, Skipped
from .layers import TracedDesigns
from .module_lists import build_list, describe_list
from .ray_tune import (
    CheckpointFolder,
    is_trial,
    list_checkpoints,
    listing,
    read_params,
    read_results,
    to_properties,
    to_row,
)
from .resnets import build_resnet, describe_resnet

WEIGHTS = "checkpoints"
LAYOUT = (
    "a folder with a folder for each trial (NN_tune_trainable_...), each with params.json, "
    "result.json and checkpoint_<epoch>/checkpoints"
)


class ModelZoos:
    """A folder of trials, as `graphrep.zoo.formats.reader.Reader` describes.

    Args:
        epochs: Only the checkpoints of these, also as `21,25`; None for all. A ResNet-18 with
            all its 51 checkpoints takes 2.3 GB of memory.
    """

    def __init__(self, source: str | Path, *, epochs: str | Sequence[int] | None = None) -> None:
        self.source = Path(source)
        wanted = epochs.split(",") if isinstance(epochs, str) else epochs
        self.epochs = None if wanted is None else frozenset(int(epoch) for epoch in wanted)
        self._names = _trials(self.source)
        self._designs = TracedDesigns(build)
        self.title = self.source.resolve().name
        self.facts = _facts(self.source)

    def names(self) -> Sequence[str]:
        """The trials' folder names, in order."""
        return self._names

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One trial with its checkpoints by epoch; folders that cannot be read are skipped.

        Raises:
            ValueError: no parameters, no checkpoint that can be taken, or another network.
        """
        trial = self.source / name
        properties = to_properties(read_params(trial))
        results = read_results(trial)
        folders = list_checkpoints(trial, results)
        if self.epochs is not None:
            folders = [f for f in folders if f.epoch is None or f.epoch in self.epochs]
        if not folders:
            wanted = "" if self.epochs is None else f" of epochs {sorted(self.epochs)}"
            raise ValueError(f"has no checkpoint folders{wanted}; found {listing(trial)}")
        graphs: list[ParameterGraph] = []
        rows: list[dict[str, Any]] = []
        skipped: list[Skipped] = []
        design: dict[str, Any] | None = None
        for folder in folders:
            try:
                epoch = _new_epoch(folder, rows)
                state = read_checkpoint(_weights_file(folder.path)).state_dict
                if design is None:
                    described = describe(state, str(properties.get("activation", "not given")))
                    architecture = self._designs.architecture(described, _label(described))
                    graph = ParameterGraph.from_state_dict(architecture, state)
                    design = described
                else:
                    graph = ParameterGraph.from_state_dict(graphs[0].architecture, state)
            except ValueError as error:
                skipped.append(Skipped(name=f"{name}/{folder.path.name}", reason=str(error)))
                continue
            graphs.append(graph)
            finite = bool(graph.theta.isfinite().all())
            rows.append({**to_row(epoch, results.get(epoch, {})), "diverged": not finite})
        if not graphs:
            raise ValueError(f"none of its {len(folders)} checkpoints: {skipped[0].reason}")
        yield Record.from_graphs(name, graphs, rows, properties=properties, design=design)
        yield from skipped


def describe(state: Mapping[str, Tensor], activation: str) -> dict[str, Any]:
    """The design of a state dict of the ModelZoos; `build` is what it stands for.

    Raises:
        ValueError: none of the known networks; lists the keys found.
    """
    return describe_resnet(state) or describe_list(state, activation)


def build(design: Mapping[str, Any]) -> nn.Module:
    """The module of a design of the kind `modelzoos`, with values yet to be loaded."""
    return build_resnet(design) if design["network"] == "ResNet" else build_list(design)


def _label(design: Mapping[str, Any]) -> str:
    shapes = design.get("shapes") or [[design["width"]]]
    return "-".join([design["network"].lower(), *(str(s[0]) for s in shapes), design["activation"]])


def _new_epoch(folder: CheckpointFolder, rows: Sequence[Mapping[str, Any]]) -> int:
    """The epoch of a checkpoint, if it has one that no other has."""
    if folder.epoch is None:
        raise ValueError("is of no known epoch: neither its name nor a result tells it")
    if rows and rows[-1]["epoch"] == folder.epoch:
        raise ValueError(f"is a second checkpoint of epoch {folder.epoch}; the first was taken")
    return folder.epoch


def _weights_file(folder: Path) -> Path:
    file = folder / WEIGHTS
    if not file.is_file():
        raise ValueError(f"has no file '{WEIGHTS}'; found {listing(folder)}")
    return file


def _trials(source: Path) -> list[str]:
    """The names of all trial folders.

    Raises:
        ValueError: none; says what was found instead.
    """
    if source.is_file() and source.suffix in (".pt", ".pth"):
        raise ValueError(f"{source}: {_pickled(source.name)}")
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder. A zoo of the ModelZoos is {LAYOUT}.")
    with os.scandir(source) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    if trials := [name for name in folders if is_trial(source / name)]:
        return trials
    within = [f for f in folders if any(is_trial(p) for p in (source / f).iterdir() if p.is_dir())]
    if within:
        raise ValueError(
            f"{source}: holds no trials itself, but {', '.join(within[:4])} do. Import each alone."
        )
    if datasets := sorted(p.name for p in source.glob("*.pt")):
        raise ValueError(f"{source}: {_pickled(datasets[0])}")
    raise ValueError(f"{source}: found {listing(source)}, expected {LAYOUT}.")


def _pickled(name: str) -> str:
    return (
        f"'{name}' is a preprocessed data set that pickles whole Python objects, which graphrep "
        "never executes. Download the raw zoo (the zip beside it on Zenodo) and import its folder "
        "of trials."
    )


def _facts(source: Path) -> dict[str, Any]:
    """What the zoo says of itself: its settings as they are written, and its readme."""
    facts: dict[str, Any] = {}
    try:
        text = (source / "config.json").read_text(encoding="utf-8")
        facts["config"] = json.loads(text, parse_constant=str)
    except (OSError, ValueError):
        pass  # the zoo is complete without
    for file in sorted(source.glob("[Rr][Ee][Aa][Dd][Mm][Ee].md")):
        facts["readme"] = file.read_text(encoding="utf-8", errors="replace")[:10_000]
    return {key: value for key, value in facts.items() if value}
