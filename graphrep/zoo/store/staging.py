"""Finished models on their way into a zoo: each batch is one file that is there or is not.

A batch is a safetensors file in `members/` whose metadata tell all about its
models; its name holds the first index and how many there are. Any process may
write one, of a zoo that is being created also without holding the folder: the
same index always gives the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..record import Record
from . import layout
from .folder import Folder


@dataclass(frozen=True)
class Batch:
    """A staged file: the models `start` to `start + num - 1`."""

    folder: Folder
    file: str
    start: int
    num: int

    @property
    def indices(self) -> range:
        return range(self.start, self.start + self.num)

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """Of each model: index, name, architecture, design, split, properties, rows.

        Raises:
            ValueError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.folder.local(self.file), "pt") as opened:
                metadata = opened.metadata()
                if text_digest(metadata["models"]) != metadata["digest"]:
                    raise KeyError("what it says of its models has changed")
                return json.loads(metadata["models"])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{self.folder}/{self.file}: damaged ({error}). Delete it: its models are made "
                "or imported again by the command that wrote it"
            ) from error


def write_batch(folder: Folder, start: int, records: Sequence[Record], dtype: str) -> None:
    """Stage records as the models from `start` on.

    Args:
        dtype: In which the zoo will keep the weights; they are staged as they came.
    """
    from safetensors.torch import save_file

    tensors: dict[str, list[Tensor]] = defaultdict(list)
    models = []
    for index, record in enumerate(records, start):
        fingerprint = record.architecture.fingerprint
        _write_architecture(folder, record)
        tensors[f"{fingerprint}/theta"].append(record.theta)
        for name, rows in record.buffers.items():
            tensors[f"{fingerprint}/buffer.{name}"].append(rows)
        hashes = content_hashes(record.theta, record.buffers, dtype)
        models.append(
            {
                "index": index,
                "name": writable(record.name),
                "architecture": fingerprint,
                "design": record.design,
                "split": record.split,
                "properties": _plain(record.properties),
                "rows": [
                    {**_plain(row), "content_hash": digest}
                    for row, digest in zip(record.rows, hashes, strict=True)
                ],
            }
        )
    stacked = {name: torch.cat(parts).contiguous() for name, parts in tensors.items()}
    text = json.dumps(models)
    metadata = {"models": text, "digest": text_digest(text)}
    file = f"{layout.MEMBERS}/{start:08d}-{len(records)}.safetensors"
    folder.write(file, lambda unfinished: save_file(stacked, unfinished, metadata))


def staged_batches(folder: Folder, committed: int) -> list[Batch]:
    """What is staged beyond the models that the header counts, by first index."""
    batches = []
    for name in folder.names(layout.MEMBERS):
        start, _, num = name.removesuffix(".safetensors").partition("-")
        if name.endswith(".safetensors") and start.isdigit() and num.isdigit():
            batch = Batch(folder, f"{layout.MEMBERS}/{name}", int(start), int(num))
            if batch.start >= committed:
                batches.append(batch)
    return sorted(batches, key=lambda batch: batch.start)


def staged_models(batches: Sequence[Batch], header: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All models of batches, in order, with their numbers in the zoo.

    Those of a recipe have the numbers under which they were made; others follow on one
    another, whatever was deleted between them.
    """
    models = [model for batch in batches for model in batch.models]
    if header["recipe"] is not None:
        return models
    first: int = header["num_models"]
    return [{**model, "index": number} for number, model in enumerate(models, first)]


def content_hashes(theta: Tensor, buffers: dict[str, Tensor] | Any, dtype: str) -> list[str]:
    """16 hex digits a checkpoint, over theta as it is stored, then the buffers by name.

    Equal hashes tell copies of one network; `verify` finds flipped bits by them.
    """
    stored = theta.to(torch.float16) if dtype == "float16" else theta
    columns = [stored, *(buffers[name] for name in sorted(buffers))]
    rows = [_bytes_of(column) for column in columns]
    return [
        hashlib.sha256(b"".join(row[i] for row in rows)).hexdigest()[:16] for i in range(len(theta))
    ]


def _bytes_of(rows: Tensor) -> list[bytes]:
    flat = rows.detach().contiguous().reshape(len(rows), -1)
    if flat.numel() == 0:
        return [b""] * len(rows)
    return [row.tobytes() for row in flat.view(torch.uint8).numpy()]


def _write_architecture(folder: Folder, record: Record) -> None:
    file = layout.architecture_file(record.architecture.fingerprint)
    if not folder.exists(file):
        text = record.architecture.to_json() + "\n"
        folder.write(file, lambda unfinished: unfinished.write_text(text))


def _plain(row: Any) -> dict[str, Any]:
    """Values as JSON and tables have them; numpy's scalars become Python's."""
    found = {}
    for name, value in row.items():
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = str(value)  # a number that no column holds
        elif not isinstance(value, int | float | bool | None):
            value = writable(str(value))
        found[writable(str(name))] = value
    return found


def writable(text: str) -> str:
    """Text without what UTF-8 cannot hold, such as odd bytes of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_digest(text: str) -> str:
    """16 hex digits over a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_number(value: Any) -> bool:
    """A number that tables may keep as one; NaN is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
