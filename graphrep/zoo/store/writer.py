"""Adding models to a zoo that is not made from a recipe: one writer at a time.

What `add` has taken is on disk when it returns; it joins the zoo's own files
when the writer closes. A writer that was killed goes on where it stopped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..record import Record
from . import layout
from .consolidate import consolidate
from .folder import Folder, open_folder
from .staging import staged_batches, writable, write_batch

_BATCH_MODELS = 20_000  # a file's header, which tells of its models, has a limit


class ZooWriter:
    """An open zoo that takes models; `append_to` opens it."""

    def __init__(self, folder: Folder) -> None:
        import pandas as pd

        self.folder = folder
        header = layout.read_header(folder)
        self.dtype: str = header["dtype"]
        self.names: set[str] = set()  # of the models that are there
        self.num_models: int = header["num_models"]
        self._next = self.num_models  # under which a batch is staged; above all that are there
        if self.num_models:
            table = pd.read_parquet(folder.local(layout.PROPERTIES_FILE), columns=["name"])
            self.names.update(table["name"].iloc[: header["num_checkpoints"]])
        for batch in staged_batches(folder, self.num_models):
            self.names.update(model["name"] for model in batch.models)
            self.num_models += batch.num
            self._next = batch.start + batch.num

    def add(self, records: Sequence[Record]) -> None:
        """Keep models; they are safe when this returns.

        Raises:
            ValueError: a name that is there already.
        """
        new = [writable(record.name) for record in records]
        twice = [n for n, count in Counter(new).items() if count > 1]
        if known := sorted({*new} & self.names) or sorted(twice):
            raise ValueError(
                f"{self.folder}: has a model named '{known[0]}' already. Names tell models apart"
            )
        for start in range(0, len(records), _BATCH_MODELS):
            part = records[start : start + _BATCH_MODELS]
            write_batch(self.folder, self._next, part, self.dtype)
            self._next += len(part)
            self.num_models += len(part)
            self.names.update(new[start : start + len(part)])


@contextmanager
def append_to(
    path: str | os.PathLike[str],
    *,
    name: str = "",
    dtype: str = "float32",
    licence: str = "unknown",
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    source: dict[str, Any] | None = None,
) -> Iterator[ZooWriter]:
    """Open a zoo for adding models, or begin one; closing takes them into its files.

    When the block ends by an exception, what was added stays and the zoo counts as
    unfinished until the next writer closes. The keyword arguments are those of a new
    zoo; one that is there keeps its own.

    Raises:
        ValueError: another process writes to the zoo, it was created from a recipe, or
            the folder holds something else.
    """
    folder = open_folder(path)
    with folder.exclusive():
        if folder.exists(layout.HEADER_FILE):
            if layout.read_header(folder)["recipe"] is not None:
                raise ValueError(
                    f"{folder}: was created from a recipe, which would no longer tell what is in "
                    "it. Begin another zoo for other models"
                )
        elif others := folder.entries():
            raise ValueError(
                f"{folder}: not empty and not a zoo, it holds {', '.join(others[:5])}. "
                "Name a new or empty folder"
            )
        else:
            header = layout.new_header(
                name=name or str(folder).rstrip("/").rsplit("/", 1)[-1],
                dtype=dtype,
                licence=licence,
                fractions={"validation": validation_fraction, "test": test_fraction},
                seed=seed,
                source=source or {},
            )
            layout.write_header(folder, header)
        yield ZooWriter(folder)
        consolidate(folder, finished=True)
