"""Checkpoint files and state dicts: safe reading, containers unwrapped and reported.

No pickle is ever executed: `.pt`-like files go through torch's weights-only
unpickler. Knows files and names; knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")
SAFETENSORS = (".safetensors",)


@dataclass(frozen=True)
class Checkpoint:
    """A state dict read from a file, and what was unwrapped to reach it."""

    path: Path
    state_dict: dict[str, Tensor]
    unwrapped: tuple[str, ...] = ()
    extra: dict[str, float | int | str] | None = None  # plain values found beside the weights


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file without executing anything in it.

    Safetensors by suffix; any other suffix is read by torch with `weights_only=True`.

    Raises:
        ValueError: missing, damaged, in need of pickled code, or without tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = _read_safetensors(path) if path.suffix in SAFETENSORS else _read_torch(path)
    unwrapped: list[str] = []
    while True:
        inner = next((k for k in CONTAINERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        unwrapped.append(f"container '{inner}'")
        beside = {k: v for k, v in content.items() if isinstance(v, float | int | str)}
        content = {**content[inner], **({"__extra__": beside} if beside else {})}
    extra = content.pop("__extra__", None)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        kinds = sorted({type(v).__name__ for v in content.values()})
        raise ValueError(
            f"{path}: holds no tensors by name, found {list(content)[:8]} of types {kinds}. "
            f"Expected a state dict, or one under a key of {', '.join(CONTAINERS)}."
        )
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            unwrapped.append(f"prefix '{prefix}'")
    return Checkpoint(path, tensors, tuple(unwrapped), extra)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if "weights_only" in str(error).lower() or "WeightsUnpickler" in str(error):
            raise ValueError(
                f"{path}: needs pickled Python code to load, which graphrep never executes. "
                "Load it where you trust it and save only the tensors: "
                "torch.save(model.state_dict(), 'weights.pt'). "
                f"({first_line})"
            ) from error
        raise ValueError(
            f"{path}: not a readable torch file ({type(error).__name__}: {first_line}). "
            "Is it complete?"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path}: holds a {type(content).__name__}, expected a state dict (names -> tensors)"
        )
    return dict(content)
