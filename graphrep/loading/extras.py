"""Packages that only some kinds of file need, imported when one is opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def need(package: str, path: Path, kind: str, module: str = "") -> Any:
    """A module of an optional package.

    Args:
        path: The file to open, for the error.
        kind: What the file is.
        module: Of the package; by default the package itself.

    Raises:
        ValueError: the package is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        raise ValueError(
            f"{path}: is {kind}, and opening it needs the package {package}, which is not "
            f"installed. Run: pip install {package}"
        ) from error
