"""Importing a foreign zoo: what a reader finds goes into a zoo of ours, model by model.

Streaming and resumable: models are kept in small batches, and the same call
goes on with those that the zoo lacks. What could not be taken is listed with
its reason in `skipped.csv`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from ..progress import show_progress
from .formats.reader import Reader
from .record import Record, Skipped
from .store import layout
from .store.folder import Folder, open_folder
from .store.staging import writable
from .store.writer import ZooWriter, append_to
from .store.zoo import Zoo

BATCH_BYTES = 64 * 2**20  # of weights that are kept at once
BATCH_MODELS = 512
BATCH_SECONDS = 10.0  # after which what there is is kept


def import_zoo(
    reader: Reader,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    licence: str = "unknown",
    dtype: str = "float32",
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    progress: bool = True,
) -> Zoo:
    """Bring a foreign zoo into the folder `path`; interrupt and repeat it at will.

    Args:
        reader: The foreign zoo; `graphrep.zoo.formats.open_reader` gives one.
        name: Of the new zoo; the reader's title by default.
        licence: Of the source; its readers rarely know.
        dtype: Of the stored weights, float32 or float16.
        validation_fraction: Of the models, where the source has no splits of its own.
        seed: Of the splits.

    Raises:
        ValueError: no model could be taken (the reasons are in skipped.csv), `path`
            holds a zoo of another source, or another process writes to it.
    """
    source = {"format": type(reader).__name__, "title": reader.title, **reader.facts}
    with append_to(
        path,
        name=name or reader.title,
        dtype=dtype,
        licence=licence,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
        source=source,
    ) as writer:
        _check_source(writer.folder, source)
        names = list(reader.names())
        missing = [n for n in names if n not in writer.names]
        tried = set(missing)
        skipped = [
            s
            for s in _read_skipped(writer.folder)
            if s.name not in tried and not any(s.name.startswith(f"{n}/") for n in tried)
        ]
        _take(reader, writer, missing, len(names), skipped, progress)
        if not writer.num_models:
            reason = f", for instance: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
            raise ValueError(
                f"{writer.folder}: none of {len(names)} models of {reader.title} could be "
                f"taken{reason}"
            )
    return Zoo.open(path)


def read_skipped(zoo: Zoo) -> list[Skipped]:
    """What an import could not take."""
    return _read_skipped(open_folder(zoo.url))


def _read_skipped(folder: Folder) -> list[Skipped]:
    import pandas as pd

    if not folder.exists(layout.SKIPPED_FILE):
        return []
    table = pd.read_csv(folder.local(layout.SKIPPED_FILE), dtype=str, keep_default_na=False)
    return [Skipped(name=n, reason=r) for n, r in zip(table["name"], table["reason"], strict=True)]


def _take(
    reader: Reader,
    writer: ZooWriter,
    missing: Sequence[str],
    num_names: int,
    skipped: list[Skipped],
    progress: bool,
) -> None:
    batch: list[Record] = []
    num_bytes, since = 0, time.monotonic()

    def keep() -> None:
        nonlocal batch, num_bytes, since
        _write_skipped(writer.folder, skipped)  # first: who is taken is not read again
        writer.add(batch)
        batch, num_bytes, since = [], 0, time.monotonic()

    done = num_names - len(missing)
    try:
        with show_progress(f"import {reader.title}", num_names, done, progress) as advance:
            for name in missing:
                for found in _read(reader, name):
                    if isinstance(found, Skipped):
                        skipped.append(found)
                        continue
                    batch.append(found)
                    num_bytes += found.theta.numel() * found.theta.element_size()
                if (
                    num_bytes >= BATCH_BYTES
                    or len(batch) >= BATCH_MODELS
                    or time.monotonic() - since > BATCH_SECONDS
                ):
                    keep()
                advance()
    finally:  # also what was read before an interruption
        keep()


def _read(reader: Reader, name: str) -> list[Record | Skipped]:
    """One model and its troubles; a record whose name differs from what was asked is a defect."""
    try:
        found = list(reader.read(name))
    except (ValueError, OSError, RuntimeError) as error:
        return [Skipped(name=name, reason=" ".join(str(error).split()))]
    assert all(f.name == name for f in found if isinstance(f, Record)), name
    return found


def _check_source(folder: Folder, source: dict[str, object]) -> None:
    """A zoo grows from the source that it began with."""
    there = layout.read_header(folder)["source"]
    for key in ("format", "title"):
        if there.get(key) != source[key]:
            raise ValueError(
                f"{folder}: holds a zoo of {there.get('format')} '{there.get('title')}', not of "
                f"{source['format']} '{source['title']}'. Name another folder"
            )


def _write_skipped(folder: Folder, skipped: Sequence[Skipped]) -> None:
    import pandas as pd

    table = pd.DataFrame([vars(s) for s in skipped], columns=["name", "reason"], dtype=str)
    table = table.map(writable)
    if skipped or folder.exists(layout.SKIPPED_FILE):
        folder.write(layout.SKIPPED_FILE, lambda file: table.to_csv(file, index=False))
