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
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .cluster import WorkersDied, map_on_ray
from .embedding_inputs import Large, Networks, Unread, find_architecture, open_networks
from .embedding_networks import embed_networks
from .embedding_parts import Embedded, has_part, hold_parts, join, write_out, write_part
from .embedding_table import MODEL_KEY
from .progress import Advance, show_progress
from .representation import Representation
from .zoo.classifiers.train import single_thread
from .zoo.recipe import check_choice
from .zoo.store.folder import LocalFolder

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("local", "ray")


def embed_to_parquet(
    model: str | Representation,
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    architecture: str | None = None,
    batch_size: int = 128,
    engine: str = "local",
    num_workers: int | None = None,
    part_size: int = 2048,
    progress: bool = True,
) -> pd.DataFrame:
    """Embed files or one zoo: a row a network, columns e0, e1, ... behind what it is.

    Interrupt it at will: finished parts are kept in `<output>.parts`, and the same call
    goes on. Files that cannot be read are left out and listed with the reason in
    `<output without its ending>-skipped.csv`, with a warning.

    Args:
        model: A `Representation`, or where one is saved: a folder, runs:/..., models:/... or
            a hub's name.
        inputs: Checkpoints, ONNX files and Hugging Face folders; or one zoo (a folder, or an
            fsspec URL).
        output: The Parquet file; an earlier one is replaced when all is done.
        architecture: Of the checkpoints: the name or fingerprint of one that the model knows,
            or a JSON file. Without it, names and shapes decide.
        batch_size: Networks of one architecture at a time, fewer where they are large.
        engine: "local" for this process, "ray" for a Ray cluster (RAY_ADDRESS, else one that
            is started here), all of whose machines must reach the inputs.
        num_workers: Of Ray: parts at work at once; None for the cluster's CPUs.
        part_size: Networks of a part.

    Returns:
        What was written: a zoo's properties or the column `file`, then the embedding. Its
        attributes say which model it is of.

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
    representation, networks = _open(model, inputs, architecture)
    digest = _digest_of(representation)
    manifest = {
        "model": digest,
        "inputs": networks.digest,
        "num_networks": networks.num,
        "batch_size": batch_size,
        "part_size": part_size,
    }
    with hold_parts(output, manifest) as folder:
        parts = [
            range(start, min(start + part_size, networks.num))
            for start in range(0, networks.num, part_size)
        ]
        missing = [part for part in parts if not has_part(folder, part)]
        embedder = partial(Embedder, representation, networks.opener(), batch_size)
        done = networks.num - sum(map(len, missing))
        with show_progress("embed", networks.num, done, progress) as advance:
            if engine == "local":
                _embed_here(embedder, missing, folder, _counter(advance, done))
            else:
                _embed_on_ray(embedder, missing, folder, _counter(advance, done), num_workers)
        table, skipped = join(folder, parts, networks)
        table.attrs[MODEL_KEY] = digest
        listed = write_out(table, skipped, output)
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


def embed_table(
    model: str | Representation,
    inputs: Sequence[Path | str],
    *,
    architecture: str | None = None,
    batch_size: int = 128,
) -> pd.DataFrame:
    """A few networks as the table that `embed_to_parquet` gives, with nothing written.

    Raises:
        ValueError: one of them cannot be read, or a zoo is damaged.
    """
    import pandas as pd

    representation, networks = _open(model, inputs, architecture)
    every = range(networks.num)
    found = Embedder(representation, networks.opener(), batch_size)(every)
    if found.reasons:
        raise ValueError(found.reasons[min(found.reasons)])
    values = pd.DataFrame(found.values, columns=found.columns)
    table = pd.concat([networks.table(every), values], axis=1)
    table.attrs[MODEL_KEY] = _digest_of(representation)
    return table


def _open(
    model: str | Representation, inputs: Sequence[Path | str], architecture: str | None
) -> tuple[Representation, Networks]:
    """The model and what it shall embed; what is wrong with inputs is found without a model."""
    networks = None if architecture else open_networks(inputs)
    if not isinstance(model, Representation):
        model = Representation.from_pretrained(model)
    if networks is None:
        assert architecture is not None
        networks = open_networks(inputs, find_architecture(architecture, model))
    return model, networks


class Embedder:
    """Embeds parts, in whichever process it stands."""

    def __init__(
        self, representation: Representation, opener: Callable[[], Networks], batch_size: int
    ) -> None:
        self.representation, self.batch_size = representation, batch_size
        self.networks = opener()

    def __call__(self, part: range, count: Callable[[int], None] = lambda num: None) -> Embedded:
        embedding_dim = self.representation.model.embedding_dim
        values = np.full((len(part), embedding_dim), np.nan, np.float32)
        reasons: dict[int, str] = {}
        with single_thread():
            for found in self.networks.batches(part, self.batch_size, self.representation):
                if isinstance(found, Unread):
                    reasons[found.row] = found.reason
                    count(1)
                    continue
                if isinstance(found, Large):
                    alone = embed_networks(self.representation.model, [found.network], 1)
                    values[found.row - part.start] = alone[0].numpy()
                    count(1)
                    continue
                rows = self.representation.embed_rows(found.theta.float(), found.architecture)
                values[np.array(found.rows) - part.start] = rows.cpu().numpy()
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
            write_part(folder, part, embedder(part, count))


def _embed_on_ray(
    make_embedder: Callable[[], Embedder],
    parts: Sequence[range],
    folder: LocalFolder,
    count: Callable[[int], None],
    num_workers: int | None,
) -> None:
    """Workers hand parts over, this process alone writes: none is lost or written twice."""

    def keep(part: range, found: Embedded) -> None:
        write_part(folder, part, found)
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
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
