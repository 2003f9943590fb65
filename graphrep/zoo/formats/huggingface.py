"""Folders of Hugging Face models, at any depth, or a copy of the hub's cache.

Weights and architecture come through `graphrep.load_graph`, which runs no code that a folder
brings along; properties from config.json, the model card and the trainer's files.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from ...checkpoint.shards import WEIGHTS, weights_in
from ...graph import ParameterGraph
from ..record import Record, Skipped
from .designs import Designs, frame_of
from .model_cards import read_card, read_config, read_trainer
from .property_tables import Row, unreserved

CONFIG, ADAPTER = "config.json", "adapter_config.json"
REPOSITORY = re.compile(r"models--(.+)")  # org--name, as the hub's cache writes org/name
OTHER_REPOSITORIES = ("datasets--", "spaces--")
STEP = re.compile(r"checkpoint-(\d+)")  # as transformers' Trainer names its folders
OTHER_WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf"),
    *(".onnx", ".tflite", ".index.json"),
)


@dataclass(frozen=True)
class _Spot:
    """A folder that is, or should be, a model."""

    folder: Path
    path: str  # from the source
    name: str  # of the model, were it alone
    run: str  # of the model together with its other revisions or steps
    says: Row = field(default_factory=dict)  # revision, reference, step

    @property
    def order(self) -> tuple[float, str]:
        """By step; what was saved at the end, without one, comes last."""
        numbers = re.findall(r"\d+", str(self.says.get("reference", "")))
        step = self.says.get("step", numbers[-1] if numbers else inf)
        return float(step), self.name


class HuggingFaceModels:
    """Saved models below a folder: one folder one model, called by its path.

    In the hub's cache a model is called org/name. Its revisions, and the folders
    `checkpoint-<step>` that a Trainer leaves together with what it saved above them at the
    end, are checkpoints of one model where their config.json says the same: they are too much
    alike to be told apart by a split. Others are models of their own, org/name@revision.
    """

    def __init__(self, source: Path | str) -> None:
        """Find the folders; reads their config.json.

        Args:
            source: A folder with models at any depth; `hub/` of the cache, or a part of it.

        Raises:
            ValueError: no such folder, or no model in it.
        """
        self.source = Path(source)
        if not self.source.is_dir():
            raise ValueError(f"{source}: no such folder, expected one with saved models in it")
        spots = list(_find(self.source))
        if not spots:
            raise ValueError(
                f"{source}: no saved model in it, expected folders with {CONFIG} and one of "
                f"{', '.join(WEIGHTS)}"
            )
        self.title = self.source.resolve().name
        self.designs = Designs()
        self._members = _join(spots)
        self.facts: Mapping[str, Any] = {
            "source": str(source),
            "num_folders": len(spots),
            "num_models": len(self._members),
        }

    def names(self) -> Sequence[str]:
        """Models by path or by org/name, sorted."""
        return list(self._members)

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One model with all its revisions or steps."""
        spots = self._members[name]
        graphs: list[ParameterGraph] = []
        rows: list[Row] = []
        notes: dict[str, None] = {}  # in order, each once
        properties: Row = {}
        for spot in spots:
            try:
                opened = self.designs.open(_to_open(spot.folder))
                if graphs and opened.graph.architecture != graphs[0].architecture:
                    raise ValueError("is of another architecture than the checkpoints before it")
            except ValueError as error:
                yield Skipped(name=spot.name, reason=str(error))
                continue
            about, about_notes = read_config(spot.folder)
            card, card_notes = read_card(spot.folder)
            trainer, trainer_notes = read_trainer(spot.folder)
            graphs.append(opened.graph)
            rows.append(unreserved({**trainer, **spot.says}))
            properties |= {**about, **card}
            notes |= dict.fromkeys((*opened.notes, *about_notes, *card_notes, *trainer_notes))
        if graphs:
            yield Record.from_graphs(
                name,
                graphs,
                rows,
                properties=unreserved({**properties, "notes": "; ".join(notes) or None}),
            )


