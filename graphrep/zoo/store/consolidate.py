"""From staged models to the files of a zoo.

Can be repeated after a crash at any point: nothing that the header names is
changed before the header is replaced, and the staged batches go last. The same
models give the same bytes, however often the writing was interrupted.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...architecture import Architecture
from ...files import sha256
from . import layout
from .folder import Folder
from .staging import Batch, is_missing, is_number, staged_batches

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("model", "name", "architecture", "epoch", "content_hash", "design")  # of the columns


def consolidate(folder: Folder, *, finished: bool) -> None:
    """Take all staged models, which must follow on those in the header, into the zoo.

    Args:
        finished: What the header will say: whether all models that were wanted are there.

    Raises:
        ValueError: a staged file is damaged, or models are missing between the staged ones.
    """
    header = layout.read_header(folder)
    batches = staged_batches(folder, header["num_models"])
    _check_sequence(folder, header["num_models"], batches)
    models = [model for batch in batches for model in batch.models]
    replaced: list[str] = []
    if models:
        designs = _number_designs(header, models)
        replaced = _add_weights(folder, header, batches)
        _add_splits(folder, header, models)
        header["num_checkpoints"] = _add_properties(folder, header, models, designs)
        header["num_models"] += len(models)
    header["finished"] = finished
    folder.tidy()
    header["sha256"] = _hashes(folder, header)
    layout.write_header(folder, header)
    for file in replaced:
        folder.remove(file)
    folder.remove(layout.MEMBERS)


def write_splits(folder: Folder, header: dict[str, Any], num_models: int) -> None:
    """Fix the split of all models of a zoo to be created, once: a file that is there stays.

    Raises:
        ValueError: too few models to leave any for training.
    """
    if not folder.exists(layout.SPLITS_FILE):
        _write_splits(folder, [], draw_splits(header, range(num_models)))


def draw_splits(header: dict[str, Any], models: range) -> list[str]:
    """The split of each of these models, drawn from the header's seed and fractions."""
    num = len(models)
    sizes = {
        name: max(1, round(fraction * num)) if fraction > 0 and num >= 3 else 0
        for name, fraction in header["fractions"].items()
    }
    if num and sum(sizes.values()) >= num:
        raise ValueError(f"{num} models are too few for {sizes}: none would be left for training")
    order = list(range(num))
    again = f" from {models.start}" if models.start else ""  # models that were added later
    random.Random(f"graphrep zoo {header['seed']} splits{again}").shuffle(order)
    split = ["train"] * num
    start = 0
    for name in ("validation", "test"):
        for place in order[start : start + sizes[name]]:
            split[place] = name
        start += sizes[name]
    return split


def properties_table(models: list[dict[str, Any]], designs: list[int]) -> pd.DataFrame:
    """A row a checkpoint of these staged models; mixed columns become text."""
    import pandas as pd

    columns: dict[str, list[Any]] = {}
    num_rows = 0

    def put(name: str, value: Any) -> None:
        column = columns.setdefault(name, [])
        column.extend([None] * (num_rows - len(column)))
        column.append(value)

    for name in FIRST:
        columns[name] = []
    for model, design in zip(models, designs, strict=True):
        about = {**model["properties"], "model": model["index"], "name": model["name"]}
        about |= {"architecture": model["architecture"], "design": design}
        for row in model["rows"]:
            for name, value in {**row, **about}.items():
                put(name, value)
            num_rows += 1
    for column in columns.values():
        column.extend([None] * (num_rows - len(column)))
    return pd.DataFrame({name: _one_kind(column) for name, column in columns.items()})


def _one_kind(values: list[Any]) -> list[Any]:
    """Numbers, booleans or text: Parquet takes no mixture."""
    there = [v for v in values if not is_missing(v)]
    if all(is_number(v) for v in there) or all(isinstance(v, bool) for v in there):
        whole = all(isinstance(v, int) for v in there)
        if whole and any(abs(v) >= 2**63 for v in there):
            return [v if v is None else float(v) for v in values]
        return values
    return [None if is_missing(v) else str(v) for v in values]


