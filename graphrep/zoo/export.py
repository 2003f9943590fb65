"""A zoo written for others: state dicts, plain arrays, SANE's tokens.

Rows are read in batches, files are written whole or not at all, and an export that was
interrupted goes on where it stopped when the same call is repeated.

Letters in shapes: N rows, P length of theta.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture
from ..files import remove_unfinished, write_json, write_whole
from ..progress import Advance, show_progress
from .export_sane import save_tensors, write_tokens
from .recipe import check_choice
from .selection import select_rows as select_rows

if TYPE_CHECKING:
    import pandas as pd

    from .store.zoo import Group, Zoo

FORMATS = ("safetensors", "pt", "npy", "sane")
CLAIM_FILE = "export.json"  # what an export is of; there from its beginning
_BATCH_BYTES = 64 * 2**20


def export_zoo(
    zoo: Zoo,
    format: str,
    output: Path | str,
    *,
    standardise: bool = True,
    token_size: int = 0,
    progress: bool = True,
) -> int:
    """Write all rows of a zoo, or of a view of one (`zoo.select`), into a folder.

    `safetensors` and `pt`: a state dict a row, bit for bit, buffers included, and metrics.csv
    with the file and all properties of each. `npy`: weights.npy [N, P], metrics.csv with a
    line a row of it, layout.csv that says which columns are which tensor, architecture.json;
    buffers that are no weights are left out. `sane`: see `write_tokens`. For the last two, a
    zoo of several architectures gives a folder an architecture, named by its fingerprint.

    Args:
        output: A new or empty folder, or one that holds this very export, unfinished: it
            goes on. Nothing is ever overwritten.
        standardise: Of `sane` alone: to zero mean and unit deviation, layer by layer, as the
            training split has them. Otherwise tokens hold the weights bit for bit.
        token_size: Of `sane` alone: numbers a token; 0 for the longest row.
        progress: Show a bar with rate and time left on stderr.

    Returns:
        How many networks the folder holds.

    Raises:
        ValueError: an unknown format, a folder that holds something else, an empty zoo, or
            networks that the format cannot hold.
    """
    check_choice("format", format, FORMATS)
    if not len(zoo):
        raise ValueError("there is nothing to export: the zoo has no rows")
    output = Path(output).expanduser()
    claim = {
        "export": format,
        "zoo": zoo.name,
        "num_rows": len(zoo),
        "rows": _digest(zoo.properties),
    }
    if format == "sane":
        claim |= {"standardise": standardise, "token_size": token_size}
    _begin(output, claim)
    with show_progress(f"{zoo.name} to {format}", len(zoo), visible=progress) as advance:
        match format:
            case "safetensors" | "pt":
                _write_state_dicts(zoo, format, output, advance)
            case "npy":
                for group, folder in _folders(zoo, output):
                    _write_arrays(zoo, group, folder, advance)
            case "sane":
                for group, folder in _folders(zoo, output):
                    write_tokens(
                        group.architecture,
                        group.theta,
                        _rows_of(zoo, group),
                        folder,
                        name=zoo.name,
                        standardise=standardise,
                        token_size=token_size,
                        batch=batch_rows(group.architecture),
                        advance=advance,
                    )
    return len(zoo)


def batch_rows(architecture: Architecture) -> int:
    """How many rows of an architecture are read at once."""
    row_bytes = max(1, architecture.num_parameters * architecture.dtype.itemsize)
    return max(1, min(1024, _BATCH_BYTES // row_bytes))


def _write_state_dicts(zoo: Zoo, format: str, output: Path, advance: Advance) -> None:
    from safetensors.torch import save_file

    files = [f"{stem}.{format}" for stem in _stems(zoo.properties)]
    for row, file in enumerate(files):
        path = output / file
        if not path.exists():
            state = zoo.graphs[row].state_dict()
            if format == "pt":
                write_whole(path, partial(save_tensors, state), durable=False)
            else:
                save = partial(save_file, _apart(state), metadata={"format": "pt"})
                write_whole(path, save, durable=False)
        advance()
    table = zoo.properties.copy()
    table.insert(0, "file", files)
    _write_table(table, output / "metrics.csv")


def _write_arrays(zoo: Zoo, group: Group, folder: Path, advance: Advance) -> None:
    architecture = group.architecture
    _write_table(_rows_of(zoo, group), folder / "metrics.csv")
    _write_table(_layout(architecture), folder / "layout.csv")
    text = architecture.to_json() + "\n"
    write_whole(folder / "architecture.json", lambda unfinished: unfinished.write_text(text))
    size = batch_rows(architecture)
    starts = range(0, len(group.theta), size)
    if (folder / "weights.npy").exists():
        for _ in range(len(group.theta)):
            advance()
        return

    def fill(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:
            for start in starts:
                values = _numpy(group.theta[start : start + size])
                if start == 0:
                    shape = (len(group.theta), architecture.num_parameters)
                    header = {
                        "descr": np.lib.format.dtype_to_descr(values.dtype),
                        "fortran_order": False,
                        "shape": shape,
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                values.tofile(file)
                for _ in range(len(values)):
                    advance()

    write_whole(folder / "weights.npy", fill)


def _layout(architecture: Architecture) -> pd.DataFrame:
    """Where each tensor stands among the columns of weights.npy."""
    import pandas as pd

    rows = [
        (t.name, t.offset, t.offset + t.numel, "x".join(map(str, t.shape)), t.dtype, t.role)
        for t in architecture.stored
        if t.offset is not None
    ]
    return pd.DataFrame(rows, columns=["tensor", "start", "end", "shape", "dtype", "role"])


def _stems(properties: pd.DataFrame) -> list[str]:
    """A file's name for each row: by model and epoch where that tells rows apart."""
    if "epoch" in properties and properties["epoch"].notna().all():
        pairs = zip(properties["model"], properties["epoch"], strict=True)
        stems = [f"model-{model:06d}-epoch-{epoch:04g}" for model, epoch in pairs]
        if len(set(stems)) == len(stems):
            return stems
    return [f"row-{row:07d}" for row in range(len(properties))]


