"""Names and shapes of a file beside those of a module: what differs, a line each.

Nothing is loaded before everything fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

MOST_LINES = 40


def require_fit(
    path: Path,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    module: str,
    total: int = 0,
) -> None:
    """Raise ValueError, both sides listed, unless a file has a module's names and shapes.

    Args:
        path: Of the file, for the message.
        found: What the file holds.
        expected: What the module has; counters of batch norm may lack in the file.
        module: What to call it.
        total: How many tensors were compared, if more than are given here.
    """
    lines = differences(found, expected)
    if not lines:
        return
    rest = [f"... and {len(lines) - MOST_LINES} more"] * (len(lines) > MOST_LINES)
    shown = "\n  ".join(lines[:MOST_LINES] + rest)
    total = total or len(set(found) | set(expected))
    raise ValueError(
        f"{path}: does not fit {module}: {len(lines)} of {total} tensors differ, so nothing was "
        f"loaded. Was it saved from another network?\n  {shown}"
    )


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor that differs: its name, the file's shape, the module's shape."""
    rows: list[tuple[str, str, str]] = []
    unused = {n: v for n, v in found.items() if n not in expected}
    spare = list(unused)  # of those, what may be a missing one under another name
    for name, wanted in expected.items():
        value = found.get(name)
        if value is None and not name.endswith("num_batches_tracked"):
            alike = next((n for n in spare if unused[n].shape == wanted.shape), None)
            hint = "" if alike is None else f"; of this shape: '{alike:.60}'"
            if alike is not None:
                spare.remove(alike)
            rows.append((name, "missing,", f"expected {list(wanted.shape)}{hint}"))
        elif value is not None and value.shape != wanted.shape:
            rows.append((name, f"found {list(value.shape)},", f"expected {list(wanted.shape)}"))
    rows += [(n, f"found {list(v.shape)},", "not expected") for n, v in unused.items()]
    rows = [(n if len(n) <= 80 else n[:77] + "...", f, e) for n, f, e in rows]
    width = max((len(row[0]) for row in rows), default=0)
    middle = max((len(row[1]) for row in rows), default=0)
    return [f"{n:<{width}}  {f:>{middle}} {e}" for n, f, e in rows]
