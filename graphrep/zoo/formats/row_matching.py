"""Which rows of a table are about which checkpoints, and what their columns mean.

Nothing is guessed: a row that may mean several files is an error, one that means none is
listed, and so are files without a row.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .property_tables import Row, unreserved
from .runs import Moment

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


@dataclass(frozen=True)
class About:
    """What a row says: columns with a meaning, and all others as properties."""

    values: Row = field(default_factory=dict)
    factory: str | None = None  # package.module:factory
    input_shape: Any = None
    split: str | None = None

    @classmethod
    def from_row(cls, row: Row, column: str) -> About:
        """The row without the column that names its file."""
        rest = {k: v for k, v in row.items() if k != column}
        factory = rest.get("model")
        if isinstance(factory, str) and FACTORY.fullmatch(factory.strip()):
            factory = rest.pop("model").strip()
        else:
            factory = None  # an ordinary property that happens to be called so
        shape = rest.pop("input_shape", None)
        split = SPLITS.get(str(rest.get("split")).strip().lower())
        if split is not None:
            del rest["split"]
        return cls(unreserved(rest), factory, None if shape is None else _shapes(shape), split)


@dataclass
class Matched:
    """What a table says of models and of single files, by name, and what did not match."""

    models: dict[str, About] = field(default_factory=dict)
    files: dict[str, About] = field(default_factory=dict)  # checkpoints of runs, by path
    missing: list[str] = field(default_factory=list)  # what rows name and is not there
    unnamed: list[str] = field(default_factory=list)  # paths that no row is about


class Target(NamedTuple):
    """A model, or one file of a run of several."""

    model: str
    path: str = ""


def match_rows(
    rows: Sequence[Row], column: str, table: Path, root: Path, runs: Mapping[str, list[Moment]]
) -> Matched:
    """Give each row to the model or file that it names.

    Args:
        column: Which names the file; paths in it count from `root`, the table or here.
        runs: Models by name, as `find_runs` gives them.

    Raises:
        ValueError: no row names a file that is there; one names several, or several name one.
    """
    targets = _Names(root, runs)
    claims: dict[Target, list[tuple[int, Row]]] = defaultdict(list)
    result = Matched()
    for number, row in enumerate(rows, 1):
        found = targets.find(str(row[column]), table)
        if len(found) > 1:
            shown = ", ".join(t.path or t.model for t in found[:4]) + ", ..." * (len(found) > 4)
            raise ValueError(
                f"{table}: row {number}: {column} '{row[column]}' may be {len(found)} files "
                f"({shown}). Write paths relative to {root}"
            )
        if found:
            claims[found[0]].append((number, row))
        elif tidy(row[column]) not in result.missing:
            result.missing.append(tidy(row[column]))
    if not claims and rows:
        raise ValueError(
            f"{table}: none of its {len(rows)} rows names a file that is there: {column} "
            f"'{rows[0][column]}', but there is {next(iter(runs))}. Pass file_column= for another "
            "column than this"
        )
    for target, claimed in claims.items():
        if len(claimed) == 1:
            about = About.from_row(claimed[0][1], column)
            if target.path:
                result.files[target.path] = about
            else:
                result.models[target.model] = about
        else:
            _by_time(target, claimed, column, table, runs[target.model], result)
    result.unnamed = [
        m.path
        for model, moments in runs.items()
        for m in moments
        if model not in result.models and m.path not in result.files
    ]
    return result


def _by_time(
    target: Target,
    claimed: Sequence[tuple[int, Row]],
    column: str,
    table: Path,
    moments: Sequence[Moment],
    result: Matched,
) -> None:
    """Rows that name one run: each is about the checkpoint of its epoch or step."""
    numbers = ", ".join(str(number) for number, _ in claimed[:6])
    for number, row in claimed:
        key = next((k for k in ("epoch", "step") if k in row), None)
        if target.path or len(moments) == 1 or key is None:
            raise ValueError(
                f"{table}: rows {numbers} are all about '{target.path or target.model}'. Expected "
                "one row, or a run of several files and rows with their epoch or step"
            )
        at = [m.path for m in moments if m.says.get(key) == row[key]]
        if not at:
            result.missing.append(f"{target.model} ({key} {row[key]})")
        elif len(at) > 1 or at[0] in result.files:
            raise ValueError(
                f"{table}: row {number}: {key} {row[key]} of '{target.model}' is in several rows "
                "or of several files. Name the files instead"
            )
        else:
            result.files[at[0]] = About.from_row(row, column)


class _Names:
    """Targets by the names that people give them, the surest first.

    A relative or absolute path; that without the suffix; the file's name; its stem; the
    folder that it stands in; the folder's last part.
    """

    def __init__(self, root: Path, runs: Mapping[str, list[Moment]]) -> None:
        self.levels: list[dict[str, list[Target]]] = [defaultdict(list) for _ in range(6)]
        for model, moments in runs.items():
            whole = Target(model)
            self._put(0, model, whole)
            for moment in moments:
                self._add(root, moment.path, whole, Target(model, moment.path * (len(moments) > 1)))

    def find(self, name: str, table: Path) -> list[Target]:
        """What a row of a table names: one target, none, or several that it may mean."""
        name = tidy(name)
        names = (name, os.path.abspath(table.parent / name), os.path.abspath(name))
        for level in self.levels:
            for written in names:
                if written in level:
                    return level[written]
        return []

    def _add(self, root: Path, path: str, model: Target, file: Target) -> None:
        place = PurePosixPath(path)
        folder = place.parent
        self._put(0, path, file)
        self._put(0, os.path.abspath(root / path), file)
        self._put(1, str(place.with_suffix("")), file)
        self._put(1, os.path.abspath(root / place.with_suffix("")), file)
        self._put(2, place.name, file)
        self._put(3, place.stem, file)
        if folder.name:
            self._put(4, str(folder), model)
            self._put(4, os.path.abspath(root / folder), model)
            self._put(5, folder.name, model)

    def _put(self, level: int, name: str, target: Target) -> None:
        there = self.levels[level][name]
        if target not in there:
            there.append(target)


def tidy(name: Any) -> str:
    """A path as people write it, with forward slashes and nothing around it."""
    text = str(name).strip().replace("\\", "/").rstrip("/")
    while text.startswith("./"):
        text = text[2:]
    return text


def _shapes(value: Any) -> Any:
    """Shapes as `load_graph` takes them, from 1,3,32,32 or several by semicolon or JSON."""
    text = str(value).strip()
    if text.startswith("["):
        return json.loads(text)
    return [part.strip() for part in text.split(";")]
