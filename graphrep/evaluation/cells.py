"""One cell of a comparison: a method with a seed, trained on zoos and judged on zoos.

A cell has a folder that is named after all that decides its result. What is done stays
done: training resumes at its last checkpoint, a zoo that was judged is not judged again.
Knows neither YAML nor MLflow, and nothing of other cells.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json, write_whole
from ..tracking import Run
from ..zoo import Zoo
from .divisions import TOGETHER, ZOO, DividedZoo, divide, first_models
from .judging import (
    Judgement,
    Readings,
    headline,
    judge_boosting,
    judge_embedding,
    judge_predictions,
    wanted_properties,
)
from .label_efficiency import LabelConfig
from .methods import Method
from .properties import Property
from .readers import Reader, Setup, read_floor, train_reader, untrained_reader
from .scores import Bootstrap


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """What cells are asked; the same for all of a comparison."""

    properties: tuple[Property, ...]
    supervised: tuple[str, ...] = ()  # properties that methods are trained on; () for the headline
    labels: LabelConfig = field(default_factory=LabelConfig)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    max_models: int = 0  # of a zoo; 0 for all
    max_slots: int = 8  # depths kept apart, at most as many as the deepest network has


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method with a seed on a division of some zoos (paths), judged on `targets` (paths)."""

    zoos: tuple[str, ...]
    targets: tuple[str, ...]
    method: Method
    seed: int
    judging: JudgingConfig
    setup: Setup | None = None  # of methods that train an encoder
    division: str = ZOO

    @property
    def title(self) -> str:
        """For progress lines."""
        where = TOGETHER.join(Path(path).name for path in self.zoos)
        division = "" if self.division == ZOO else f", {self.division}"
        return f"{where}{division}: {self.method.label}, seed {self.seed}"

    def folder(self, output: Path) -> Path:
        """Its place: readable, with a digest of its settings and of the zoos' weights."""
        zoos = [_identity(path, self.judging.max_models) for path in self.zoos]
        decisive = {
            "zoos": [digest for _, digest in zoos],
            "method": asdict(self.method),
            "setup": None if self.setup is None else asdict(self.setup),
            "judging": asdict(self.judging),
        }
        text = json.dumps(decisive, sort_keys=True, default=str)
        name = f"{self.method.name}-{self.method.mode}-seed{self.seed}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        where = TOGETHER.join(name for name, _ in zoos) if len(zoos) < 3 else f"{len(zoos)}_zoos"
        return output / "cells" / where / self.division.replace(":", "_") / f"{name}-{digest}"


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether every target was judged as it is now."""
    return all(_is_judged(cell, folder, target) for target in cell.targets)


def judgement_file(folder: Path, name: str) -> Path:
    """Where the scores on a zoo of this name lie; arrays are beside it."""
    return folder / f"on-{name}.json"


def _is_judged(cell: Cell, folder: Path, target: str) -> bool:
    """Whether there are scores, and of these networks and properties: zoos are made anew."""
    name, digest = _identity(target, cell.judging.max_models)
    place = judgement_file(folder, name)
    return place.exists() and json.loads(place.read_text()).get("digest") == digest


def run_cell(
    cell: Cell,
    folder: Path,
    run: Run | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train, then judge on every target that is not judged yet; resumes from `folder`.

    Writes cell.json, and a target: on-<zoo>.json, on-<zoo>.npz (resampled scores, true and
    predicted values) and, of what is trained, embedding-<zoo>.npz.

    Raises:
        ValueError: a division that leaves no models, or networks that the encoder refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recorder = run or Run()
    zoos = {
        path: divide(open_zoo(path, cell.judging.max_models), cell.division)
        for path in dict.fromkeys((*cell.zoos, *cell.targets))
    }
    sources = [zoos[path] for path in cell.zoos]
    reader = _prepare(cell, sources, folder, recorder, on_step)
    facts = {
        "zoos": [zoo.name for zoo in sources],
        "method": cell.method.name,
        "mode": cell.method.mode,
        "label": cell.method.label,
        "seed": cell.seed,
        "split": cell.division,
        "num_train": sum(len(zoo.split("train")) for zoo in sources),
        **reader.facts,
    }
    write_json(folder / "cell.json", facts, indent=1)
    of_source: Readings | None = None
    for path in cell.targets:
        if _is_judged(cell, folder, path):
            continue
        started = time.perf_counter()
        target = Readings(zoos[path], reader.read(zoos[path]))
        seconds = time.perf_counter() - started
        foreign = path not in cell.zoos
        if foreign and of_source is None and len(sources) == 1:
            of_source = Readings(sources[0], reader.read(sources[0]))
        found = _judge(cell, reader, target, of_source if foreign else None, foreign=foreign)
        _keep(cell, folder, path, target, found, seconds)
        for row in found.scores:
            recorder.log_metrics(_metrics(row, target.zoo.name if foreign else ""), 0)
        recorder.log_metrics({"cost/read_seconds": seconds}, 0)


def _prepare(
    cell: Cell,
    sources: Sequence[DividedZoo],
    folder: Path,
    run: Run,
    on_step: Callable[[int], None],
) -> Reader:
    max_slots = cell.judging.max_slots
    if cell.setup is None:
        return read_floor(cell.method.name, sources, max_slots)
    if cell.method.mode == "untrained":
        return untrained_reader(sources, cell.setup, max_slots)
    asked = _supervised(cell, _properties(cell, sources))
    return train_reader(sources, cell.setup, max_slots, asked, folder, run, on_step)


def _judge(
    cell: Cell, reader: Reader, target: Readings, source: Readings | None, *, foreign: bool
) -> Judgement:
    zoos = [target.zoo] if source is None else [source.zoo, target.zoo]
    properties, bootstrap = _properties(cell, zoos), cell.judging.bootstrap
    if reader.head is not None:
        trained = {own.name for own in reader.head.targets}
        asked = [p for p in properties if p.name in trained]
        table = reader.predict(target.values)
        whose = "other" if foreign else "own"
        return judge_predictions(target.zoo, table, asked, whose, bootstrap)
    if cell.method.mode == "boosting":
        return judge_boosting(target, source, _supervised(cell, properties), bootstrap)
    labels = cell.judging.labels if cell.division == ZOO and not foreign else None
    return judge_embedding(target, source, properties, labels, bootstrap)


def _properties(cell: Cell, zoos: Sequence[Zoo]) -> list[Property]:
    held_out = zoos[0].division.held_out if isinstance(zoos[0], DividedZoo) else ""
    return wanted_properties(zoos, cell.judging.properties, held_out)


def _supervised(cell: Cell, there: Sequence[Property]) -> list[Property]:
    """The properties that methods are trained on, of those that are there."""
    first = headline(there)
    names = cell.judging.supervised or (() if first is None else (first.name,))
    return [p for p in there if p.name in names]


def _keep(
    cell: Cell, folder: Path, path: str, target: Readings, found: Judgement, seconds: float
) -> None:
    """Write what was found on one target, the scores last: they say that all is there."""
    if cell.method.trained:
        split = target.zoo.properties["split"].to_numpy().astype(str)
        arrays = {"embedding": target.values, "split": split}
        _save_arrays(folder / f"embedding-{target.zoo.name}.npz", arrays)
    name, digest = _identity(path, cell.judging.max_models)
    place = judgement_file(folder, name)
    place.unlink(missing_ok=True)  # of other networks under this name
    _save_arrays(place.with_suffix(".npz"), found.arrays)
    content = {
        "zoo": name,
        "digest": digest,
        "scores": found.scores,
        "label_efficiency": found.label_efficiency,
        "read_seconds": round(seconds, 3),
        "num_networks": len(target.zoo),
    }
    write_json(place, content, indent=1)


def open_zoo(path: str, max_models: int = 0) -> Zoo:
    """A zoo to compare methods on, or its first models.

    Raises:
        ValueError: no zoo there, or an unfinished one: its division changes while it grows,
            so what is measured now could not stand beside what is measured later.
    """
    zoo = Zoo.open(path)
    if not zoo.finished:
        num = zoo.properties["model"].nunique()
        raise ValueError(
            f"{path}: an unfinished zoo, {num:,} models so far, whose division changes "
            "while it grows; finish it with the command that began it, then compare"
        )
    return first_models(zoo, max_models) if max_models else zoo


@lru_cache(maxsize=256)
def _identity(path: str, max_models: int) -> tuple[str, str]:
    """A zoo's name, and what tells one population from another: its networks, their splits and
    all their properties."""
    import pandas as pd

    zoo = open_zoo(path, max_models)
    table = zoo.properties.astype(str)
    table = table[sorted(table.columns)]
    found = hashlib.sha256("\n".join((zoo.name, *table.columns)).encode())
    found.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return zoo.name, found.hexdigest()[:16]


def _metrics(row: Mapping[str, Any], foreign: str) -> dict[str, float]:
    """Scores as MLflow's sections hold them."""
    where = row["property"] + (f" on {foreign}" if foreign else "")
    where += ", labels of the other zoo" if row["labels"] == "other" else ""
    sections = {"r2": "probe_r2", "kendall_tau": "probe_tau", "accuracy": "probe_accuracy"}
    return {
        f"{section}/{where}": round(row[kind], 4)
        for kind, section in sections.items()
        if row[kind] is not None
    }


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    def write(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:  # a path would get another ending
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
