"""The files of one zoo and what has been read of them.

Weights stay on disk, mapped into memory, until rows are asked for.

Letters in shapes: M rows of one architecture, P length of theta.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...architecture import Architecture
from ...graph import ParameterGraph
from . import layout
from .consolidate import properties_table
from .folder import Folder
from .shards import read_tensors
from .staging import staged_batches, staged_models

_TRIES = 10  # to read a zoo while its header changes
_MAX_MAPPED = 4096  # files at once; Linux allows a process 65,530 mappings


class Shard(NamedTuple):
    """Some successive rows of an architecture: a file, and how its tensors' names begin."""

    file: str
    prefix: str
    rows: int


def open_shelf(folder: Folder) -> Shelf:
    """The zoo in a folder as it is at one moment, also while a writer closes.

    Raises:
        ValueError: no zoo there, or files of it are missing or damaged.
    """
    header = layout.read_header(folder)
    for _ in range(_TRIES):
        trouble: Exception | None = None
        try:
            shelf = Shelf(folder, header)
        except (OSError, ValueError) as error:
            trouble = error
        before, header = header, layout.read_header(folder)
        if header == before:
            if trouble is None:
                return shelf
            if isinstance(trouble, ValueError):
                raise trouble
    raise ValueError(f"{folder}: cannot be read, or changes all the time: {trouble}") from trouble


class Shelf:
    """Reads the zoo in a folder; models that are staged stand behind those in the header."""

    def __init__(self, folder: Folder, header: dict[str, Any]) -> None:
        import pandas as pd

        self.folder, self.header = folder, header
        self._check_files()
        try:
            table, splits = self._tables()
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: its tables cannot be read: {error}") from error
        self.shards = {
            fingerprint: [
                Shard(layout.shard_file(fingerprint, number), "", rows)
                for number, rows in entry["shards"]
            ]
            for fingerprint, entry in self.header["architectures"].items()
        }
        self.designs: list[Any] = list(self.header["designs"])
        staged = self._staged()
        self.num_staged = 0 if staged is None else staged["model"].nunique()
        if staged is not None:
            table = staged if table.empty else pd.concat([table, staged], ignore_index=True)
        split = _by_model(splits, table["model"].to_numpy())
        table.insert(min(3, table.shape[1]), "split", split)
        self.properties = table
        self.codes, names = pd.factorize(table["architecture"])  # architecture of each row
        self.fingerprints = list(names)
        # place of each row among those of its architecture
        self.places = table.groupby(self.codes).cumcount().to_numpy()
        self._architectures: dict[str, Architecture] = {}
        self._rows: dict[str, Rows] = {}
        self._mapped = Mapped(folder)

    def architecture(self, fingerprint: str) -> Architecture:
        """The architecture of this fingerprint, parsed once."""
        if fingerprint not in self._architectures:
            text = self.folder.local(layout.architecture_file(fingerprint)).read_text()
            self._architectures[fingerprint] = Architecture.from_json(text)
        return self._architectures[fingerprint]

    def rows(self, fingerprint: str) -> Rows:
        """All rows of an architecture."""
        if fingerprint not in self._rows:
            self._rows[fingerprint] = Rows(
                self._mapped, self.architecture(fingerprint), self.shards[fingerprint]
            )
        return self._rows[fingerprint]

    def graph(self, row: int) -> ParameterGraph:
        """The network of one row of the whole zoo."""
        rows = self.rows(self.fingerprints[self.codes[row]])
        place = int(self.places[row])
        return ParameterGraph(rows.architecture, rows.theta(place), rows.buffers(place))

    def _check_files(self) -> None:
        wanted = [layout.SPLITS_FILE, layout.PROPERTIES_FILE] if self.header["num_models"] else []
        present: dict[str, set[str]] = {}
        for name in [*wanted, *self.header["sha256"]]:
            below, _, file = name.rpartition("/")
            if below not in present:
                present[below] = set(self.folder.names(below))
            if file not in present[below]:
                raise ValueError(
                    f"{self.folder}: files of this zoo are missing, among them {name}. Was it "
                    "copied in part? Copy it again, or make it anew"
                )

    def _tables(self) -> tuple[Any, Any]:
        import pandas as pd

        num = self.header["num_checkpoints"]
        table = properties_table([], [])
        if num:
            table = pd.read_parquet(self.folder.local(layout.PROPERTIES_FILE))
            if len(table) < num:
                raise ValueError(
                    f"{self.folder}/{layout.PROPERTIES_FILE}: has {len(table)} rows, but "
                    f"{layout.HEADER_FILE} says {num}"
                )
            table = table.iloc[:num].reset_index(drop=True)
        splits = None
        if self.folder.exists(layout.SPLITS_FILE):
            splits = pd.read_parquet(self.folder.local(layout.SPLITS_FILE))["split"]
            if self.header["recipe"] is None:  # else the models to come have theirs as well
                splits = splits.iloc[: self.header["num_models"]]
        return table, splits

    def _staged(self) -> Any:
        """Properties of the models that are staged, whose files join the shards; None for none."""
        batches = staged_batches(self.folder, self.header["num_models"])
        numbers = []
        for batch in batches:
            rows: dict[str, int] = {}
            for model in batch.models:
                fingerprint = model["architecture"]
                rows[fingerprint] = rows.get(fingerprint, 0) + len(model["rows"])
                numbers.append(-1 if model["design"] is None else len(self.designs))
                self.designs += [] if model["design"] is None else [model["design"]]
            for fingerprint, num in rows.items():
                shard = Shard(batch.file, f"{fingerprint}/", num)
                self.shards.setdefault(fingerprint, []).append(shard)
        models = staged_models(batches, self.header)
        return properties_table(models, numbers) if models else None


