"""A zoo, read from its folder: properties, splits, architectures, weights.

Weights stay on disk, memory-mapped, until rows are asked for. Views (`split`,
`select`) share everything with the zoo that they come from.

Letters in shapes: M rows of one architecture, P length of theta.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor, nn

from ...architecture import Architecture
from ...graph import ParameterGraph
from ..images import Images
from ..kinds import build_design, load_images_of, parse_recipe
from ..recipe import Recipe
from . import layout
from .folder import open_folder
from .shelf import Rows, Shelf, open_shelf

if TYPE_CHECKING:
    import pandas as pd


class Group(NamedTuple):
    """The rows of one architecture."""

    architecture: Architecture
    rows: Tensor  # int64 [M], positions in the zoo's properties
    theta: Theta  # [M, P], on disk


class Theta:
    """Values [M, P] of one architecture's rows, read from disk row by row when asked for."""

    def __init__(self, rows: Rows, places: np.ndarray) -> None:
        self._rows, self._places = rows, places

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._places), self._rows.architecture.num_parameters

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Tensor | np.ndarray | slice) -> Tensor:
        """Copies of some rows: positions (or a slice, or a mask) to [m, P]."""
        chosen = index if isinstance(index, slice) else np.asarray(index)
        return self._rows.gather(self._places[chosen])

    def split(self, num: int) -> Iterator[Tensor]:
        """All rows in order, so many at once."""
        return (self[start : start + num] for start in range(0, len(self), num))

    def read(self) -> Tensor:
        """All rows at once, in memory."""
        return self[:]


class Zoo:
    """A population of checkpoints, or a view of one; `Zoo.open` reads it.

    `properties` has a row a checkpoint: `model`, `architecture` (fingerprint),
    `epoch`, `split`, metrics and hyper-parameters. `graphs[i]` belongs to row i.
    """

    def __init__(self, shelf: Shelf, rows: np.ndarray) -> None:
        self._shelf = shelf
        self._rows = rows  # positions in the whole zoo

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Zoo:
        """Open a zoo, in a folder or behind an fsspec URL such as s3://bucket/zoo.

        An unfinished one, which is being written or was interrupted, gives the models
        that are finished (`zoo.finished` is False).

        Raises:
            ValueError: no zoo there, one of another version, or one with missing or
                damaged files.
        """
        shelf = open_shelf(open_folder(path))
        return cls(shelf, np.arange(len(shelf.properties)))

    @property
    def path(self) -> Path:
        """The folder of the zoo; of a remote one, its URL as a path."""
        return Path(str(self._shelf.folder))

    @property
    def url(self) -> str:
        """Where the zoo is, as `open` takes it."""
        return str(self._shelf.folder)

    @property
    def name(self) -> str:
        """What the zoo is called."""
        return str(self.header["name"])

    @property
    def header(self) -> Mapping[str, Any]:
        """What zoo.json says: licence, versions, storage, source ..."""
        return self._shelf.header

    @property
    def finished(self) -> bool:
        """Whether all models that were wanted are there."""
        return bool(self.header["finished"]) and not self._shelf.num_staged

    @cached_property
    def recipe(self) -> Recipe:
        """What the zoo was created from.

        Raises:
            ValueError: it was imported and has none.
        """
        if self.header["recipe"] is None:
            raise ValueError(f"{self.url}: was imported, so it has no recipe")
        return parse_recipe(self.header["recipe"])

    @cached_property
    def properties(self) -> pd.DataFrame:
        """A row a checkpoint, numbered from 0."""
        return self._shelf.properties.iloc[self._rows].reset_index(drop=True)

    @cached_property
    def architectures(self) -> Mapping[str, Architecture]:
        """The architectures that occur, by fingerprint, in order of first occurrence."""
        return {name: self._shelf.architecture(name) for name in self._fingerprints}

    @property
    def graphs(self) -> Graphs:
        """The networks, read when asked for, aligned with `properties`."""
        return Graphs(self._shelf, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return (
            f"Zoo({self.url!r}, {len(self)} checkpoints of "
            f"{self.properties['model'].nunique()} models, {len(self._fingerprints)} architectures)"
        )

    def split(self, name: str) -> Zoo:
        """The checkpoints whose models belong to `train`, `validation` or `test`."""
        if name not in layout.SPLITS:
            raise ValueError(f"split must be one of {', '.join(layout.SPLITS)}, got '{name}'")
        return self.select((self.properties["split"] == name).to_numpy())

    def select(self, rows: Any) -> Zoo:
        """A view of some rows.

        Args:
            rows: A mask over `properties`, a slice, or positions in the wanted order.
        """
        if isinstance(rows, slice):
            return Zoo(self._shelf, self._rows[rows])
        chosen = np.asarray(rows)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise ValueError(f"a mask over {len(self)} rows has shape {chosen.shape}")
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Zoo(self._shelf, self._rows[chosen])

    def groups(self) -> Iterator[Group]:
        """The rows by architecture; a group's theta stays on disk until rows are asked for."""
        codes = self._shelf.codes[self._rows]
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(self._shelf.fingerprints) + 1))
        numbers = {name: code for code, name in enumerate(self._shelf.fingerprints)}
        for name in self._fingerprints:
            rows = order[starts[numbers[name]] : starts[numbers[name] + 1]]
            theta = Theta(self._shelf.rows(name), self._shelf.places[self._rows[rows]])
            yield Group(self._shelf.architecture(name), torch.from_numpy(rows), theta)

    def network(self, row: int) -> nn.Module:
        """The module of a row's design, in evaluation mode, with values yet to be loaded.

        Raises:
            ValueError: the zoo was imported in a way that tells no module.
        """
        design = int(self.properties["design"].iloc[row])
        if design < 0:
            name = self.properties["name"].iloc[row]
            raise ValueError(
                f"{self.url}: nothing tells which module row {row} ({name}) had. Build it "
                "yourself and load zoo.graphs[row].state_dict()"
            )
        return build_design(self._shelf.designs[design]).eval()

    def images(self) -> Images:
        """The images that the zoo's networks were trained and tested on.

        Raises:
            ValueError: it was imported, or its networks see no images.
        """
        return load_images_of(self.recipe)

    @cached_property
    def _fingerprints(self) -> list[str]:
        codes, first = np.unique(self._shelf.codes[self._rows], return_index=True)
        return [self._shelf.fingerprints[code] for code in codes[np.argsort(first)]]


class Graphs(Sequence[ParameterGraph]):
    """Networks of a zoo's rows, each read when asked for."""

    def __init__(self, shelf: Shelf, rows: np.ndarray) -> None:
        self._shelf = shelf
        self._rows = rows

    @property
    def zoo(self) -> Zoo:
        """These networks with their properties and modules."""
        return Zoo(self._shelf, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ParameterGraph: ...

    @overload
    def __getitem__(self, index: slice) -> Graphs: ...

    def __getitem__(self, index: int | slice) -> ParameterGraph | Graphs:
        if isinstance(index, slice):
            return Graphs(self._shelf, self._rows[index])
        return self._shelf.graph(int(self._rows[index]))
