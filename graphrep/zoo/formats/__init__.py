"""Zoos that others published: readers of their layouts, by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from ..recipe import check_choice
from .reader import Reader as Reader

FORMATS = {  # name -> class, in the module of that name
    "modelzoos": "ModelZoos",
    "unterthiner": "Unterthiner",
    "sane": "Sane",
    "checkpoints": "Checkpoints",
    "stable_baselines": "StableBaselines",
    "huggingface": "HuggingFaceModels",
}


def open_reader(format: str, source: str, **options: Any) -> Reader:
    """A foreign zoo of one of `FORMATS`.

    Args:
        source: Its file or folder; for checkpoints also a glob.
        options: Of the format's reader; None counts as not given.

    Raises:
        ValueError: an unknown format, an option that it does not have, or a source that is
            no zoo of this layout.
    """
    check_choice("format", format, FORMATS)
    kind = getattr(import_module(f".{format}", __name__), FORMATS[format])
    given = {name: value for name, value in options.items() if value is not None}
    known = list(inspect.signature(kind).parameters)[1:]
    if unknown := [name for name in given if name not in known]:
        has = f"has {', '.join(known)}" if known else "has none"
        raise ValueError(f"format {format} takes no option {', '.join(unknown)}; it {has}")
    return kind(source, **given)
