"""The folder of an embedding's finished parts, and the table they make.

A part is one file that is there or is not, written by one process at a time; what all of
them belong to is written beside them. Knows no models and computes no embedding.

Letters in shapes: B networks of a part, D of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .embedding_inputs import Networks
from .files import write_whole
from .zoo.store.folder import LocalFolder

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Embedded:
    """A part: float32 [B, D], and why rows of it (by their place in the inputs) are missing."""

    values: np.ndarray
    reasons: dict[int, str]

    @property
    def columns(self) -> list[str]:
        """What a table calls the embedding's numbers."""
        return [f"e{i}" for i in range(self.values.shape[1])]


@contextmanager
def hold_parts(output: Path, manifest: dict[str, Any]) -> Iterator[LocalFolder]:
    """The folder of an output's parts, held by this process alone, begun or found again.

    Raises:
        ValueError: another process holds it, or its parts are of something else.
    """
    folder = LocalFolder(output.with_name(f"{output.name}.parts"))
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.exclusive())
        except ValueError as error:
            raise ValueError(f"{output}: another process embeds into it") from error
        if folder.exists(MANIFEST):
            there = json.loads(folder.local(MANIFEST).read_text())
            if different := [key for key in manifest if there.get(key) != manifest[key]]:
                lines = [f"  {k}: {there.get(k)} there, {manifest[k]} now" for k in different]
                raise ValueError(
                    f"{folder}: holds parts of another embedding:\n"
                    + "\n".join(lines)
                    + "\nDelete the folder to begin anew, or name another output"
                )
        elif others := folder.names():
            raise ValueError(f"{folder}: holds no parts of an embedding, but {others[0]}")
        folder.write(MANIFEST, lambda file: file.write_text(json.dumps(manifest, indent=1)))
        folder.tidy()
        yield folder


def _file_of(part: range) -> str:
    return f"{part.start:09d}-{len(part)}.parquet"


def has_part(folder: LocalFolder, part: range) -> bool:
    """Whether a part was finished."""
    return folder.exists(_file_of(part))


def write_part(folder: LocalFolder, part: range, found: Embedded) -> None:
    """`row` in the inputs, `reason` where it could not be read, and the embedding."""
    import pandas as pd

    table = pd.DataFrame(found.values, columns=found.columns)
    table.insert(0, "row", list(part))
    table.insert(1, "reason", pd.Series([found.reasons.get(row) for row in part], dtype="str"))
    folder.write(_file_of(part), lambda file: table.to_parquet(file, index=False))


def join(
    folder: LocalFolder, parts: Sequence[range], networks: Networks
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All parts together: what was embedded, and what could not be read."""
    import pandas as pd

    rows = pd.concat([_read_part(folder, part) for part in parts], ignore_index=True)
    unread, there = rows[rows["reason"].notna()], rows[rows["reason"].isna()]
    skipped = networks.table(unread["row"].tolist())
    skipped["reason"] = unread["reason"].to_numpy()
    embedding = there.drop(columns=["row", "reason"]).reset_index(drop=True)
    return pd.concat([networks.table(there["row"].tolist()), embedding], axis=1), skipped


def write_out(table: pd.DataFrame, skipped: pd.DataFrame, output: Path) -> Path:
    """The output and the list of what is missing in it, whose path is given."""
    listed = output.with_name(f"{output.stem}-skipped.csv")
    if skipped.empty:
        listed.unlink(missing_ok=True)
    else:
        write_whole(listed, partial(skipped.to_csv, index=False))
    if not table.empty:
        write_whole(output, table.to_parquet)
    return listed


def _read_part(folder: LocalFolder, part: range) -> pd.DataFrame:
    import pandas as pd

    try:
        found = pd.read_parquet(folder.local(_file_of(part)))
        whole = found["row"].tolist() == list(part)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}/{_file_of(part)}: damaged ({error}). Delete it and repeat the command"
        ) from error
    assert whole, f"{folder}/{_file_of(part)} was written with other rows"
    return found
