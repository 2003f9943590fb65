"""A state dict as it came from a file: names, values, and what was done to reach them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

AT_ONCE = 1 << 22  # numbers looked at together, so that a mapped file stays on disk


@dataclass(frozen=True)
class Checkpoint:
    """A state dict read from a file, and what was unwrapped to reach it."""

    path: Path
    state_dict: dict[str, Tensor]
    unwrapped: tuple[str, ...] = ()
    extra: dict[str, float | int | str] = field(default_factory=dict)  # found beside the weights

    @cached_property
    def special(self) -> tuple[str, ...]:
        """A line for each tensor with NaN or infinite values; they are kept as they are."""
        lines = []
        for name, value in self.state_dict.items():
            num_nan, num_infinite = count_special(value)
            counts = [f"{n:,} {w}" for n, w in ((num_nan, "NaN"), (num_infinite, "Inf")) if n]
            if counts:
                lines.append(f"'{name}': {' and '.join(counts)} of {value.numel():,} values (kept)")
        return tuple(lines)

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
                return self.without_prefix(prefix)
        for prefix in _leading_parts(wanted):
            if wanted == {prefix + name for name in found}:
                state = {prefix + name: value for name, value in self.state_dict.items()}
                step = f"names without prefix '{prefix}'"
                return replace(self, state_dict=state, unwrapped=(*self.unwrapped, step))
        return self

    def without_prefix(self, prefix: str) -> Checkpoint:
        """The same values, the prefix taken off every name and reported."""
        state = {name.removeprefix(prefix): value for name, value in self.state_dict.items()}
        return replace(self, state_dict=state, unwrapped=(*self.unwrapped, f"prefix '{prefix}'"))


def count_special(value: Tensor) -> tuple[int, int]:
    """How many values are NaN and how many infinite."""
    num_nan = num_infinite = 0
    if not (value.is_floating_point() or value.is_complex()) or value.is_meta:
        return 0, 0
    for part in _parts(value.detach()):
        part = part.float() if part.element_size() == 1 else part  # torch lacks these of float8
        if not torch.isfinite(part).all():
            num_nan += int(torch.isnan(part).sum())
            num_infinite += int(torch.isinf(part).sum())
    return num_nan, num_infinite


def _parts(value: Tensor) -> Iterator[Tensor]:
    """The tensor in pieces of bounded size, none of them a copy."""
    if value.numel() <= AT_ONCE or value.dim() == 0:
        yield value
    elif value.is_contiguous():
        yield from value.view(-1).split(AT_ONCE)
    else:
        for row in value:
            yield from _parts(row)


def _without_counters(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith("num_batches_tracked")}


def _leading_parts(names: set[str]) -> list[str]:
    """What all names start with, up to each of its dots."""
    first = min(names, default="")
    parts = [first[: i + 1] for i, letter in enumerate(first) if letter == "."]
    return [part for part in parts if all(name.startswith(part) for name in names)]
