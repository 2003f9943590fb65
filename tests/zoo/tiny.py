"""A zoo of eight members that trains in seconds, and how to compare two folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from graphrep.zoo import ClassifierRecipe, NetworkConfig, Range, SearchSpace


def tiny_config(**changes: object) -> ClassifierRecipe:
    """Two designs, one with batch norm and dropout, on 300 digits."""
    settings: dict[str, object] = {
        "name": "tiny",
        "images": "digits",
        "num_models": 8,
        "epochs": 2,
        "checkpoints": (0, 1, 2),
        "train_limit": 300,
        "test_limit": 100,
        "networks": (
            NetworkConfig(kind="cnn", hidden=(3, 4), batch_norm=True),
            NetworkConfig(kind="mlp", hidden=(6,)),
        ),
        "search": SearchSpace(dropout=Range(low=0.1, high=0.3), batch_size=(16, 32)),
    }
    return ClassifierRecipe(**{**settings, **changes})  # type: ignore[arg-type]


def folder_hashes(path: Path) -> dict[str, str]:
    """The bytes of every file under a folder."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
