"""Checkpoint files and state dicts: safe reading, containers unwrapped and reported.

No pickle is ever executed: torch files go through torch's weights-only
unpickler. Knows files and names; knows no architecture.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before all names
SAVE_TENSORS = "torch.save(model.state_dict(), 'weights.pt')"


@dataclass(frozen=True)
class Checkpoint:
    """A state dict read from a file, and what was unwrapped to reach it."""

    path: Path
    state_dict: dict[str, Tensor]
    unwrapped: tuple[str, ...] = ()
    extra: dict[str, float | int | str] = field(default_factory=dict)  # found beside the weights

    def matched(self, names: Iterable[str]) -> Checkpoint:
        """The same values under a module's names, where one leading part is all that differs.

        Whether a `model.` before every name wraps the module or belongs to it, only the
        module's own names can tell. Where no leading part explains the difference, the
        checkpoint comes back as it is, for a check of names and shapes to say what differs.

        Args:
            names: Of the module's state dict. Counters of batch norm are not compared:
                files of old torch versions lack them.
        """
        found, wanted = _without_counters(self.state_dict), _without_counters(names)
        for prefix in _leading_parts(found):
            if found == {prefix + name for name in wanted}:
                return self._without_prefix(prefix)
        for prefix in _leading_parts(wanted):
            if wanted == {prefix + name for name in found}:
                state = {prefix + name: value for name, value in self.state_dict.items()}
                step = f"names without prefix '{prefix}'"
                return replace(self, state_dict=state, unwrapped=(*self.unwrapped, step))
        return self

    def _without_prefix(self, prefix: str) -> Checkpoint:
        state = {name.removeprefix(prefix): value for name, value in self.state_dict.items()}
        return replace(self, state_dict=state, unwrapped=(*self.unwrapped, f"prefix '{prefix}'"))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file without executing anything in it.

    Torch files and safetensors are told apart by content. Containers are opened, and
    prefixes that only wrappers write are removed; `unwrapped` reports both.

    Raises:
        ValueError: missing, damaged, in need of pickled code, or without tensors.
    """
    path = Path(path)
    content = _read(path)
    unwrapped: list[str] = []
    extra: dict[str, float | int | str] = {}
    while (inner := _inner(path, content)) is not None:
        key, step = inner
        if isinstance(content, Mapping):
            beside = {k: _plain(v) for k, v in content.items() if k != key}
            extra |= {str(k): v for k, v in beside.items() if v is not None}
        content = content[key]
        unwrapped.append(step)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        kinds = ", ".join(f"{k!r} ({type(v).__name__})" for k, v in list(content.items())[:8])
        raise ValueError(
            f"{path}: holds no tensors by name, found {kinds or 'nothing'}. Save weights with "
            f"{SAVE_TENSORS}, or put the state dict under {' or '.join(CONTAINERS[:2])}."
        )
    checkpoint = Checkpoint(path, tensors, tuple(unwrapped), extra)
    while prefix := next((p for p in WRAPPERS if all(n.startswith(p) for n in tensors)), None):
        checkpoint = checkpoint._without_prefix(prefix)
        tensors = checkpoint.state_dict
    return checkpoint


def _inner(path: Path, content: Any) -> tuple[Any, str] | None:
    """Key of the container to open next and what to call that; None at a mapping to stop at.

    Raises:
        ValueError: the content is no mapping, nor a list of exactly one.
    """
    if isinstance(content, Mapping):
        inside = ((k, content.get(k)) for k in CONTAINERS)
        key = next((k for k, v in inside if isinstance(v, Mapping) or _lists_one(v)), None)
        return None if key is None else (key, f"container '{key}'")
    if _lists_one(content):
        return 0, "list of one"
    found = f"list of {len(content)}" if isinstance(content, list) else type(content).__name__
    raise ValueError(
        f"{path}: holds a {found} where a state dict (names -> tensors) was expected. "
        f"Save one network's weights with {SAVE_TENSORS}."
    )


def _lists_one(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)


def _plain(value: Any) -> float | int | str | None:
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    return value if isinstance(value, float | int | str) else None


def _without_counters(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith("num_batches_tracked")}


def _leading_parts(names: set[str]) -> list[str]:
    """What all names start with, up to each of its dots."""
    first = min(names, default="")
    parts = [first[: i + 1] for i, letter in enumerate(first) if letter == "."]
    return [part for part in parts if all(name.startswith(part) for name in names)]


def _read(path: Path) -> Any:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder. Name one of the files in it.")
    if not path.exists():
        raise ValueError(f"{path}: no such file. Check the path, relative to {Path.cwd()}.")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Check its rights.") from error
    if not head:
        raise ValueError(f"{path}: is empty (0 bytes). Copy or download it again.")
    if head[8:9] == b"{":  # safetensors: a length of 8 bytes, then JSON
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive or, before torch 1.6, a pickle
        return _read_torch(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    likely = "a Git LFS pointer: run `git lfs pull`" if b"git-lfs" in head else "no checkpoint"
    raise ValueError(
        f"{path}: {likely}. Expected a torch file or safetensors, but it starts with {head[:24]!r}."
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, "safetensors", error) from error


def _read_torch(path: Path) -> Any:
    try:
        # An open file, as of a path torch would believe the suffix.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of pickle that are refused right after
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        text = str(error)
        if "weights_only" not in text and "WeightsUnpickler" not in text:
            raise _damaged(path, "torch", error) from error
        name = re.search(r"GLOBAL ([\w.]+)", text)
        what = f"Python code ({name[1]})" if name else "a pickle or TorchScript to run"
        raise ValueError(
            f"{path}: needs {what}, which graphrep never executes. Load it where you trust it "
            f"and save its tensors alone: {SAVE_TENSORS}."
        ) from error


def _damaged(path: Path, kind: str, error: Exception) -> ValueError:
    reason = textwrap.shorten(str(error), 100, placeholder=" ...") or type(error).__name__
    return ValueError(
        f"{path}: not a readable {kind} file ({reason}). Was it cut short? Copy or download it "
        "again."
    )