def _apart(state: OrderedDict[str, Tensor]) -> dict[str, Tensor]:
    """Tied names with values of their own: safetensors takes no shared ones."""
    kept: dict[str, Tensor] = {}
    for name, value in state.items():
        shared = any(value.data_ptr() == other.data_ptr() for other in kept.values())
        kept[name] = value.clone() if shared else value
    return kept


def _numpy(theta: Tensor) -> np.ndarray:
    """Values as numpy has them; bfloat16, which it lacks, widens without loss."""
    return (theta.float() if theta.dtype == torch.bfloat16 else theta).contiguous().numpy()


def _rows_of(zoo: Zoo, group: Group) -> pd.DataFrame:
    return zoo.properties.iloc[group.rows.numpy()].reset_index(drop=True)


def _folders(zoo: Zoo, output: Path) -> Iterator[tuple[Group, Path]]:
    """Each architecture's rows, and the folder that they go to."""
    single = len(zoo.architectures) == 1
    for group in zoo.groups():
        folder = output if single else output / group.architecture.fingerprint
        folder.mkdir(exist_ok=True)
        yield group, folder


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_whole(path, lambda unfinished: table.to_csv(unfinished, index=False))


def _digest(properties: pd.DataFrame) -> str:
    """16 hex digits over which rows these are, and their order."""
    from pandas.util import hash_pandas_object

    columns = [c for c in ("model", "epoch", "architecture", "content_hash") if c in properties]
    rows = hash_pandas_object(properties[columns], index=False, categorize=False)
    return hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()[:16]


def _begin(output: Path, claim: dict[str, Any]) -> None:
    """Take a new or empty folder, or one of the same unfinished export."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; an export needs a folder")
    output.mkdir(parents=True, exist_ok=True)
    remove_unfinished(output)
    file = output / CLAIM_FILE
    if not file.exists():
        if others := sorted(path.name for path in output.iterdir()):
            raise ValueError(
                f"{output}: is not empty, it holds {', '.join(others[:5])}. Nothing is "
                "overwritten: name a new or empty folder"
            )
        write_json(file, claim, indent=1)
        return
    try:
        there = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: damaged: {error}. Name a new or empty folder") from error
    if there != claim:
        different = [k for k in claim if not isinstance(there, dict) or there.get(k) != claim[k]]
        raise ValueError(
            f"{output}: holds another export, with other {', '.join(different)}. Nothing is "
            "overwritten: name a new or empty folder"
        )
