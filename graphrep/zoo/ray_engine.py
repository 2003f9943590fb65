"""Chunks of models made on a Ray cluster.

A worker stages a chunk as one file that is put in its place in one step and is
named by the indices of its models, whose bits depend on recipe and index alone.
So a chunk that is made twice, because its first worker or that worker's machine
died, is the same file with the same bytes: nothing is lost, nothing is double.
(Processors of other kinds may round otherwise; a zoo that must come out the same
elsewhere wants machines of one kind.)
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..cluster import WorkersDied, map_on_ray
from .recipe import Recipe
from .store import layout
from .store.folder import open_folder

if TYPE_CHECKING:
    from .create import ChunkMaker


def make_on_ray(
    recipe: Recipe,
    path: str,
    chunks: Sequence[range],
    num_workers: int | None,
    count: Callable[[range], None],
) -> None:
    """Make and stage chunks of models; `count` hears of each that is done.

    Args:
        path: Of the zoo's folder, or its URL; all machines of the cluster must reach it.
        num_workers: Chunks that are made at once; None for the CPUs of the cluster.

    Raises:
        ValueError: Ray is not installed, no cluster answers, or a machine of it does not
            see the folder.
        RuntimeError: a model failed, or its workers died again and again.
    """
    from .create import ChunkMaker  # which imports this module

    if "://" not in path:
        path = os.path.abspath(path)
    try:
        map_on_ray(
            partial(_open_maker, ChunkMaker, recipe, path),
            chunks,
            lambda chunk, _: count(chunk),
            num_workers=num_workers,
            describe=lambda chunk: f"zoo '{recipe.name}', {len(chunk)} from model {chunk[0]} on",
        )
    except WorkersDied as error:
        raise RuntimeError(f"{error}\n  finished models are kept; the same call resumes") from error


def _open_maker(maker: type[ChunkMaker], recipe: Recipe, path: str) -> ChunkMaker:
    """What a worker makes chunks with."""
    if not open_folder(path).exists(layout.HEADER_FILE):
        raise ValueError(
            f"{path}: a worker on {socket.gethostname()} sees no zoo there. The workers of a "
            "cluster need a folder or URL that all of its machines reach"
        )
    return maker(recipe, path)
