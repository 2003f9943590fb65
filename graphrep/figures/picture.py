"""Figures whose text stays text in SVG, and how they become files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = (".png", ".svg", ".pdf")


@lru_cache(maxsize=1)
def _picture_class() -> type[Figure]:
    """A figure that is saved with text as text; made when matplotlib is first used."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class Picture(Figure):
        def savefig(self, fname: Any, *args: Any, **kwargs: Any) -> None:
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "graphrep"}):
                super().savefig(fname, *args, **kwargs)

    return Picture


def picture(width: float, height: float) -> Figure:
    """An empty figure of this size in inches; its `savefig` keeps text as text."""
    return _picture_class()(figsize=(width, height))


def save_picture(figure: Figure, path: Path | str, dpi: int = 150) -> None:
    """Write a figure as .png, .svg or .pdf, whole or not at all.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise ValueError(f"{path}: a picture is written to a file .png, .svg or .pdf")
    write_whole(path, lambda unfinished: figure.savefig(unfinished, format=ending[1:], dpi=dpi))
