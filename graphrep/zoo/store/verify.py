"""Whether a zoo on disk is what was written: every file, every row, every split."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ...architecture import Architecture
from ...files import sha256
from ...progress import Advance
from . import layout
from .consolidate import zoo_files
from .folder import Folder, open_folder
from .shards import read_tensors
from .staging import content_hashes, staged_batches


def verify_zoo(
    path: str | os.PathLike[str], advance: Advance = lambda done=None: None
) -> list[str]:
    """What is wrong with a zoo, a line each; an empty list for a sound one.

    Reads every byte: hashes of files against the header, and of each checkpoint's
    values against its row of the properties, so that a flipped bit is found and the
    model it hit is named.

    Args:
        advance: Hears of every file that was read.

    Raises:
        ValueError: no zoo there, or its header is damaged.
    """
    folder = open_folder(path)
    folder.renew()  # what is there now, not what was fetched before
    header = layout.read_header(folder)
    problems: list[str] = []
    if header.get("digest") != layout.header_digest(header):
        problems.append(f"{layout.HEADER_FILE}: what it says has changed since it was written")
    for name in header["sha256"]:
        problems += _check_file(folder, header, name)
        advance()
    problems += [
        f"{name}: has no hash in {layout.HEADER_FILE}"
        for name in zoo_files(folder, header)
        if name not in header["sha256"]
    ]
    table = _table(folder, layout.PROPERTIES_FILE, header["num_checkpoints"], problems)
    splits = _table(folder, layout.SPLITS_FILE, header["num_models"], problems)
    if splits is not None:
        unknown = set(splits["split"]) - set(layout.SPLITS)
        problems += [f"{layout.SPLITS_FILE}: no split is called '{name}'" for name in unknown]
    if table is not None:
        problems += list(_check_rows(folder, header, table))
    for batch in staged_batches(folder, header["num_models"]):
        try:
            problems += list(_check_batch(folder, header, batch))
        except ValueError as error:
            problems.append(str(error))
    return problems


def num_files(path: str | os.PathLike[str]) -> int:
    """How many files `verify_zoo` tells its `advance` of."""
    return len(layout.read_header(open_folder(path))["sha256"])


def _check_file(folder: Folder, header: dict[str, Any], name: str) -> list[str]:
    try:
        found = sha256(folder.local(name))
    except FileNotFoundError:
        return [f"{name}: is missing"]
    if found == header["sha256"][name]:
        return []
    return [f"{name}: its bytes are not those that were written (sha256 differs)"]


def _table(folder: Folder, name: str, num: int, problems: list[str]) -> Any:
    """The committed rows of a table; None with a problem noted where there is none."""
    import pandas as pd

    if not num:
        return None
    try:
        table = pd.read_parquet(folder.local(name))
    except (OSError, ValueError) as error:
        problems.append(f"{name}: cannot be read: {error}")
        return None
    if len(table) < num:
        problems.append(f"{name}: has {len(table)} rows, {layout.HEADER_FILE} says {num}")
    elif len(table) > num and not (name == layout.SPLITS_FILE and _is_unfinished(folder)):
        problems.append(
            f"{name}: has {len(table) - num} rows that {layout.HEADER_FILE} does not count: an "
            "addition was cut short. Repeat it"
        )
    return table.iloc[:num]


def _is_unfinished(folder: Folder) -> bool:
    """An unfinished creation has the splits of all its models to come."""
    return not layout.read_header(folder)["finished"]


def _check_rows(folder: Folder, header: dict[str, Any], table: Any) -> Iterator[str]:
    """Values of every shard against the hashes in the properties."""
    names = table["name"] + ", epoch " + table["epoch"].astype(str)
    rows = table.groupby("architecture").indices
    for fingerprint, entry in header["architectures"].items():
        yield from _check_architecture(folder, fingerprint)
        mine = rows.get(fingerprint, [])
        expected, of = table["content_hash"].iloc[mine].tolist(), names.iloc[mine].tolist()
        start = 0
        for number, num in entry["shards"]:
            file = layout.shard_file(fingerprint, number)
            found = _hashes_of(folder, header, file, "")
            if isinstance(found, str):
                yield found
            else:
                yield from _differing(file, found, expected[start : start + num], of[start:])
            start += num
        if start != len(expected):
            yield (
                f"{fingerprint}: its shards hold {start} rows, {layout.PROPERTIES_FILE} has "
                f"{len(expected)}"
            )


def _check_architecture(folder: Folder, fingerprint: str) -> Iterator[str]:
    file = layout.architecture_file(fingerprint)
    try:
        found = Architecture.from_json(folder.local(file).read_text())
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        yield f"{file}: cannot be read: {error}"
        return
    if found.fingerprint != fingerprint:
        yield f"{file}: describes {found.fingerprint}, another architecture"


def _check_batch(folder: Folder, header: dict[str, Any], batch: Any) -> Iterator[str]:
    """Values of a staged file against the hashes in its own metadata."""
    expected: dict[str, list[tuple[str, str]]] = {}
    for model in batch.models:
        for row in model["rows"]:
            place = (row["content_hash"], f"{model['name']}, epoch {row.get('epoch')}")
            expected.setdefault(model["architecture"], []).append(place)
    for fingerprint, rows in expected.items():
        found = _hashes_of(folder, header, batch.file, f"{fingerprint}/")
        if isinstance(found, str):
            yield found
        else:
            yield from _differing(batch.file, found, [h for h, _ in rows], [n for _, n in rows])


def _hashes_of(folder: Folder, header: dict[str, Any], file: str, prefix: str) -> list[str] | str:
    try:
        tensors = read_tensors(folder, file, prefix)
    except FileNotFoundError:
        return f"{file}: is missing"
    except (OSError, ValueError) as error:
        return f"{file}: cannot be read: {error}"
    buffers = {
        name.removeprefix("buffer."): rows for name, rows in tensors.items() if name != "theta"
    }
    if "theta" not in tensors or any(len(t) != len(tensors["theta"]) for t in tensors.values()):
        return f"{file}: its tensors have different numbers of rows, or 'theta' is missing"
    return content_hashes(tensors["theta"], buffers, header["dtype"])


def _differing(file: str, found: list[str], expected: list[str], names: list[str]) -> Iterator[str]:
    differing = [name for a, b, name in zip(found, expected, names, strict=False) if a != b]
    if len(found) != len(expected):
        yield f"{file}: has {len(found)} rows where {len(expected)} are expected"
    if differing:
        models = Counter(differing)
        shown = "; ".join(list(models)[:5]) + (" ..." if len(models) > 5 else "")
        yield f"{file}: the values of {len(differing)} checkpoints have changed: {shown}"
