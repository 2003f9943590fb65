"""A zoo's folder: what the store needs of it, and one on this machine.

`remote.py` has those behind URLs. Both are read through files on this machine, so
that weights can be mapped into memory, and written whole or not at all. Knows
nothing of what the files hold.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ...files import is_unfinished, remove_unfinished, write_whole

Fill = Callable[[Path], object]  # writes a file


class Folder(Protocol):
    """What a zoo needs of its place; names are relative, with `/` between parts."""

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""
        ...

    def names(self, below: str = "") -> list[str]:
        """The finished files directly in a folder, sorted; [] where there is none."""
        ...

    def entries(self) -> list[str]:
        """All that stands in the folder but what locks and killed writers left, sorted."""
        ...

    def local(self, name: str) -> Path:
        """The file on this machine, to be read only; FileNotFoundError where there is none."""
        ...

    def write(self, name: str, fill: Fill) -> None:
        """Write a file whole, replacing another of its name in one step."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file, or a folder that is empty; nothing happens to any other."""
        ...

    def renew(self) -> None:
        """Read everything anew: copies of remote files are fetched again."""
        ...

    def tidy(self) -> None:
        """Delete what killed writers left half-written."""
        ...

    def exclusive(self) -> Any:
        """A context in which no other writer has the folder, which is made if need be.

        Raises:
            ValueError: another process writes to it, or it is a file.
        """
        ...


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """The folder of a path or URL; `file://` is a path.

    Raises:
        ValueError: a URL of a protocol that fsspec does not know or that lacks its library.
    """
    text = os.fspath(path)
    if text.startswith("file:"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{text}: names another machine; write file:///folder for this one")
        text = unquote(parts.path)
    if "://" not in text:
        return LocalFolder(Path(text).expanduser())
    from .remote import RemoteFolder

    return RemoteFolder(text)


def busy(folder: Folder) -> str:
    """What a second writer hears."""
    return (
        f"{folder}: another process is writing to this zoo. Wait until it has ended, or end it "
        "(what it finished is kept)"
    )


class LocalFolder:
    """A folder of this machine (or mounted on it)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self, name: str = "") -> bool:
        return (self.path / name).exists()

    def names(self, below: str = "") -> list[str]:
        place = self.path / below
        if not place.is_dir():
            return []
        return sorted(f.name for f in place.iterdir() if f.is_file() and not is_unfinished(f))

    def entries(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(f.name for f in self.path.iterdir() if not is_unfinished(f))

    def local(self, name: str) -> Path:
        file = self.path / name
        if not file.exists():
            raise FileNotFoundError(f"{file}: does not exist")
        return file

    def write(self, name: str, fill: Fill) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, fill)

    def remove(self, name: str) -> None:
        file = self.path / name
        if not file.is_dir():
            file.unlink(missing_ok=True)
        elif not any(file.iterdir()):
            file.rmdir()

    def renew(self) -> None:
        pass

    def tidy(self) -> None:
        remove_unfinished(self.path)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """By flock: a killed holder lets go."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self}: is a file; a zoo needs a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(busy(self)) from error
            yield
        finally:
            os.close(descriptor)
