"""Names in pictures: how wide a text is, where a long name breaks, how many alike are one.

Widths are inches, measured with matplotlib's own font; knows no boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod

SMALL = 6.8  # points
TITLE = 8.0
_NUMBERS = re.compile(r"(\d+)")


@lru_cache(maxsize=4096)
def width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """How wide a line of text is drawn, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrap(text: str, limit: float, size: float = SMALL, bold: bool = False) -> list[str]:
    """Lines that fit into `limit` inches, broken after dots, spaces and commas, else anywhere.

    Joined, the lines are the text again, but for spaces at breaks.
    """
    lines = [""]
    for part in re.findall(r"[^., _/]+[., _/]*|[., _/]+", text):
        if lines[-1] and width((lines[-1] + part).rstrip(), size, bold) > limit:
            lines.append("")
        lines[-1] += part
        while width(lines[-1].rstrip(), size, bold) > limit and len(lines[-1]) > 1:
            fits = max(1, next(
                n for n in range(len(lines[-1]), 0, -1)
                if n == 1 or width(lines[-1][:n], size, bold) <= limit
            ))  # fmt: skip
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return [line.strip() for line in lines]


def title(name: str, limit: float) -> list[tuple[str, bool]]:
    """A name's lines and whether each is the bold one: its last parts, after the others."""
    parts = name.split(".")
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        if width(tail, TITLE, True) <= limit or start == len(parts) - 1:
            head = ".".join(parts[:start]) + "." if start else ""
            lines = [(line, False) for line in wrap(head, limit)] if head else []
            return lines + [(line, True) for line in wrap(tail, limit, TITLE, True)]
    raise AssertionError(name)


def ranged(names: Iterable[str]) -> str | None:
    """One text for names that differ in numbers alone and take all their combinations.

    >>> ranged(["h.0.fc", "h.1.fc", "h.2.fc"]), ranged(["a", "b"])
    ('h.0–2.fc', None)
    """
    split = [_NUMBERS.split(name) for name in dict.fromkeys(names)]
    if len({(len(tokens), *tokens[::2]) for tokens in split}) != 1:
        return None
    columns = [list(dict.fromkeys(column)) for column in zip(*split, strict=True)]
    if prod(len(column) for column in columns) != len(split):
        return None
    return "".join(_range(column) for column in columns)


def merged(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs (name, text) with those put together whose names make a range for the same text."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, text in lines:
        groups.setdefault((_NUMBERS.sub("0", name), text), []).append(name)
    result = []
    for (_, text), names in groups.items():
        for part in _split_to_ranges(names):
            result.append((part, text))
    return result


def _split_to_ranges(names: list[str]) -> list[str]:
    whole = ranged(names)
    if whole is not None:
        return [whole]
    by_last: dict[str, list[str]] = {}  # by all numbers but the last: stage by stage
    for name in names:
        tokens = _NUMBERS.split(name)
        by_last.setdefault(".".join(tokens[1:-2:2]), []).append(name)
    parts = [ranged(group) for group in by_last.values()]
    return [p for p in parts if p is not None] if all(parts) else names


def _range(values: list[str]) -> str:
    if len(values) == 1:
        return values[0]
    numbers = sorted(int(v) for v in values)
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}–{numbers[-1]}"
    if len(numbers) <= 4:
        return "{" + ",".join(map(str, numbers)) + "}"
    return f"{{{numbers[0]},{numbers[1]},…,{numbers[-1]}}}"


def relative(name: str, to: str) -> str:
    """A name without the parts that it shares with another: "…norm" beside "h.0.conv".

    Empty where both are one; the whole name where they share nothing.
    """
    if name == to:
        return ""
    own, other = name.split("."), to.split(".")
    shared = 0
    while shared < min(len(own), len(other)) and own[shared] == other[shared]:
        shared += 1
    shared = min(shared, len(own) - 1)
    while shared and own[shared][0].isdigit():  # a number alone says nothing
        shared -= 1
    return "…" + ".".join(own[shared:]) if shared else name
