"""From staged models to the files of a zoo.

Can be repeated after a crash at any point: nothing that the header names is
changed before the header is replaced, and the staged batches go last. The same
models give the same bytes, however often the writing was interrupted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...files import sha256
from . import layout
from .folder import Folder
from .shards import add_weights
from .staging import Batch, is_missing, is_number, staged_batches, staged_models

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("model", "name", "architecture", "epoch", "content_hash", "design")  # of the columns


def consolidate(folder: Folder, *, finished: bool) -> None:
    """Take all staged models, which must follow on those in the header, into the zoo.

    Args:
        finished: What the header will say: whether all models that were wanted are there.

    Raises:
        ValueError: a staged file is damaged, or models of a recipe are missing between the
            staged ones.
    """
    header = layout.read_header(folder)
    _remove_orphans(folder, header)
    batches = staged_batches(folder, header["num_models"])
    if header["recipe"] is not None:
        _check_sequence(folder, header["num_models"], batches)
    models = staged_models(batches, header)
    replaced: list[str] = []
    if models:
        designs = _number_designs(header, models)
        replaced = add_weights(folder, header, batches)
        _add_splits(folder, header, models)
        header["num_checkpoints"] = _add_properties(folder, header, models, designs)
        header["num_models"] += len(models)
    header["finished"] = finished
    folder.tidy()
    header["sha256"] = _hashes(folder, header)
    layout.write_header(folder, header)
    for file in replaced:
        folder.remove(file)
    remove_staged(folder)


def remove_staged(folder: Folder) -> None:
    """Delete the staged batches of a zoo that has taken them, and what workers shared."""
    for batch in staged_batches(folder, 0):
        folder.remove(batch.file)
    folder.remove(layout.SHARED_IMAGES)
    folder.remove(layout.MEMBERS)


def draw_splits(header: dict[str, Any], there: list[str], num: int) -> list[str]:
    """The splits of so many new models, drawn from the header's seed and fractions.

    Args:
        there: The splits of the models before; with the new ones, the fractions hold.

    Raises:
        ValueError: too few models to leave any for training.
    """
    total = len(there) + num
    sizes = {}
    for name, fraction in header["fractions"].items():
        wanted = max(1, round(fraction * total)) if fraction > 0 and total >= 3 else 0
        sizes[name] = max(0, wanted - there.count(name))
    if num and not there and sum(sizes.values()) >= num:
        raise ValueError(f"{num} models are too few for {sizes}: none would be left for training")
    order = list(range(num))
    again = f" from {len(there)}" if there else ""  # models that were added later
    random.Random(f"graphrep zoo {header['seed']} splits{again}").shuffle(order)
    split = ["train"] * num
    start = 0
    for name in ("validation", "test"):
        for place in order[start : start + sizes[name]]:
            split[place] = name
        start += sizes[name]
    return split


def write_splits(folder: Folder, split: list[str]) -> None:
    """Write the split of each model, by number."""
    import pandas as pd

    table = pd.DataFrame({"model": range(len(split)), "split": split})
    folder.write(layout.SPLITS_FILE, lambda file: table.to_parquet(file, index=False))


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
        ours = {"model": model["index"], "name": model["name"]}
        ours |= {"architecture": model["architecture"], "design": design}
        for row in model["rows"]:
            for name, value in {**model["properties"], **row, **ours}.items():
                put(name, value)
            num_rows += 1
    for column in columns.values():
        column.extend([None] * (num_rows - len(column)))
    return pd.DataFrame({name: _one_kind(column) for name, column in columns.items()})


def _one_kind(values: list[Any]) -> list[Any]:
    """Numbers, booleans or text: Parquet takes no mixture.

    Whole numbers beside missing ones become floats; those that floats would round, text.
    """
    there = [v for v in values if not is_missing(v)]
    if all(isinstance(v, bool) for v in there):
        return values
    if all(is_number(v) for v in there):
        floats = len(there) < len(values) or any(isinstance(v, float) for v in there)
        if not floats or all(isinstance(v, float) or abs(v) <= 2**53 for v in there):
            return values
    return [None if is_missing(v) else str(v) for v in values]


def _check_sequence(folder: Folder, committed: int, batches: list[Batch]) -> None:
    expected = committed
    for batch in batches:
        if batch.start != expected:
            raise ValueError(
                f"{folder}/{batch.file}: begins with model {batch.start}, but {expected} is next. "
                f"Delete this file and repeat the command that wrote it: it is made again"
            )
        expected += batch.num


def _remove_orphans(folder: Folder, header: dict[str, Any]) -> None:
    """Delete shards that the header does not name: what a killed writer left."""
    named = set(zoo_files(folder, header))
    for name in folder.names(layout.WEIGHTS):
        if f"{layout.WEIGHTS}/{name}" not in named:
            folder.remove(f"{layout.WEIGHTS}/{name}")


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

    if header["recipe"] is not None:  # fixed when the creation began
        return
    there: list[str] = []
    if header["num_models"]:
        table = pd.read_parquet(folder.local(layout.SPLITS_FILE))
        there = table["split"].iloc[: header["num_models"]].tolist()
    drawn = iter(draw_splits(header, there, sum(m["split"] is None for m in models)))
    write_splits(folder, [*there, *(model["split"] or next(drawn) for model in models)])


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


def zoo_files(folder: Folder, header: dict[str, Any]) -> Iterator[str]:
    """All files of a zoo but its header, as the header has it."""
    for file in (layout.SPLITS_FILE, layout.PROPERTIES_FILE):
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