class Mapped:
    """The shards of a zoo that were read last, mapped into memory; a process has a limit."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._shards: OrderedDict[Shard, dict[str, Tensor]] = OrderedDict()

    def tensors(self, shard: Shard, architecture: Architecture) -> dict[str, Tensor]:
        """The tensors of a shard.

        Raises:
            ValueError: the file is gone, damaged, or another zoo's.
        """
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        file, prefix, rows = shard
        try:
            found = read_tensors(self._folder, file, prefix)
        except FileNotFoundError as error:
            raise ValueError(
                f"{self._folder}/{file}: is gone. Were models added to the zoo meanwhile? Open "
                "it again"
            ) from error
        except OSError as error:
            raise ValueError(f"{self._folder}/{file}: cannot be read: {error}") from error
        expected = (rows, architecture.num_parameters)
        shape = tuple(found["theta"].shape) if "theta" in found else None
        if shape != expected:
            raise ValueError(
                f"{self._folder}/{file}: 'theta' has shape {shape}, but the header and "
                f"architecture {architecture.fingerprint} need {expected}. Does this file "
                "belong to another zoo?"
            )
        self._shards[shard] = found
        if len(self._shards) > _MAX_MAPPED:
            self._shards.popitem(last=False)
        return found


class Rows:
    """All rows of one architecture, in shards that are opened when first read."""

    def __init__(self, mapped: Mapped, architecture: Architecture, shards: list[Shard]) -> None:
        self.architecture = architecture
        self._mapped, self._shards = mapped, shards
        self._starts = [0, *accumulate(shard.rows for shard in shards)]

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def dtype(self) -> torch.dtype:
        return self.architecture.dtype

    def theta(self, place: int) -> Tensor:
        """A copy of one row [P]."""
        number = bisect_right(self._starts, place) - 1
        row = self._tensors(number)["theta"][place - self._starts[number]]
        return row.to(self.dtype, copy=True)

    def buffers(self, place: int) -> dict[str, Tensor]:
        """Copies of one row's buffers, by name."""
        number = bisect_right(self._starts, place) - 1
        return {
            name.removeprefix("buffer."): rows[place - self._starts[number]].clone()
            for name, rows in self._tensors(number).items()
            if name != "theta"
        }

    def gather(self, places: np.ndarray) -> Tensor:
        """Copies of rows [M, P] in the order of their places."""
        found = torch.empty(len(places), self.architecture.num_parameters, dtype=self.dtype)
        target = _bytes_of(found)
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        within = places - np.asarray(self._starts)[numbers]
        shards = {number: self._source(number) for number in set(numbers.tolist())}
        # a plain copy a row: twice as fast as index_select, which scatters afterwards
        for to, (number, place) in enumerate(zip(numbers.tolist(), within.tolist(), strict=True)):
            source = shards[number]
            if isinstance(source, Tensor):  # of another type than the rows are wanted in
                found[to] = source[place]
            else:
                target[to] = source[place]
        return found

    def _source(self, number: int) -> np.ndarray | Tensor:
        theta = self._tensors(number)["theta"]
        return _bytes_of(theta) if theta.dtype == self.dtype else theta

    def _tensors(self, number: int) -> dict[str, Tensor]:
        return self._mapped.tensors(self._shards[number], self.architecture)


def _bytes_of(rows: Tensor) -> np.ndarray:
    """The same memory as numpy bytes [M, bytes of a row]; numpy knows no bfloat16."""
    return rows.view(torch.uint8).numpy() if rows.numel() else np.empty((len(rows), 0), np.uint8)


def _by_model(splits: Any, models: np.ndarray) -> Any:
    """The split of each row's model; missing where none is fixed yet."""
    import pandas as pd

    known = pd.Series([], dtype="str") if splits is None else splits
    return known.reindex(models).to_numpy()
