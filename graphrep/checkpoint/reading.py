"""Checkpoint files: told apart by content, containers unwrapped and reported.

No pickle is ever executed: torch files go through torch's weights-only
unpickler. Knows files and names; knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .shards import INDEX_SUFFIX, read_shards, weights_in
from .state import Checkpoint
from .tensor_files import read_safetensors, read_torch

CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before all names
COMPILED = "._orig_mod."  # and what torch.compile puts inside where it wrapped a part
SAVE_TENSORS = "torch.save(model.state_dict(), 'weights.pt')"
DEEPEST = 16  # containers within containers; a pickle can hold itself


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file without executing anything in it.

    Torch files and safetensors are told apart by content; an index of shards, or a folder
    with one file of weights under its usual name, is read as one checkpoint. Containers are
    opened, and prefixes that only wrappers write are removed; `unwrapped` reports all of it.
    Files of 64 MiB and more are mapped into memory, so leave them alone while values are used.

    Raises:
        ValueError: missing, damaged, in need of pickled code, or without tensors.
    """
    path = Path(path)
    file = weights_in(path) if path.is_dir() else path
    unwrapped: list[str] = [] if file == path else [f"folder with '{file.name}'"]
    extra: dict[str, float | int | str] = {}
    content: Any
    if file.name.endswith(INDEX_SUFFIX):
        content, steps = read_shards(file, read_file)
        unwrapped += steps
    else:
        content = read_file(file)
    while (inner := _inner(file, content)) is not None:
        key, step = inner
        if isinstance(content, Mapping):
            beside = {k: _plain(v) for k, v in content.items() if k != key}
            extra |= {str(k): v for k, v in beside.items() if v is not None}
        content = content[key]
        unwrapped.append(step)
        if len(unwrapped) > DEEPEST:
            raise ValueError(
                f"{file}: holds more than {DEEPEST} containers within each other, or one within "
                f"itself. Save one network's weights with {SAVE_TENSORS}."
            )
    tensors, beside_tensors = _tensors(file, content)
    extra |= beside_tensors
    return _unwrap_names(Checkpoint(path, tensors, tuple(unwrapped), extra))


def _tensors(
    path: Path, content: Mapping[Any, Any]
) -> tuple[dict[str, Tensor], dict[str, float | int | str]]:
    """The tensors of a mapping by name, and what else it holds that is plain."""
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        kinds = ", ".join(f"{k!r:.40} ({type(v).__name__})" for k, v in list(content.items())[:8])
        raise ValueError(
            f"{path}: holds no tensors by name, found {kinds or 'nothing'}. Save weights with "
            f"{SAVE_TENSORS}, or put the state dict under {' or '.join(CONTAINERS[:2])}."
        )
    if len(tensors) < sum(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: two of its tensors have the same name once written as text.")
    for name, value in tensors.items():
        kind = _unusual(value)
        if kind:
            raise ValueError(
                f"{path}: '{name:.80}' is {kind}; only dense tensors of numbers can be weights. "
                f"Make it dense and save again with {SAVE_TENSORS}."
            )
    others = {k: _plain(v) for k, v in content.items() if not isinstance(v, Tensor)}
    return tensors, {str(k): v for k, v in others.items() if v is not None}


def _unusual(value: Tensor) -> str:
    if value.layout != torch.strided:
        return f"a sparse tensor ({value.layout})"
    if value.is_quantized:
        return "a quantised tensor"
    if value.is_meta:
        return "a tensor without values (meta)"
    return "" if type(value) in (Tensor, torch.nn.Parameter) else f"a {type(value).__name__}"


def _unwrap_names(checkpoint: Checkpoint) -> Checkpoint:
    """Without what only wrappers write into names."""
    names = list(checkpoint.state_dict)
    while prefix := next((p for p in WRAPPERS if all(n.startswith(p) for n in names)), None):
        checkpoint = checkpoint.without_prefix(prefix)
        names = list(checkpoint.state_dict)
    if any(COMPILED in n for n in names):
        state = {n.replace(COMPILED, "."): v for n, v in checkpoint.state_dict.items()}
        if len(state) == len(names):
            steps = (*checkpoint.unwrapped, f"'{COMPILED[1:]}' within names")
            checkpoint = replace(checkpoint, state_dict=state, unwrapped=steps)
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
    if isinstance(value, Tensor) and value.dim() == 0 and not _unusual(value):
        value = value.item()
    return value if isinstance(value, float | int | str) else None


def read_file(path: Path) -> Any:
    """What one file holds, whatever it is called."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder. Name one of the files in it.")
    if not path.exists():
        raise ValueError(f"{path}: no such file. Check the path, relative to {Path.cwd()}.")
    if not path.is_file():
        raise ValueError(f"{path}: is not an ordinary file. Name a file of weights.")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Check its rights.") from error
    if not head:
        raise ValueError(f"{path}: is empty (0 bytes). Copy or download it again.")
    if head[8:9] == b"{":  # safetensors: a length of 8 bytes, then JSON
        return read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive or, before torch 1.6, a pickle
        return read_torch(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    likely = "a Git LFS pointer: run `git lfs pull`" if b"git-lfs" in head else "no checkpoint"
    raise ValueError(
        f"{path}: {likely}. Expected a torch file or safetensors, but it starts with {head[:24]!r}."
    )
