"""What a run is described by: its settings as flat parameters, and where the code stood.

Knows nested mappings and git; knows neither MLflow nor weights.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MAX_PARAM_LENGTH = 6000  # characters of a value that MLflow keeps
MAX_TAG_LENGTH = 8000
MAX_KEY_LENGTH = 250
_CUT = " ... (cut; whole in config.yaml)"
_NOT_IN_A_KEY = re.compile(r"[^\w\-. :/]")


def plain(value: Any) -> Any:
    """Reduce settings to what YAML and JSON can hold."""
    match value:
        case None | bool() | int() | float() | str():
            return value.value if isinstance(value, Enum) else value
        case Enum():
            return plain(value.value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=str)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return plain(asdict(value))
        case _:
            return str(value)


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as `outer.inner` -> text, each within MLflow's limits.

    >>> flatten({"encoder": {"name": "graph", "dims": [8, 8]}, "seed": 1})
    {'encoder.name': 'graph', 'encoder.dims': '[8, 8]', 'seed': '1'}
    """
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
            return
        text = value if isinstance(value, str) else json.dumps(value)
        flat[clean_key(prefix)] = cut(text, MAX_PARAM_LENGTH)

    walk("", plain(settings))
    return flat


def cut(text: str, limit: int) -> str:
    """Shorten text to a limit of characters, and say so in it."""
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT


def clean_key(name: str) -> str:
    """A name that MLflow takes for a metric, a parameter or a tag.

    Characters outside letters, digits and `_-. :/` become `_`; empty, `.` and `..`
    parts of a path vanish.
    """
    parts = _NOT_IN_A_KEY.sub("_", name).split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))
    return kept[:MAX_KEY_LENGTH] or "_"


def provenance() -> dict[str, str]:
    """Versions and the state of the source tree that this process runs from."""
    commit, dirty = git_state(Path(__file__).resolve().parent)
    return {
        "graphrep_version": _version("graphrep"),
        "torch_version": _version("torch"),
        "git_commit": commit,
        "git_dirty": dirty,
    }


@cache
def git_state(folder: Path) -> tuple[str, str]:
    """Commit and whether tracked files differ from it: "true", "false", or both "unknown".

    Unknown where git is missing or does not track `folder`: an installed package may
    lie in a virtual environment inside someone else's repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "."):
            return "unknown", "unknown"
        dirty = git("status", "--porcelain", "--untracked-files=no") != ""
        return git("rev-parse", "HEAD"), str(dirty).lower()
    except (OSError, subprocess.SubprocessError):
        return "unknown", "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
