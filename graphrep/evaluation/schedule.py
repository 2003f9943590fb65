"""Many cells, one after another or in several processes, each recorded as a run of its own.

A cell that fails is reported and does not stop the others; started again, a comparison
goes on where it was. Each process works with one thread. The local records that processes
write are sent to MLflow by the one process that starts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ..figures.style import colours
from ..tracking import Tracker, TrackingConfig, replay
from ..tracking.record import Record
from .cells import Cell, is_done, run_cell
from .divisions import TOGETHER

RECORD = "record"  # a cell's own record of its run


def run_cells(
    cells: Sequence[tuple[Cell, Path]],
    tracking: TrackingConfig,
    *,
    benchmark_id: str,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Do what is not done; the error of each cell that failed, by title.

    Args:
        cells: Each with its folder.
        workers: Processes; 1 works in this one.
        say: Takes a line a finished cell, with the time that is left.
    """
    waiting = [(cell, folder) for cell, folder in cells if not is_done(cell, folder)]
    for cell, folder in cells:
        if (cell, folder) not in waiting:
            _send(folder / RECORD, tracking)
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} done before")
    progress = Progress([cell for cell, _ in waiting], workers)
    failed: dict[str, str] = {}
    for (cell, folder), seconds, error in _results(waiting, benchmark_id, workers):
        if error is None:
            _send(folder / RECORD, tracking)
            say(progress.line(cell, seconds))
        else:
            failed[cell.title] = f"{type(error).__name__}: {error}"
            say(progress.line(cell, None) + f"; failed: {failed[cell.title]}")
    return failed


class Progress:
    """How far a comparison is, and how long the rest takes by what methods took so far."""

    def __init__(self, cells: Sequence[Cell], workers: int) -> None:
        self._cells, self._workers = list(cells), workers
        self._done: set[str] = set()
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def line(self, cell: Cell, seconds: float | None) -> str:
        """Count a cell as done, in so many seconds or (None) failed."""
        self._done.add(cell.title)
        place = f"[{len(self._done)}/{len(self._cells)}] {cell.title}"
        if seconds is None:
            return place
        self._seconds.setdefault((cell.method.name, cell.method.mode), []).append(seconds)
        return f"{place}: {_duration(seconds)}; {_duration(self.left_s)} left"

    @property
    def left_s(self) -> float:
        """Each method's mean where it is known, the mean of all where it is not."""
        known = [value for values in self._seconds.values() for value in values]
        if not known:
            return 0.0
        total = 0.0
        for cell in self._cells:
            if cell.title not in self._done:
                values = self._seconds.get((cell.method.name, cell.method.mode), known)
                total += sum(values) / len(values)
        return total / self._workers


def _results(
    waiting: Sequence[tuple[Cell, Path]], benchmark_id: str, workers: int
) -> Iterator[tuple[tuple[Cell, Path], float, BaseException | None]]:
    """Each cell when it is finished, its seconds, and what went wrong."""
    if workers == 1:
        for item in waiting:
            started = time.perf_counter()
            error: BaseException | None = None
            try:
                work(*item, benchmark_id)
            except Exception as raised:  # whatever one method stumbles over, others go on
                error = raised
            yield item, time.perf_counter() - started, error
        return
    left, lost = list(waiting), []
    while left:
        for item, seconds, stopped in _in_pool(left, benchmark_id, workers):
            left.remove(item)
            if isinstance(stopped, BrokenProcessPool):
                lost.append(item)
            else:
                yield item, seconds, stopped
    for item in lost:  # a process that is killed takes others along: once more, each alone
        yield from _in_pool([item], benchmark_id, 1)


def _in_pool(
    waiting: Sequence[tuple[Cell, Path]], benchmark_id: str, workers: int
) -> Iterator[tuple[tuple[Cell, Path], float, BaseException | None]]:
    """The same in processes of their own; ends early, with the rest undone, if one is killed."""
    left = list(reversed(waiting))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=8)
    with pool:
        running: dict[Future[float], tuple[Cell, Path]] = {}
        while left or running:
            while left and len(running) < workers:
                item = left.pop()
                with suppress(BrokenProcessPool):  # noticed before what ran says so
                    running[pool.submit(work, *item, benchmark_id)] = item
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item, stopped = running.pop(future), future.exception()
                if isinstance(stopped, BrokenProcessPool):
                    left.clear()
                yield item, 0.0 if stopped else future.result(), stopped


def work(cell: Cell, folder: Path, benchmark_id: str) -> float:
    """One cell with its local record, on one thread; the seconds it took."""
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    method = cell.method
    tags = {
        "benchmark_id": benchmark_id,
        "kind": "cell",
        "encoder": method.name,
        "mode": method.mode,
    }
    tracker = Tracker(TrackingConfig(enabled=False))
    colour = colours([method.name])[method.name]
    try:
        with tracker.run(
            cell.title, _params(cell), folder / RECORD, tags=tags, colour=colour, resume=True
        ) as run:
            run_cell(cell, folder, run)
    finally:
        torch.set_num_threads(threads)
    return time.perf_counter() - started


def _params(cell: Cell) -> Mapping[str, Any]:
    """The encoder, seed and zoo by these names, as in every other run, and all settings."""
    return {
        "encoder": cell.method.name,
        "seed": cell.seed,
        "zoo": TOGETHER.join(Path(path).name for path in cell.zoos),
        "mode": cell.method.mode,
        "split": cell.division,
        "settings": {} if cell.setup is None else asdict(cell.setup),
    }


def _send(folder: Path, tracking: TrackingConfig) -> None:
    """Bring a finished local record to MLflow; a server that is away is asked again later."""
    if not tracking.enabled or not folder.exists():
        return
    if not Record.open(folder).is_sent:
        try:
            replay(folder, tracking)
        except ConnectionError:
            return


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
