"""What is embedded in parts: the rows of a zoo, or files of any kind.

Each gives any range of its networks as batches of one architecture, whose make-up
depends on the range alone. Knows nothing of parts, files written or clusters.

Letters in shapes: B networks of one architecture, P length of theta.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from .architecture import Architecture
from .embedding_networks import is_streamed
from .graph import ParameterGraph
from .loading import load_graph
from .recognition import MappedNetwork, read_mapped
from .representation import Representation
from .training.answers import know_modules
from .zoo import Zoo

if TYPE_CHECKING:
    import pandas as pd

BATCH_BYTES = 512 * 2**20  # of theta at once; fewer networks where they are large


class Batch(NamedTuple):
    """Networks of one architecture, and which of the inputs they are."""

    rows: list[int]
    architecture: Architecture
    theta: Tensor  # [B, P]


class Large(NamedTuple):
    """A network that is embedded alone and block by block, perhaps from where its files lie."""

    row: int
    network: ParameterGraph | MappedNetwork


class Unread(NamedTuple):
    """An input that could not be read."""

    row: int
    reason: str


class Networks(Protocol):
    """Networks to embed, numbered from 0."""

    num: int

    @property
    def digest(self) -> str:
        """Of all that decides their embeddings and their order."""
        ...

    def batches(
        self, rows: range, batch_size: int, representation: Representation
    ) -> Iterator[Batch | Large | Unread]:
        """These networks, each once, up to `batch_size` at a time; `representation` recognises."""
        ...

    def table(self, rows: Sequence[int]) -> pd.DataFrame:
        """What the networks are, a row each, numbered from 0."""
        ...

    def opener(self) -> Callable[[], Networks]:
        """Opens the same again, in another process or on another machine."""
        ...


def open_networks(
    inputs: Sequence[Path | str], architecture: Architecture | None = None
) -> Networks:
    """One zoo, in a folder or behind an fsspec URL, or files.

    Args:
        inputs: A zoo; or checkpoints, ONNX files and Hugging Face folders, mixed at will.
        architecture: Of the checkpoints; without it, names and shapes are looked up among
            the architectures that a representation knows. A zoo brings its own.

    Raises:
        ValueError: no inputs, a zoo beside others, or one that cannot be opened.
    """
    if not inputs:
        raise ValueError("no inputs: name files or one zoo")
    zoos = [item for item in inputs if _is_zoo(item)]
    if zoos and len(inputs) > 1:
        raise ValueError(f"{zoos[0]}: is a zoo; a zoo is embedded alone, without other inputs")
    if zoos:
        return ZooNetworks(os.fspath(zoos[0]))
    return FileNetworks([str(i) for i in inputs], architecture)


def find_architecture(wanted: str, representation: Representation) -> Architecture:
    """An architecture by its name among those that a representation knows, or from a file.

    Args:
        wanted: A name, a fingerprint, or a JSON file as `graphrep graph --json` writes.

    Raises:
        ValueError: neither, or several of this name.
    """
    if Path(wanted).is_file():
        try:
            return Architecture.from_json(Path(wanted).read_text())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{wanted}: is no architecture: {error}") from error
    known = list(representation.architectures.values())
    fitting = [a for a in known if wanted in (a.name, a.fingerprint)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(f"{a.name} ({a.fingerprint})" for a in fitting or known) or "none"
    what = f"is the name of {len(fitting)}" if fitting else "is neither a file nor one of those"
    raise ValueError(
        f"architecture '{wanted}' {what} that the model knows: {names}. Give a fingerprint, or "
        "a JSON file written by graphrep graph --json"
    )


def _is_zoo(item: Path | str) -> bool:
    return "://" in str(item) or (Path(item).is_dir() and (Path(item) / "zoo.json").is_file())


class ZooNetworks:
    """All checkpoints of a zoo, in the order of its properties."""

    def __init__(self, url: str, digest: str | None = None) -> None:
        self.zoo = Zoo.open(url)
        self.url = url if "://" in url else os.path.abspath(url)
        self.num = len(self.zoo)
        if self.num == 0:
            raise ValueError(f"{url}: has no finished network yet")
        about = self.zoo.properties
        contents = "\n".join(about["content_hash"] + " " + about["architecture"])
        self._digest = hashlib.sha256(contents.encode()).hexdigest()
        if digest not in (None, self._digest):
            raise ValueError(f"{url}: has changed since its embedding began. Begin again")

    @property
    def digest(self) -> str:
        return self._digest

    def batches(
        self, rows: range, batch_size: int, representation: Representation
    ) -> Iterator[Batch]:
        know_modules(representation.model.answers, self.zoo)
        for group in self.zoo.select(slice(rows.start, rows.stop)).groups():
            num = max(1, min(batch_size, BATCH_BYTES // _num_bytes(group.architecture)))
            for start in range(0, len(group.rows), num):
                there = (group.rows[start : start + num] + rows.start).tolist()
                yield Batch(there, group.architecture, group.theta[start : start + num])

    def table(self, rows: Sequence[int]) -> pd.DataFrame:
        return self.zoo.properties.iloc[list(rows)].reset_index(drop=True)

    def opener(self) -> Callable[[], Networks]:
        return partial(ZooNetworks, self.url, self._digest)


class FileNetworks:
    """Files of networks: checkpoints of one architecture, or of those that a representation
    recognises; ONNX files and Hugging Face folders bring theirs along."""

    def __init__(
        self,
        names: Sequence[str],
        architecture: Architecture | None = None,
        folder: str | None = None,
    ) -> None:
        self.names, self.architecture = list(names), architecture
        self.folder = folder or os.getcwd()  # a worker may stand elsewhere
        self.num = len(self.names)

    @property
    def digest(self) -> str:
        known = "" if self.architecture is None else self.architecture.fingerprint
        states = hashlib.sha256(known.encode())
        for name in self.names:
            states.update(f"{name} {_state(self._place(name))}\n".encode())
        return states.hexdigest()

    def batches(
        self, rows: range, batch_size: int, representation: Representation
    ) -> Iterator[Batch | Large | Unread]:
        waiting: dict[str, list[tuple[int, ParameterGraph]]] = {}
        num_bytes = 0
        for row in rows:
            try:
                graph = self._read(self._place(self.names[row]), representation)
            except (ValueError, OSError, RuntimeError) as error:
                yield Unread(row, " ".join(str(error).split()))
                continue
            if isinstance(graph, MappedNetwork) or is_streamed(representation.model, graph):
                yield Large(row, graph)
                continue
            name = graph.architecture.fingerprint
            waiting.setdefault(name, []).append((row, graph))
            num_bytes += _num_bytes(graph.architecture)
            if len(waiting[name]) == batch_size:
                num_bytes -= batch_size * _num_bytes(graph.architecture)
                yield _stacked(waiting.pop(name))
            if num_bytes >= BATCH_BYTES:
                yield from map(_stacked, waiting.values())
                waiting, num_bytes = {}, 0
        yield from map(_stacked, waiting.values())

    def table(self, rows: Sequence[int]) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({"file": [self.names[row] for row in rows]})

    def opener(self) -> Callable[[], Networks]:
        return partial(FileNetworks, self.names, self.architecture, self.folder)

    def _read(self, path: Path, representation: Representation) -> ParameterGraph | MappedNetwork:
        """Raises ValueError, OSError or RuntimeError for what cannot be read or embedded."""
        if representation.model.streams and path.suffix != ".onnx":
            mapped = read_mapped(path, self.architecture)
            if mapped is not None:
                return mapped
        if path.is_dir() or path.suffix == ".onnx":
            graph = load_graph(path).graph
        else:
            graph = representation.read_graph(path, None, self.architecture)
        graph.require_values("encode")
        return graph

    def _place(self, name: str) -> Path:
        return Path(self.folder) / name


def _state(path: Path) -> str:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _stacked(networks: Sequence[tuple[int, ParameterGraph]]) -> Batch:
    theta = torch.stack([graph.theta for _, graph in networks])
    return Batch([row for row, _ in networks], networks[0][1].architecture, theta)


def _num_bytes(architecture: Architecture) -> int:
    return 4 * max(1, architecture.num_parameters)