def _check_sequence(folder: Folder, committed: int, batches: list[Batch]) -> None:
    expected = committed
    for batch in batches:
        if batch.start != expected:
            raise ValueError(
                f"{folder}/{batch.file}: begins with model {batch.start}, but {expected} is next. "
                "Was a file deleted from members/? Repeat the command that wrote them"
            )
        expected += batch.num


def _number_designs(header: dict[str, Any], models: list[dict[str, Any]]) -> list[int]:
    """Place of each model's design in the header, which takes the new ones; -1 for none."""
    known = {json.dumps(d, sort_keys=True): i for i, d in enumerate(header["designs"])}
    numbers = []
    for model in models:
        text = json.dumps(model["design"], sort_keys=True)
        if model["design"] is not None and text not in known:
            known[text] = len(header["designs"])
            header["designs"].append(model["design"])
        numbers.append(known.get(text, -1))
    return numbers


def _add_splits(folder: Folder, header: dict[str, Any], models: list[dict[str, Any]]) -> None:
    """Splits of the new models: those of their source, else drawn; older rows stay."""
    import pandas as pd

    start, end = header["num_models"], header["num_models"] + len(models)
    there: list[str] = []
    if folder.exists(layout.SPLITS_FILE):
        there = list(pd.read_parquet(folder.local(layout.SPLITS_FILE))["split"])
        if len(there) >= end and header["recipe"]:  # fixed when the creation began
            return
    drawn = iter(draw_splits(header, range(start, start + sum(m["split"] is None for m in models))))
    new = [model["split"] or next(drawn) for model in models]
    _write_splits(folder, there[:start], new)


def _write_splits(folder: Folder, there: list[str], new: list[str]) -> None:
    import pandas as pd

    split = [*there, *new]
    table = pd.DataFrame({"model": range(len(split)), "split": split})
    folder.write(layout.SPLITS_FILE, lambda file: table.to_parquet(file, index=False))


def _add_properties(
    folder: Folder, header: dict[str, Any], models: list[dict[str, Any]], designs: list[int]
) -> int:
    """Add the new models' rows to the table; how many it has then."""
    import pandas as pd

    table = properties_table(models, designs)
    if header["num_checkpoints"]:
        older = pd.read_parquet(folder.local(layout.PROPERTIES_FILE))
        older = older.iloc[: header["num_checkpoints"]]
        parts = [older.dropna(axis=1, how="all"), table.dropna(axis=1, how="all")]
        order = list(dict.fromkeys([*older.columns, *table.columns]))
        table = pd.concat(parts, ignore_index=True).reindex(columns=order)
        for name in table.columns:
            if table[name].dtype.kind == "O":
                table[name] = _one_kind(table[name].tolist())
    folder.write(layout.PROPERTIES_FILE, lambda file: table.to_parquet(file, index=False))
    return len(table)


def _add_weights(folder: Folder, header: dict[str, Any], batches: list[Batch]) -> list[str]:
    """Write the shards of all architectures; the files that the new ones replace."""
    sources: dict[str, list[str]] = defaultdict(list)
    for batch in batches:
        for fingerprint in dict.fromkeys(model["architecture"] for model in batch.models):
            sources[fingerprint].append(batch.file)
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
        writer = _ShardWriter(folder, fingerprint, header)
        if old := writer.reopen(entry["shards"]):
            replaced.append(old)
        for file in files:
            writer.add(read_tensors(folder, file, f"{fingerprint}/"))
        writer.flush(everything=True)
        entry["shards"] += writer.written
    return replaced


@dataclass
class _Loss:
    """What storing in float16 costs: over all values of a zoo."""

    largest_error: float = 0.0
    largest_relative_error: float = 0.0  # of values above float16's smallest normal number
    shards_kept_in_float32: int = 0  # a value beyond float16's range


