"""Files of weights in a folder or behind a glob pattern, found by name without opening them.

What is no weights by its suffix (settings, pictures, tables, logs) is passed over and counted;
everything else is tried, so that nothing is lost that only looks odd.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...checkpoint.shards import INDEX_SUFFIX, read_json, weights_in

SETTINGS = ".json .jsonl .ndjson .yaml .yml .toml .ini .cfg .conf .xml .lock .md5 .sha256"
TEXTS = ".txt .md .rst .html .htm .tex .bib .pdf .log .out .err .tfevents"
TABLES = ".csv .tsv .parquet .feather .arrow .xlsx .npy .npz .db .sqlite"
MEDIA = ".png .jpg .jpeg .gif .svg .bmp .webp .ico .eps .mp4 .avi .wav .mp3"
CODE = ".py .pyi .pyc .ipynb .sh .c .cc .cpp .cu .h .js .css"
NOT_WEIGHTS = frozenset(" ".join((SETTINGS, TEXTS, TABLES, MEDIA, CODE)).split())


@dataclass(frozen=True)
class Found:
    """Files of weights by their paths from `root`, sorted, and what was passed over."""

    root: Path
    paths: tuple[str, ...]  # with forward slashes; of a folder that is one model, its own
    passed_over: Counter[str] = field(default_factory=Counter)  # suffix -> files


def find_weights(source: Path | str, recursive: bool = True) -> Found:
    """All files of weights below a folder, that a glob pattern matches, or one file itself.

    An index of shards stands for its shards, and a folder that transformers saved for its
    files. Names that begin with a dot are hidden from the search.

    Args:
        recursive: Search a folder in depth; a pattern does where it has `**`.

    Raises:
        ValueError: nothing there, or nothing that may be weights.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        root, found = _in_folder(path, recursive)
    elif path.is_file():
        root, found = path.parent, [path]
    elif glob.has_magic(text):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, found = Path(*parts[:fixed]), [Path(p) for p in glob.iglob(text, recursive=True)]
        found = _whole(found)
    else:
        raise ValueError(f"{path}: no such folder or file, nor a glob pattern such as runs/*/*.pt")
    passed: Counter[str] = Counter()
    kept = []
    for file in found:
        if file.is_file() and not file.name.endswith(INDEX_SUFFIX):
            kind = _kind(file.name)
            if kind in NOT_WEIGHTS:
                passed[kind] += 1
                continue
        kept.append(file.relative_to(root).as_posix())
    if not kept:
        counts = ", ".join(f"{n} {k}" for k, n in sorted(passed.items())) or "nothing"
        raise ValueError(f"{text}: no files that may be weights there, found {counts}")
    return Found(root, tuple(sorted(kept)), passed)


def is_saved_model(folder: Path) -> bool:
    """Whether transformers saved this folder: weights by their usual name beside a config."""
    try:
        weights_in(folder)
        return isinstance(read_json(folder / "config.json").get("model_type"), str)
    except ValueError:
        return False


def _in_folder(folder: Path, recursive: bool) -> tuple[Path, list[Path]]:
    if is_saved_model(folder):
        return folder.parent, [folder, *(_below(folder)[1:] if recursive else ())]
    return folder, _below(folder) if recursive else _whole(folder.iterdir())


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()  # links may lead in circles
    for place, folders, names in os.walk(folder, followlinks=True):
        new = os.path.realpath(place) not in seen
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if new and not name.startswith("."))
        if not new:
            continue
        here = Path(place)
        if is_saved_model(here):
            found.append(here)
        else:
            found += _whole(here / name for name in sorted(names))
    return found


def _whole(paths: Iterable[Path]) -> list[Path]:
    """Files and saved folders, without hidden ones and without shards that an index lists."""
    there = [p for p in paths if not p.name.startswith(".")]
    shards = set(_shards(there))
    files = [p for p in there if p.is_file() and p not in shards]
    folders = [p for p in there if p.is_dir() and is_saved_model(p)]
    return [*(f for f in files if f.parent not in set(folders)), *folders]


def _shards(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.name.endswith(INDEX_SUFFIX):
            try:
                places = read_json(path).get("weight_map")
            except ValueError:  # the index itself is then refused with its reason
                continue
            if isinstance(places, dict):
                yield from (path.parent / name for name in places.values() if isinstance(name, str))


def _kind(name: str) -> str:
    """The suffix in small letters; TensorBoard's files have theirs in the middle."""
    return ".tfevents" if ".tfevents." in name else Path(name).suffix.lower()
