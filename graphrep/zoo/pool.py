"""Worker processes of this machine, one thread each, that make chunks of models."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import torch

from .recipe import Recipe

if TYPE_CHECKING:
    from .create import ChunkMaker


def make_in_pool(
    recipe: Recipe,
    path: str,
    chunks: Sequence[range],
    num_workers: int,
    count: Callable[[range], None],
) -> None:
    """Make and stage chunks of models; `count` hears of each that is done.

    Raises:
        RuntimeError: a model failed, or a worker was killed.
    """
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    lifeline, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(recipe, path, lifeline),
    )
    try:
        futures = {pool.submit(_make, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            future.result()
            count(futures[future])
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{path}: a worker process was killed, perhaps for want of memory. Finished models "
            f"are kept; the same call resumes, with num_workers below {num_workers} if need be"
        ) from error
    finally:
        parent_end.close()
        pool.shutdown(cancel_futures=True)
        lifeline.close()


_maker: ChunkMaker | None = None  # of a worker process


def _start_worker(recipe: Recipe, path: str, lifeline: Connection) -> None:
    global _maker
    from .create import ChunkMaker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(1)
    _maker = ChunkMaker(recipe, path)


def _end_with_parent(lifeline: Connection) -> None:
    """End at once when the parent closes its end of the pipe or is killed."""
    lifeline.poll(None)
    os._exit(1)


def _make(chunk: range) -> None:
    assert _maker is not None
    _maker(chunk)
