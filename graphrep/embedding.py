"""Embeddings of many networks as one table, part by part, here or on a Ray cluster.

A part of some thousand networks is one file that is there or is not, so an
interrupted embedding goes on with the parts that it lacks; weights are read
batch by batch and never stand in memory together. What a part holds depends on
the model and the inputs alone: one torch thread computes it, since several sum in
another order, so a cluster gives the bits that one process gives (on processors
of one kind). More cores are used by more processes: engine ray.

Letters in shapes: B networks of a part, D of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .cluster import WorkersDied, map_on_ray
from .embedding_inputs import Networks, Unread, open_networks
from .files import write_whole
from .progress import Advance, show_progress
from .representation import Representation
from .zoo.classifiers.train import single_thread
from .zoo.recipe import check_choice
from .zoo.store.folder import LocalFolder

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("local", "ray")
MANIFEST = "manifest.json"


def embed_to_parquet(
    model: str,
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    batch_size: int = 128,
    engine: str = "local",
    num_workers: int | None = None,
    part_size: int = 2048,
    progress: bool = True,
) -> pd.DataFrame:
    """Embed checkpoint files or one zoo: a row a network, columns e0, e1, ... behind what it is.

    Interrupt it at will: finished parts are kept in `<output>.parts`, and the same call
    goes on. Files that cannot be read are left out and listed with the reason in
    `<output without its ending>-skipped.csv`, with a warning.

    Args:
        model: A saved `Representation`: a folder, runs:/..., models:/... or a hub's name.
        inputs: Checkpoint files, or one zoo (a folder, or an fsspec URL).
        output: The Parquet file; an earlier one is replaced when all is done.
        batch_size: Networks of one architecture at a time, fewer where they are large.
        engine: "local" for this process, "ray" for a Ray cluster (RAY_ADDRESS, else one that
            is started here), all of whose machines must reach the inputs.
        num_workers: Of Ray: parts at work at once; None for the cluster's CPUs.
        part_size: Networks of a part.

    Returns:
        What was written: a zoo's properties or the column `file`, then the embedding.

    Raises:
        ValueError: no file could be read, the parts that are there belong to another model
            or other inputs, another process embeds into `output`, or a zoo is damaged.
        RuntimeError: workers died again and again with the same part.
    """
    check_choice("engine", engine, ENGINES)
    if engine == "local" and num_workers is not None:
        raise ValueError(f"num_workers={num_workers} counts with engine ray alone")
    if min(batch_size, part_size) < 1:
        raise ValueError(f"batch_size and part_size must be 1 or more: {batch_size}, {part_size}")
    output = Path(output)
    networks = open_networks(inputs)
    representation = Representation.from_pretrained(model)
    manifest = {
        "model": _digest_of(representation),
        "inputs": networks.digest,
        "num_networks": networks.num,
        "batch_size": batch_size,
        "part_size": part_size,
    }
    with _parts_of(output, manifest) as folder:
        parts = [
            range(start, min(start + part_size, networks.num))
            for start in range(0, networks.num, part_size)
        ]
        missing = [part for part in parts if not folder.exists(_file_of(part))]
        embedder = partial(Embedder, representation, networks.opener(), batch_size)
        done = networks.num - sum(map(len, missing))
        with show_progress("embed", networks.num, done, progress) as advance:
            if engine == "local":
                _embed_here(embedder, missing, folder, _counter(advance, done))
            else:
                _embed_on_ray(embedder, missing, folder, _counter(advance, done), num_workers)
        table, skipped = _join(folder, parts, networks)
        listed = _write_out(table, skipped, output)
        shutil.rmtree(folder.path)
    if table.empty:
        raise ValueError(
            f"none of {len(skipped)} inputs could be read (all are in {listed}), for instance: "
            f"{skipped['reason'].iloc[0]}"
        )
    if not skipped.empty:
        message = f"{len(skipped)} of {networks.num} inputs could not be read and are left out"
        warnings.warn(f"{message}: {listed} says why", stacklevel=2)
    return table


@dataclass(frozen=True, eq=False)
class Embedded:
    """A part: float32 [B, D], and why rows of it (by their place in the inputs) are missing."""

    values: np.ndarray
    reasons: dict[int, str]


class Embedder:
    """Embeds parts, in whichever process it stands."""

    def __init__(
        self, representation: Representation, opener: Callable[[], Networks], batch_size: int
    ) -> None:
        self.representation, self.batch_size = representation, batch_size
        self.networks = opener()

    def __call__(self, part: range, count: Callable[[int], None] = lambda num: None) -> Embedded:
        model = self.representation.model
        values = np.full((len(part), model.encoder.embedding_dim), np.nan, np.float32)
        reasons: dict[int, str] = {}
        with torch.no_grad(), single_thread():
            for found in self.networks.batches(part, self.batch_size, self.representation):
                if isinstance(found, Unread):
                    reasons[found.row] = found.reason
                    count(1)
                    continue
                embedding = model.encode(found.theta.float(), found.architecture).model
                values[np.array(found.rows) - part.start] = embedding.float().numpy()
                count(len(found.rows))
        return Embedded(values, reasons)


def _embed_here(
    make_embedder: Callable[[], Embedder],
    parts: Sequence[range],
    folder: LocalFolder,
    count: Callable[[int], None],
) -> None:
    if parts:
        embedder = make_embedder()
        for part in parts:
            _write_part(folder, part, embedder(part, count))


def _embed_on_ray(
    make_embedder: Callable[[], Embedder],
    parts: Sequence[range],
    folder: LocalFolder,
    count: Callable[[int], None],
    num_workers: int | None,
) -> None:
    """Workers hand parts over, this process alone writes: none is lost or written twice."""

    def keep(part: range, found: Embedded) -> None:
        _write_part(folder, part, found)
        count(len(part))

    try:
        map_on_ray(
            make_embedder,
            parts,
            keep,
            num_workers=num_workers,
            describe=lambda part: f"networks {part.start} to {part.stop - 1}",
        )
    except WorkersDied as error:
        raise RuntimeError(f"{error}\n  finished parts are kept; the same call resumes") from error


def _counter(advance: Advance, done: int) -> Callable[[int], None]:
    def count(num: int) -> None:
        nonlocal done
        done += num
        advance(done)

    return count


def _digest_of(representation: Representation) -> str:
    """Over all that decides embeddings: settings, weights, the architectures that it knows."""
    model = representation.model
    settings = json.dumps(asdict(model.config), sort_keys=True, default=str)
    found = hashlib.sha256(f"{settings} {sorted(representation.architectures)}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@contextmanager
def _parts_of(output: Path, manifest: dict[str, Any]) -> Iterator[LocalFolder]:
    """The folder of an output's parts, held by this process alone, begun or found again.

    Raises:
        ValueError: another process holds it, or its parts are of something else.
    """
    folder = LocalFolder(output.with_name(f"{output.name}.parts"))
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.exclusive())
        except ValueError as error:
            raise ValueError(f"{output}: another process embeds into it") from error
        if folder.exists(MANIFEST):
            there = json.loads(folder.local(MANIFEST).read_text())
            if different := [key for key in manifest if there.get(key) != manifest[key]]:
                lines = [f"  {k}: {there.get(k)} there, {manifest[k]} now" for k in different]
                raise ValueError(
                    f"{folder}: holds parts of another embedding:\n"
                    + "\n".join(lines)
                    + "\nDelete the folder to begin anew, or name another output"
                )
        elif others := folder.names():
            raise ValueError(f"{folder}: holds no parts of an embedding, but {others[0]}")
        folder.write(MANIFEST, lambda file: file.write_text(json.dumps(manifest, indent=1)))
        folder.tidy()
        yield folder


def _file_of(part: range) -> str:
    return f"{part.start:09d}-{len(part)}.parquet"


def _write_part(folder: LocalFolder, part: range, found: Embedded) -> None:
    """`row` in the inputs, `reason` where it could not be read, and the embedding."""
    import pandas as pd

    table = pd.DataFrame(found.values, columns=[f"e{i}" for i in range(found.values.shape[1])])
    table.insert(0, "row", list(part))
    table.insert(1, "reason", pd.Series([found.reasons.get(row) for row in part], dtype="str"))
    folder.write(_file_of(part), lambda file: table.to_parquet(file, index=False))


def _join(
    folder: LocalFolder, parts: Sequence[range], networks: Networks
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All parts together: what was embedded, and what could not be read."""
    import pandas as pd

    rows = pd.concat([_read_part(folder, part) for part in parts], ignore_index=True)
    unread, there = rows[rows["reason"].notna()], rows[rows["reason"].isna()]
    skipped = networks.table(unread["row"].tolist())
    skipped["reason"] = unread["reason"].to_numpy()
    embedding = there.drop(columns=["row", "reason"]).reset_index(drop=True)
    return pd.concat([networks.table(there["row"].tolist()), embedding], axis=1), skipped


def _write_out(table: pd.DataFrame, skipped: pd.DataFrame, output: Path) -> Path:
    """The output and the list of what is missing in it, whose path is given."""
    listed = output.with_name(f"{output.stem}-skipped.csv")
    if skipped.empty:
        listed.unlink(missing_ok=True)
    else:
        write_whole(listed, partial(skipped.to_csv, index=False))
    if not table.empty:
        write_whole(output, table.to_parquet)
    return listed


def _read_part(folder: LocalFolder, part: range) -> pd.DataFrame:
    import pandas as pd

    try:
        found = pd.read_parquet(folder.local(_file_of(part)))
        whole = found["row"].tolist() == list(part)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}/{_file_of(part)}: damaged ({error}). Delete it and repeat the command"
        ) from error
    assert whole, f"{folder}/{_file_of(part)} was written with other rows"
    return found
