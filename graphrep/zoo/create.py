"""Creating a zoo: members trained by worker processes, each kept as soon as it is done.

An interrupted creation resumes with the members that are missing and ends in
the same files, bit for bit, as an unbroken one, for any number of workers.
Knows neither training nor the store's files in detail.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ..architecture import Architecture
from ..graph import to_graph
from ..progress import Advance, show_progress
from . import layout
from .config import ZooConfig, draw_member
from .images import Images, load_images, open_images, save_images
from .networks import NetworkConfig, build_network
from .staging import (
    consolidate,
    finished_members,
    remove_staging,
    write_member,
    write_splits,
)
from .store import Zoo
from .train import single_thread, train_member

_IMAGES_FILE = "images.safetensors"


def create_zoo(
    config: ZooConfig,
    path: str | os.PathLike[str],
    *,
    num_workers: int | None = None,
    progress: bool = True,
) -> Zoo:
    """Train the zoo that `config` describes into the folder `path`.

    Interrupt it at will: the same call resumes. A finished zoo of the same
    config is opened. Call it under `if __name__ == "__main__":` in a script,
    as worker processes import the script.

    Args:
        num_workers: Processes; 0 trains in this one. None takes the config's,
            else one a core.
        progress: Show a bar with rate and time left on stderr.

    Raises:
        ValueError: `path` holds something else or a zoo of another config, the
            images cannot be read, or a network does not suit them.
        RuntimeError: a member failed; its index and hyper-parameters are named.
    """
    path = Path(path).expanduser()
    num_workers = _resolve_workers(config if num_workers is None else num_workers)
    with _exclusive(path):
        if not _is_finished(path, config):
            try:
                _train_missing(config, path, num_workers, progress)
            except KeyboardInterrupt as interrupt:
                interrupt.add_note(f"{path}: finished members are kept; the same call resumes")
                raise
            consolidate(path)
        remove_staging(path)
    return Zoo.open(path)


def _train_missing(config: ZooConfig, path: Path, num_workers: int, progress: bool) -> None:
    """Fill the staging area with the members that it lacks."""
    images = load_images(
        config.images, train_limit=config.train_limit, test_limit=config.test_limit
    )
    _begin(path, config, images)
    missing = sorted(set(range(config.num_models)) - finished_members(path))
    num_done = config.num_models - len(missing)
    with show_progress(f"zoo {config.name}", config.num_models, num_done, progress) as advance:
        if num_workers == 0:
            workshop = Workshop(config, path, images)
            for index in missing:
                workshop.make(index)
                advance()
        elif missing:
            save_images(images, path / layout.MEMBERS / _IMAGES_FILE)
            _make_in_pool(config, path, missing, min(num_workers, len(missing)), advance)


class Workshop:
    """Trains members of one zoo into its staging area, in whichever process it stands."""

    def __init__(self, config: ZooConfig, path: Path, images: Images) -> None:
        self.config = config
        self.path = path
        self.images = images
        self._architectures: dict[NetworkConfig, Architecture] = {}

    def make(self, index: int) -> None:
        """Train one member and keep it."""
        member = draw_member(self.config, index)
        try:
            checkpoints = train_member(member, self.images, self.config.kept_epochs)
            write_member(self.path, member, self._architecture(member.network), checkpoints)
        except Exception as error:
            settings = ", ".join(f"{k}={v}" for k, v in member.to_columns().items())
            raise RuntimeError(
                f"member {index} of zoo '{self.config.name}' failed with "
                f"{type(error).__name__}: {error}\n  its hyper-parameters: {settings}\n  "
                "finished members are kept; the same call resumes"
            ) from error

    def _architecture(self, network: NetworkConfig) -> Architecture:
        """Traced once for each design; dropout, which holds no weights, is left out."""
        design = replace(network, dropout=0.0)
        if design not in self._architectures:
            with torch.random.fork_rng(devices=[]), single_thread():
                torch.manual_seed(0)
                module = build_network(design, self.images.input_shape, self.images.num_classes)
                graph = to_graph(module, self.images.test_images[:2], name=design.label)
            self._architectures[design] = graph.architecture
        return self._architectures[design]


_workshop: Workshop | None = None  # of a worker process


def _start_worker(config: ZooConfig, path: Path, lifeline: Connection) -> None:
    global _workshop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(1)
    _workshop = Workshop(config, path, open_images(path / layout.MEMBERS / _IMAGES_FILE))


def _end_with_parent(lifeline: Connection) -> None:
    """End at once when the parent closes its end of the pipe or is killed."""
    lifeline.poll(None)
    os._exit(1)


def _make(index: int) -> None:
    assert _workshop is not None
    _workshop.make(index)


def _make_in_pool(
    config: ZooConfig, path: Path, indices: list[int], num_workers: int, advance: Advance
) -> None:
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    lifeline, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(config, path, lifeline),
    )
    try:
        futures = [pool.submit(_make, index) for index in indices]
        for future in as_completed(futures):
            future.result()
            advance()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{path}: a worker process was killed, perhaps for want of memory. Finished members "
            f"are kept; the same call resumes, with num_workers below {num_workers} if need be"
        ) from error
    finally:
        parent_end.close()
        pool.shutdown(cancel_futures=True)
        lifeline.close()


def _resolve_workers(wanted: ZooConfig | int) -> int:
    num_workers = wanted.num_workers if isinstance(wanted, ZooConfig) else wanted
    if num_workers is None:
        return len(os.sched_getaffinity(0))
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    return num_workers


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the folder, made if need be, against other creations; a killed holder lets go."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; a zoo needs a folder")
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{path}: another process is creating this zoo") from error
        yield
    finally:
        os.close(descriptor)


def _is_finished(path: Path, config: ZooConfig) -> bool:
    """Whether `path` holds this very zoo, finished; raise if it holds another or none."""
    if not (path / layout.HEADER_FILE).exists():
        if others := sorted(f.name for f in path.iterdir() if not f.name.startswith("zoo.json.")):
            raise ValueError(
                f"{path}: not empty and not a zoo, it holds {', '.join(others[:5])}. "
                "Name a new or empty folder"
            )
        return False
    header = layout.read_header(path)
    if different := _differences(header["config"], config.identity()):
        state = "a finished" if header["finished"] else "an unfinished"
        raise ValueError(
            f"{path}: holds {state} zoo of another config:\n  "
            + "\n  ".join(different)
            + "\nName another folder, or repeat the settings of the first run"
        )
    return bool(header["finished"])


def _begin(path: Path, config: ZooConfig, images: Images) -> None:
    """Write what stands before any member is trained, or check what an earlier run wrote."""
    for network in config.networks:  # one that does not fit should fail before hours of work
        build_network(network, images.input_shape, images.num_classes)
    header = {
        "finished": False,
        "config": config.identity(),
        "input_shape": list(images.input_shape),
        "num_classes": images.num_classes,
        "images_sha256": images.sha256(),
        "versions": {
            name: _version(name) for name in ("graphrep", "torch", "numpy", "safetensors")
        },
    }
    if (path / layout.HEADER_FILE).exists():
        earlier = layout.read_header(path)
        if earlier["images_sha256"] != header["images_sha256"]:
            raise ValueError(
                f"{path}: was begun with other images '{config.images}' than are found now. "
                "Restore them, or name another folder"
            )
        if earlier["versions"] != header["versions"]:
            warnings.warn(
                f"{path}: was begun with {earlier['versions']}, resumed with {header['versions']}: "
                "results may differ from those of an unbroken run",
                stacklevel=3,
            )
    else:
        layout.write_header(path, header)
    write_splits(path, config)
    for folder in (layout.ARCHITECTURES, layout.MEMBERS):
        (path / folder).mkdir(exist_ok=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _differences(there: Any, now: Any, place: str = "") -> list[str]:
    """A line for each setting that differs."""
    if isinstance(there, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted({*there, *now})
            for line in _differences(there.get(key), now.get(key), f"{place}.{key}".strip("."))
        ]
    return [] if there == now else [f"{place}: {there} there, {now} now"]
