"""Weights of staged models to shards: an architecture's rows, in order, in files that fill up.

A file is written once. A last one that is not full is replaced by a longer one
under a new number, so that the header always names what it counts.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor

from ...architecture import Architecture
from . import layout
from .folder import Folder
from .staging import Batch

_OPEN_BATCHES = 16


def add_weights(folder: Folder, header: dict[str, Any], batches: list[Batch]) -> list[str]:
    """Write the shards of all architectures; the files that the new ones replace.

    The header takes the shards and, in float16, what each lost.
    """
    sources: dict[str, list[str]] = defaultdict(list)
    for batch in batches:
        for fingerprint in dict.fromkeys(model["architecture"] for model in batch.models):
            sources[fingerprint].append(batch.file)
    reader = _BatchReader(folder)
    replaced = []
    for fingerprint, files in sources.items():
        architecture = Architecture.from_json(
            folder.local(layout.architecture_file(fingerprint)).read_text()
        )
        entry = header["architectures"].setdefault(
            fingerprint,
            {
                "name": architecture.name,
                "num_parameters": architecture.num_parameters,
                "shards": [],
            },
        )
        names = ["theta", *(f"buffer.{name}" for name in buffer_names(architecture))]
        writer = _ShardWriter(folder, architecture, header)
        if old := writer.reopen(entry["shards"]):
            replaced.append(old)
            header["storage_loss"].pop(old, None)
        for file in files:
            writer.add({name: reader.read(file, f"{fingerprint}/{name}") for name in names})
        writer.flush(everything=True)
        entry["shards"] += writer.written
    return replaced


def buffer_names(architecture: Architecture) -> list[str]:
    """The tensors that are no part of theta."""
    return [t.name for t in architecture.tensors if t.offset is None and t.tied_to is None]


def total_loss(header: dict[str, Any] | Any) -> dict[str, float]:
    """What storing a zoo in float16 cost, over all its values; {} for one in full precision.

    `largest_error` is absolute, `largest_relative_error` that of values above float16's
    smallest normal number (6.1e-5), `num_to_zero` counts values that became zero, and
    `shards_kept` the files that stay in full precision, as a value is beyond float16.
    """
    losses = list(header["storage_loss"].values())
    if not losses:
        return {}
    return {
        "largest_error": max(loss["largest_error"] for loss in losses),
        "largest_relative_error": max(loss["largest_relative_error"] for loss in losses),
        "num_to_zero": sum(loss["num_to_zero"] for loss in losses),
        "shards_kept": sum(loss["kept"] for loss in losses),
    }


def read_tensors(folder: Folder, file: str, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file whose names begin so, without the beginning.

    Raises:
        ValueError: the file is damaged.
    """
    opened = _open(folder, file)
    names = [n for n in opened.keys() if n.startswith(prefix)]  # noqa: SIM118
    return {name.removeprefix(prefix): opened.get_tensor(name) for name in names}


class _BatchReader:
    """Tensors of staged files, the last few of which stay open."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._opened: OrderedDict[str, Any] = OrderedDict()

    def read(self, file: str, name: str) -> Tensor:
        if file not in self._opened:
            self._opened[file] = _open(self._folder, file)
            if len(self._opened) > _OPEN_BATCHES:
                self._opened.popitem(last=False)
        tensor: Tensor = self._opened[file].get_tensor(name)
        return tensor


class _ShardWriter:
    """Fills one architecture's shards, in order, a full one at a time."""

    def __init__(self, folder: Folder, architecture: Architecture, header: dict[str, Any]) -> None:
        self.folder, self.fingerprint, self.header = folder, architecture.fingerprint, header
        specs = {spec.name: spec for spec in architecture.tensors}
        size = architecture.num_parameters * architecture.dtype.itemsize
        size += sum(
            specs[name].numel * specs[name].torch_dtype.itemsize
            for name in buffer_names(architecture)
        )
        self.rows = layout.rows_per_shard(size)
        self.pending: dict[str, list[Tensor]] = defaultdict(list)
        self.num_pending, self.number = 0, 0
        self.written: list[list[int]] = []

    def reopen(self, shards: list[list[int]]) -> str | None:
        """Go on where the shards end; a last one that is not full is taken up again."""
        if not shards:
            return None
        number, num = shards[-1]
        self.number = number + 1
        if num >= self.rows:
            return None
        file = layout.shard_file(self.fingerprint, number)
        self.add(read_tensors(self.folder, file, ""))
        shards.pop()
        return file

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Rows of all tensors; full shards are written at once."""
        for name, rows in tensors.items():
            self.pending[name].append(rows)
        self.num_pending += len(tensors["theta"])
        self.flush(everything=False)

    def flush(self, *, everything: bool) -> None:
        """Write what fills shards, or all there is."""
        if self.num_pending < self.rows and not (everything and self.num_pending):
            return
        stacked = {name: torch.cat(parts) for name, parts in self.pending.items()}
        start = 0
        while self.num_pending - start >= self.rows or (everything and start < self.num_pending):
            end = min(start + self.rows, self.num_pending)
            self._write({name: rows[start:end].contiguous() for name, rows in stacked.items()})
            self.written.append([self.number, end - start])
            self.number, start = self.number + 1, end
        # a copy, so that the rows that were written do not stay in memory
        self.pending = defaultdict(
            list, {name: [rows[start:].clone()] for name, rows in stacked.items()}
        )
        self.num_pending -= start

    def _write(self, shard: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        file = layout.shard_file(self.fingerprint, self.number)
        if self.header["dtype"] == "float16":
            shard["theta"], self.header["storage_loss"][file] = _halved(shard["theta"])
        self.folder.write(file, lambda unfinished: save_file(shard, unfinished))


def _halved(theta: Tensor) -> tuple[Tensor, dict[str, float]]:
    """theta in float16 where that holds its values, and what it lost."""
    half = theta.to(torch.float16)
    loss = {"largest_error": 0.0, "largest_relative_error": 0.0, "num_to_zero": 0, "kept": 0}
    if bool((half.isinf() & theta.isfinite()).any()):
        return theta, {**loss, "kept": 1}
    finite = theta.isfinite()
    size = theta.double().abs()[finite]
    error = (half.double() - theta.double()).abs()[finite]
    normal = size >= torch.finfo(torch.float16).smallest_normal
    if error.numel():
        loss["largest_error"] = float(error.max())
        loss["num_to_zero"] = int(((half == 0) & (theta != 0)).sum())
    if bool(normal.any()):
        loss["largest_relative_error"] = float((error[normal] / size[normal]).max())
    return half, loss


def _open(folder: Folder, file: str) -> Any:
    """A safetensors file, mapped."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(folder.local(file), "pt")
    except SafetensorError as error:
        raise ValueError(f"{folder}/{file}: cannot be read: {error}. Is it cut short?") from error
