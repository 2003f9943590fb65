"""How a file is written: whole or not at all.

A reader sees the old content or the new one, never a part, whenever the
writer is killed. Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MARK = ".unfinished-"


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Let `write` fill a file beside `path`, then put it in its place in one step.

    Args:
        durable: Wait until it is on the disk, for files that cannot be made again. Without,
            a killed process still leaves a whole file or none; a loss of power may not.
    """
    unfinished = path.with_name(f"{path.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write(unfinished)
        if durable:
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
        if durable:
            _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a file's new name durable as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write JSON whole; NaN and infinities stay what they are."""
    text = json.dumps(content, indent=indent)
    write_whole(path, lambda unfinished: unfinished.write_text(text + "\n"))


def remove_unfinished(folder: Path) -> None:
    """Delete what killed writers left behind anywhere under `folder`."""
    for path in folder.rglob(f"*{_MARK}*"):
        path.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether a killed writer left this file behind."""
    return _MARK in path.name


def sha256(path: Path) -> str:
    """Hash of a file's bytes, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