def _find(source: Path) -> Iterator[_Spot]:
    """Every folder with a config, an adapter or weights, in order."""
    seen: set[str] = set()  # links may lead in circles
    for place, folders, names in os.walk(source, followlinks=True):
        new = os.path.realpath(place) not in seen
        seen.add(os.path.realpath(place))
        hidden = (".", *OTHER_REPOSITORIES)
        folders[:] = sorted(f for f in folders if new and not f.startswith(hidden))
        if not new:
            continue
        if _may_be_model(Path(place), names):
            yield _spot(source, Path(place))


def _may_be_model(folder: Path, names: Sequence[str]) -> bool:
    """Not the parts that some libraries keep below a model with a config but no weights."""
    if ADAPTER in names or any(name in WEIGHTS for name in names):
        return True
    if CONFIG not in names:
        return False
    return any(n.endswith(OTHER_WEIGHTS) for n in names) or "model_type" in read_config(folder)[0]


def _spot(source: Path, folder: Path) -> _Spot:
    parts = folder.relative_to(source).parts
    path = "/".join(parts) or source.resolve().name
    whole = folder.absolute().parts
    at = next((i for i, part in enumerate(whole) if REPOSITORY.fullmatch(part)), None)
    says: Row = {}
    if at is not None and whole[at + 1 : at + 2] == ("snapshots",) and len(whole) > at + 2:
        repository, revision = Path(*whole[: at + 1]), whole[at + 2]
        base = "/".join([*whole[at].split("--")[1:], *whole[at + 3 :]])
        says = {"revision": revision, **_reference(repository, revision)}
        return _Spot(folder, path, f"{base}@{revision[:12]}", base, says)
    if match := STEP.fullmatch(folder.name):
        above = "/".join(parts[:-1]) or source.resolve().name
        return _Spot(folder, path, path, above, {"step": int(match[1])})
    return _Spot(folder, path, path, path, says)


def _reference(repository: Path, revision: str) -> Row:
    """The branch or tag that the cache knows a revision by, if it does."""
    refs = repository / "refs"
    for path in sorted(refs.rglob("*")) if refs.is_dir() else ():
        if path.is_file() and path.read_text(errors="replace").strip() == revision:
            return {"reference": path.relative_to(refs).as_posix()}
    return {}


def _join(spots: Sequence[_Spot]) -> dict[str, list[_Spot]]:
    """Models by name: the folders of one run together where their configs agree."""
    runs: dict[str, list[_Spot]] = defaultdict(list)
    for spot in spots:
        runs[spot.run].append(spot)
    members: dict[str, list[_Spot]] = {}
    for run, there in runs.items():
        if len(there) > 1 and len({_frame(spot.folder) for spot in there}) == 1:
            members[run] = sorted(there, key=lambda spot: spot.order)
            continue
        for spot in there:
            alone = len(there) == 1 and "revision" in spot.says
            name = run if alone else spot.name
            name = spot.path if name in members else name  # two caches may hold one repository
            members[name] = [replace(spot, name=name)]
    return dict(sorted(members.items()))


def _frame(folder: Path) -> str:
    try:
        return frame_of(folder)
    except ValueError:
        return str(folder)  # agrees with no other


def _to_open(folder: Path) -> Path:
    """The folder, or its file of weights where no config says what transformers would build.

    Raises:
        ValueError: an adapter, or no weights under a usual name.
    """
    try:
        file = weights_in(folder)
    except ValueError as error:
        if (folder / ADAPTER).is_file():
            raise ValueError(
                f"is an adapter ({ADAPTER}), which is no network without its base model; merge "
                "it into the base model and save that"
            ) from error
        others = sorted(p.name for p in folder.iterdir() if p.name.endswith(OTHER_WEIGHTS))
        raise ValueError(
            f"no weights in it, expected {' or '.join(WEIGHTS)}, found "
            f"{', '.join(others[:4]) or 'none'}"
        ) from error
    about, damaged = read_config(folder)
    return folder if "model_type" in about or damaged else file
