"""A finished zoo, read from its folder: properties, splits, architectures, weights.

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

from ..architecture import Architecture
from ..graph import ParameterGraph
from . import layout
from .config import ZooConfig
from .images import Images, load_images
from .networks import NetworkConfig, build_network

if TYPE_CHECKING:
    import pandas as pd


class Group(NamedTuple):
    """The rows of one architecture."""

    architecture: Architecture
    rows: Tensor  # int64 [M], positions in the zoo's properties
    theta: Tensor  # [M, P]


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
        """Open a finished zoo.

        Raises:
            ValueError: no zoo there, an unfinished one, one of another version,
                or one with missing or damaged files.
        """
        shelf = Shelf(Path(path).expanduser())
        return cls(shelf, np.arange(len(shelf.properties)))

    @property
    def path(self) -> Path:
        """The folder of the zoo."""
        return self._shelf.path

    @cached_property
    def config(self) -> ZooConfig:
        """The config that the zoo was created from."""
        return ZooConfig.from_mapping(self._shelf.header["config"])

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
            f"Zoo({str(self.path)!r}, {len(self)} checkpoints of "
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
        """The rows by architecture, each group's theta read at once."""
        codes = self._shelf.codes[self._rows]
        for name in self._fingerprints:
            rows = np.flatnonzero(codes == self._shelf.fingerprints.index(name))
            theta = self._shelf.theta(name, self._shelf.places[self._rows[rows]])
            yield Group(self._shelf.architecture(name), torch.from_numpy(rows), theta)

    def network(self, row: int) -> nn.Module:
        """The module of a row's design, in evaluation mode, with values yet to be loaded."""
        config = NetworkConfig.from_columns(self.properties.iloc[row].to_dict())
        header = self._shelf.header
        channels, height, width = header["input_shape"]
        module = build_network(config, (channels, height, width), header["num_classes"])
        return module.eval()

    def images(self) -> Images:
        """The images that the zoo's networks were trained and tested on."""
        config = self.config
        return load_images(
            config.images, train_limit=config.train_limit, test_limit=config.test_limit
        )

    @cached_property
    def _fingerprints(self) -> list[str]:
        codes, first = np.unique(self._shelf.codes[self._rows], return_index=True)
        return [self._shelf.fingerprints[code] for code in codes[np.argsort(first)]]


class Graphs(Sequence[ParameterGraph]):
    """Networks of a zoo's rows, each read when asked for."""

    def __init__(self, shelf: Shelf, rows: np.ndarray) -> None:
        self._shelf = shelf
        self._rows = rows

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


class Shelf:
    """The files of one zoo and what has been read of them."""

    def __init__(self, path: Path) -> None:
        import pandas as pd

        self.path = path
        self.header = layout.read_header(path)
        if not self.header["finished"]:
            raise ValueError(
                f"{path}: this zoo is unfinished. Repeat the `graphrep zoo` command or the "
                f"create_zoo call that began it (config '{self.header['config']['name']}'): it "
                "resumes where it stopped"
            )
        if missing := [name for name in self.header["sha256"] if not (path / name).exists()]:
            raise ValueError(
                f"{path}: {len(missing)} files of this zoo are missing, among them {missing[0]}. "
                "Was it copied in part? Copy it again, or create it anew from its config"
            )
        try:
            properties = pd.read_parquet(path / layout.PROPERTIES_FILE)
            splits = pd.read_parquet(path / layout.SPLITS_FILE)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: its tables cannot be read: {error}") from error
        if len(properties) != self.header["num_checkpoints"]:
            raise ValueError(
                f"{path / layout.PROPERTIES_FILE}: has {len(properties)} rows, but "
                f"{layout.HEADER_FILE} says {self.header['num_checkpoints']}"
            )
        split = properties["model"].map(splits.set_index("model")["split"])
        properties.insert(3, "split", split)
        self.properties = properties
        self.codes, names = pd.factorize(properties["architecture"])  # architecture of each row
        self.fingerprints = list(names)
        # place of each row among those of its architecture
        self.places = properties.groupby(self.codes).cumcount().to_numpy()
        self._architectures: dict[str, Architecture] = {}
        self._shards: dict[tuple[str, int], dict[str, Tensor]] = {}

    def architecture(self, fingerprint: str) -> Architecture:
        """The architecture of this fingerprint, parsed once."""
        if fingerprint not in self._architectures:
            text = (self.path / layout.architecture_file(fingerprint)).read_text()
            self._architectures[fingerprint] = Architecture.from_json(text)
        return self._architectures[fingerprint]

    def graph(self, row: int) -> ParameterGraph:
        """The network of one row of the whole zoo."""
        fingerprint = self.fingerprints[self.codes[row]]
        number, place = divmod(int(self.places[row]), layout.SHARD_ROWS)
        shard = self._shard(fingerprint, number)
        return ParameterGraph(
            architecture=self.architecture(fingerprint),
            theta=shard["theta"][place].clone(),
            buffers={
                name.removeprefix("buffer."): rows[place].clone()
                for name, rows in shard.items()
                if name != "theta"
            },
        )

    def theta(self, fingerprint: str, places: np.ndarray) -> Tensor:
        """Values [M, P] at these places among an architecture's rows."""
        wanted = torch.from_numpy(places)
        numbers = wanted // layout.SHARD_ROWS
        parts = [self._shard(fingerprint, int(n))["theta"] for n in numbers.unique()]
        theta = parts[0].new_empty(len(places), parts[0].shape[1])
        for number, part in zip(numbers.unique().tolist(), parts, strict=True):
            here = numbers == number
            theta[here] = part[wanted[here] % layout.SHARD_ROWS]
        return theta

    def _shard(self, fingerprint: str, number: int) -> dict[str, Tensor]:
        """The tensors of one shard, mapped into memory."""
        from safetensors import SafetensorError, safe_open

        if (fingerprint, number) not in self._shards:
            file = self.path / layout.shard_file(fingerprint, number)
            try:
                with safe_open(file, "pt") as opened:
                    shard = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{file}: cannot be read: {error}. Is it cut short?") from error
            num_rows = int((self.codes == self.fingerprints.index(fingerprint)).sum())
            expected = (
                min(layout.SHARD_ROWS, num_rows - number * layout.SHARD_ROWS),
                self.architecture(fingerprint).num_parameters,
            )
            found = tuple(shard["theta"].shape) if "theta" in shard else None
            if found != expected:
                raise ValueError(
                    f"{file}: 'theta' has shape {found}, but the properties and architecture "
                    f"{fingerprint} need {expected}. Does this file belong to another zoo?"
                )
            self._shards[fingerprint, number] = shard
        return self._shards[fingerprint, number]
