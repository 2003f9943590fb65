"""A zoo's folder behind an fsspec URL (s3://, gs://, sftp://, https:// to read ...).

Files are read through copies on this machine, so that weights can be mapped
into memory: a file is fetched once, again when it has changed. They are written
in transactions: the new content appears at once or not at all. What a killed
writer had sent by then was never put in place.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...files import is_unfinished, write_whole
from .folder import busy

LOCK_FILE = "writer.lock"
_SAYS_NO_CHANGE = {"name", "size", "type", "url", "mimetype", "partial"}  # of what fsspec tells
_CHANGES_BY_READING = {"time", "atime", "last_access_time"}
_DIGITS = 16  # of a state's digest, in the names of copies


class RemoteFolder:
    """A folder behind an fsspec URL."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{url}: cannot be opened: {error}") from error
        self.url = url.rstrip("/")
        self._root = root.rstrip("/")
        self._copies = _cache() / _digest(self.url)

    def __str__(self) -> str:
        return self.url

    def exists(self, name: str = "") -> bool:
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._at(name)))

    def names(self, below: str = "") -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._at(below), detail=True)
        except FileNotFoundError:
            return []
        names = [entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file"]
        # object stores list the folder itself as a file without a name
        return sorted(name for name in names if name and not is_unfinished(Path(name)))

    def entries(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found}
        return sorted(names - {LOCK_FILE, self._root.rsplit("/", 1)[-1]})

    def local(self, name: str) -> Path:
        self._fs.invalidate_cache()
        place = self._at(name)
        try:
            info = self._fs.info(place)
            copy, current = self._copy(name, info)
            if not current:
                self._forget(name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_whole(copy, lambda unfinished: self._fs.get_file(place, str(unfinished)))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.url}/{name}: does not exist") from error
        return copy

    def renew(self) -> None:
        shutil.rmtree(self._copies, ignore_errors=True)

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        place = self._at(name)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "file"
            fill(file)
            self._fs.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
            with (  # the file appears when the transaction ends, whole
                self._fs.transaction,
                open(file, "rb") as source,
                self._fs.open(place, "wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 22)
        self._forget(name)  # where times are coarse, the new file may look like the old one

    def remove(self, name: str) -> None:
        place = self._at(name)
        self._fs.invalidate_cache()
        if self._fs.isfile(place):
            self._fs.rm_file(place)
        elif self._fs.isdir(place) and not self._fs.ls(place, detail=False):
            self._fs.rmdir(place)
        self._forget(name)

    def tidy(self) -> None:
        pass

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """By flock among the processes of this user, else by a lock file.

        A killed holder of this machine lets go, one of another machine is named in the
        message. That two machines cannot begin at the same instant rests on the store:
        on its creating a file only where there is none, as S3, GCS and Azure do.
        """
        me = _this_process()
        with self._alone_here():
            self._take_lock(me)
            try:
                yield
            finally:
                if self._holder() == me:
                    self._fs.rm_file(self._at(LOCK_FILE))

    @contextmanager
    def _alone_here(self) -> Iterator[None]:
        self._copies.parent.mkdir(parents=True, exist_ok=True)
        with open(self._copies.with_suffix(".lock"), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(busy(self)) from error
            yield

    def _take_lock(self, me: dict[str, Any]) -> None:
        place = self._at(LOCK_FILE)
        if (holder := self._holder()) is not None:
            if not _is_dead(holder):
                raise ValueError(
                    f"{self}: process {holder.get('pid')} on {holder.get('host')} is writing to "
                    f"this zoo. If it is gone, delete {self.url}/{LOCK_FILE} and go on: what it "
                    "finished is kept"
                )
            self._fs.rm_file(place)
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(place, json.dumps(me).encode(), mode="create")
        except FileExistsError as error:
            raise ValueError(
                f"{self}: another process began to write to this zoo just now"
            ) from error
        except Exception as error:  # each protocol has errors of its own
            raise ValueError(f"{self}: cannot be written to: {error}") from error

    def _holder(self) -> dict[str, Any] | None:
        """Who says to be writing; {} where the lock tells no name, None where there is none."""
        self._fs.invalidate_cache()
        try:
            found = json.loads(self._fs.cat_file(self._at(LOCK_FILE)))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _copy(self, name: str, info: dict[str, Any]) -> tuple[Path, bool]:
        """Where the copy of a file in this state belongs, and whether it is there."""
        state = {k: v for k, v in info.items() if k not in _CHANGES_BY_READING}
        place = self._copies / name
        copy = place.with_name(f"{_digest(repr(sorted(state.items())))}-{place.name}")
        if state.keys() <= _SAYS_NO_CHANGE or not copy.exists():
            return copy, False
        return copy, info["size"] is None or copy.stat().st_size == info["size"]

    def _forget(self, name: str) -> None:
        """Delete the copies of a file or folder."""
        place = self._copies / name
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        for copy in place.parent.glob(f"{'?' * _DIGITS}-{glob.escape(place.name)}"):
            copy.unlink(missing_ok=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def _this_process() -> dict[str, Any]:
    """What tells this process from all others, also of containers with the same host name."""
    return {
        "host": socket.gethostname(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    me = _this_process()
    if any(holder.get(key) != me[key] for key in ("host", "boot", "namespace")):
        return False
    return bool(_start_time(holder["pid"]) != holder["started"])


def _start_time(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] in "ZX" else int(stat[19])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "graphrep" / "zoos"
