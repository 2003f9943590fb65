"""A progress bar with rate and time left, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text


class Advance(Protocol):
    """Counts one more, or says how many are done."""

    def __call__(self, done: int | None = None) -> None: ...


class Bar(Advance, Protocol):
    """As `Advance`; a note stands beside the rate until the next one."""

    def __call__(self, done: int | None = None, note: str | None = None) -> None: ...


@contextmanager
def show_progress(title: str, total: int, done: int = 0, visible: bool = True) -> Iterator[Bar]:
    """Give a function that counts one more; `done` were there before and have no rate.

    Nor has what the first call finds done beyond one.
    """
    if not visible:
        yield lambda done=None, note=None: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed * 60:.0f} a minute" if speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("{task.fields[note]}"),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")
        begun = False

        def advance(done: int | None = None, note: str | None = None) -> None:
            nonlocal begun
            if note is not None:
                bar.update(task, note=note)
            if done is None:
                bar.advance(task)
            elif begun or done <= 1:
                bar.update(task, completed=done)
            else:
                bar.reset(task, completed=done)
            begun = True

        yield advance


def in_short(number: float) -> str:
    """A large number with its letter.

    >>> in_short(1234567), in_short(80)
    ('1.2 M', '80.0')
    """
    from rich.filesize import pick_unit_and_suffix

    unit, suffix = pick_unit_and_suffix(int(number), ["", " k", " M", " G"], 1000)
    return f"{number / unit:.1f}{suffix}"
