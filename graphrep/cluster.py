"""Work spread over the processes of a Ray cluster, on one machine or many.

Knows how to reach or start Ray, keep it busy and outlive workers that die;
knows nothing of what is computed. What a worker holds (images, a model) is made
once a process. Between its processes Ray hands on Python objects as
multiprocessing does: nothing that comes from a file or a stranger passes here.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_DEATHS = 5  # of workers that had one and the same item
PACKAGES = ("graphrep", "torch", "numpy")  # which decide the bits of results

_log = logging.getLogger(__name__)


def map_on_ray(
    make_worker: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    take: Callable[[Item, Result], None],
    *,
    num_workers: int | None = None,
    describe: Callable[[Item], str] = str,
) -> None:
    """Let `take` have every item's result once, as they come, in any order.

    Uses the Ray that runs in this process, else the cluster at RAY_ADDRESS, else starts
    one on this machine and ends it again. An item is at work in one process at a time,
    which has one CPU and one torch thread; no more items than `num_workers` are with Ray
    at once. An item whose worker or machine dies is given to another one, so it may be
    worked on more than once but is taken once.

    Args:
        make_worker: Called once in each process; what it gives is called with the items.
        num_workers: Items at work at once; None for the CPUs of the cluster.
        describe: Names an item in messages.

    Raises:
        ValueError: Ray is not installed, no cluster answers, or a machine of it has other
            versions.
        WorkersDied: MOST_DEATHS workers that had one and the same item.
        Exception: what a worker raised, as it raised it.
    """
    if not items:
        return
    ray = _import_ray()
    stays = ray.is_initialized()
    with _cluster(num_workers) as slots:
        work = ray.remote(num_cpus=1, max_retries=0)(_work)  # deaths are counted here
        key, versions = uuid.uuid4().hex, _versions()
        made = [ray.put(make_worker)]  # in a list, Ray does not hand over the content each time
        waiting = list(enumerate(items))[::-1]
        running: dict[Any, tuple[int, Item]] = {}
        deaths: Counter[int] = Counter()
        try:
            while waiting or running:
                while waiting and len(running) < slots:
                    number, item = waiting.pop()
                    running[work.remote(key, versions, made, item)] = number, item
                (done,), _ = ray.wait(list(running))
                number, item = running.pop(done)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, Exception):
                        raise error.cause from error
                    raise
                except _death(ray) as error:
                    deaths[number] += 1
                    _check_deaths(describe(item), deaths[number], error)
                    waiting.append((number, item))
                else:
                    take(item, result)
        except BaseException:
            if stays:  # else all that runs ends with the connection
                for task in running:
                    ray.cancel(task)
            raise


class WorkersDied(RuntimeError):
    """Whoever had an item died, again and again."""


def _check_deaths(item: str, deaths: int, error: Exception) -> None:
    reason = " ".join(str(error).split())[:300]
    if deaths < MOST_DEATHS:
        _log.warning("%s: its worker died, another one tries again (%s)", item, reason)
        return
    raise WorkersDied(
        f"{item}: {deaths} workers that had it died, perhaps for want of memory; last: {reason}"
    )


def _death(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray says of a process or machine that is gone, with or without its results."""
    known = ray.exceptions
    return (
        known.WorkerCrashedError,
        known.OutOfMemoryError,
        known.NodeDiedError,
        known.ObjectLostError,
    )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "engine ray needs Ray, which is not installed: pip install 'graphrep[ray]'"
        ) from error
    return ray


@contextmanager
def _cluster(num_workers: int | None) -> Iterator[int]:
    """A cluster to work on, and how many items at once."""
    ray = _import_ray()
    if ray.is_initialized():  # the caller's own, which stays
        yield num_workers or _num_cpus(ray)
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    own = {"num_cpus": num_workers, "include_dashboard": False} if address == "local" else {}
    _check_reachable(address)
    with _environment(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",  # else a FutureWarning on each start
        RAY_IGNORE_UNHANDLED_ERRORS="1",  # of items beside the one whose error is raised
    ):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except ConnectionError as error:
            raise ValueError(f"RAY_ADDRESS={address}: no Ray cluster answers: {error}") from error
        try:
            yield num_workers or _num_cpus(ray)
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes, then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ValueError(f"RAY_ADDRESS={address}: nothing answers there: {error}") from error


def _num_cpus(ray: Any) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables for as long as Ray runs, where the user has set none."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


_workers: dict[str, Callable[[Any], Any]] = {}  # of this process: the last mapping's alone


def _work(key: str, versions: dict[str, str], made: list[Any], item: Any) -> Any:
    """Runs in a worker process."""
    if key not in _workers:
        import ray
        import torch

        if (here := _versions()) != versions:
            raise ValueError(
                f"machine {socket.gethostname()} of the cluster has {here}, but this one has "
                f"{versions}: other versions give other bits. Install the same on all"
            )
        torch.set_num_threads(1)
        # by which Ray cancels; a job in a shell's background hands on that it is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _workers.clear()
        _workers[key] = ray.get(made[0])()
    return _workers[key](item)