class _ShardWriter:
    """Fills one architecture's shards, in order, a full one at a time."""

    def __init__(self, folder: Folder, fingerprint: str, header: dict[str, Any]) -> None:
        self.folder, self.fingerprint, self.header = folder, fingerprint, header
        self.pending: dict[str, list[Tensor]] = defaultdict(list)
        self.num_pending, self.number, self.rows = 0, 0, 1
        self.written: list[list[int]] = []

    def reopen(self, shards: list[list[int]]) -> str | None:
        """Go on where the shards end; a last one that is not full is taken up again."""
        if not shards:
            return None
        self.number = shards[-1][0] + 1
        file = layout.shard_file(self.fingerprint, shards[-1][0])
        last = read_tensors(self.folder, file, "")
        if len(last["theta"]) >= layout.rows_per_shard(_row_bytes(last)):
            return None
        self.add(last)
        shards.pop()
        return file

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Rows of all tensors; full shards are written at once."""
        for name, rows in tensors.items():
            self.pending[name].append(rows)
        self.num_pending += len(tensors["theta"])
        self.rows = layout.rows_per_shard(_row_bytes(tensors))
        self.flush(everything=False)

    def flush(self, *, everything: bool) -> None:
        """Write what fills shards, or all there is."""
        while self.num_pending >= self.rows or (everything and self.num_pending):
            num = min(self.rows, self.num_pending)
            stacked = {name: torch.cat(parts) for name, parts in self.pending.items()}
            self._write({name: rows[:num].contiguous() for name, rows in stacked.items()})
            for name, rows in stacked.items():
                self.pending[name] = [rows[num:]] if num < self.num_pending else []
            self.written.append([self.number, num])
            self.num_pending, self.number = self.num_pending - num, self.number + 1

    def _write(self, shard: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        if self.header["dtype"] == "float16":
            loss = _Loss(**self.header["storage_loss"])
            shard["theta"] = _halved(shard["theta"], loss)
            self.header["storage_loss"] = vars(loss)
        file = layout.shard_file(self.fingerprint, self.number)
        self.folder.write(file, lambda unfinished: save_file(shard, unfinished))


def _halved(theta: Tensor, loss: _Loss) -> Tensor:
    """theta in float16 where that holds its values, with the loss counted."""
    half = theta.to(torch.float16)
    if bool((half.isinf() & theta.isfinite()).any()):
        loss.shards_kept_in_float32 += 1
        return theta
    finite = theta.isfinite()
    error = (half.double() - theta.double()).abs()[finite]
    size = theta.double().abs()[finite]
    if error.numel():
        loss.largest_error = max(loss.largest_error, float(error.max()))
    normal = size >= torch.finfo(torch.float16).smallest_normal
    if bool(normal.any()):
        relative = float((error[normal] / size[normal]).max())
        loss.largest_relative_error = max(loss.largest_relative_error, relative)
    return half


def _row_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(t[0].numel() * t.element_size() for t in tensors.values() if len(t))


def read_tensors(folder: Folder, file: str, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file whose names begin so, without the beginning."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder.local(file), "pt") as opened:
            names = [n for n in opened.keys() if n.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): opened.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{folder}/{file}: cannot be read: {error}. Is it cut short?") from error


def zoo_files(folder: Folder, header: dict[str, Any]) -> Iterator[str]:
    """All files of a zoo but its header, as the header has it."""
    for file in (layout.SPLITS_FILE, layout.PROPERTIES_FILE, layout.SKIPPED_FILE):
        if folder.exists(file):
            yield file
    for fingerprint, entry in header["architectures"].items():
        yield layout.architecture_file(fingerprint)
        for number, _ in entry["shards"]:
            yield layout.shard_file(fingerprint, number)


def _hashes(folder: Folder, header: dict[str, Any]) -> dict[str, str]:
    """Hashes of all files; those of weights, which never change, are taken from before."""
    before = {k: v for k, v in header["sha256"].items() if k.startswith(layout.WEIGHTS)}
    return {
        name: before.get(name) or sha256(folder.local(name)) for name in zoo_files(folder, header)
    }
