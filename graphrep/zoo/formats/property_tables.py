"""Tables of properties that somebody wrote beside checkpoints, as rows of plain values.

Knows CSV, TSV, JSON, JSON lines and Parquet, and which column names files; no files, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
# Columns that may say which file a row is about; the first that is there does.
FILE_COLUMNS = (
    "file",
    "path",
    "filename",
    "file_name",
    "filepath",
    "checkpoint",
    "name",
    "run",
    "model_name",
    "model",
    "id",
)
TEXT_COLUMNS = (*FILE_COLUMNS, "input_shape")  # read as they stand: 007 is a name
KINDS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "lines", ".ndjson": "lines"}
KINDS |= {".parquet": "parquet", ".pq": "parquet"}
# Columns of a zoo's properties that say where a model stands in it.
RESERVED = ("model", "name", "architecture", "design", "content_hash", "split")


def read_table(path: Path, file_column: str | None = None) -> tuple[list[Row], str]:
    """Rows with plain values, what is missing left out, and the column that names files.

    JSON is a list of objects or an object of objects by the files' names.

    Raises:
        ValueError: of another kind, damaged, empty, or without such a column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such table of properties")
    suffixes = [s for s in path.suffixes if s != ".gz"]
    kind = KINDS.get(suffixes[-1].lower() if suffixes else "")
    if kind is None:
        raise ValueError(f"{path}: tables of properties are {', '.join(KINDS)}; convert it")
    try:
        found = _read(path, kind, file_column)
    except Exception as error:  # csv, json, pyarrow and the disk each have their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a readable {kind} table ({reason})") from error
    rows = [{str(k): plain(v) for k, v in row.items()} for row in found]
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    columns = list(dict.fromkeys(k for row in rows for k in row))
    wanted = (file_column,) if file_column else FILE_COLUMNS
    column = next((c for c in wanted if c in columns), None)
    if column is None:
        raise ValueError(
            f"{path}: no column {' or '.join(wanted)} that names files; it has "
            f"{', '.join(columns) or 'nothing'}. Pass file_column= with the column's name"
        )
    for number, row in enumerate(rows, 1):
        if column not in row:
            raise ValueError(f"{path}: row {number} has no '{column}', which names its file")
    return rows, column


def _read(path: Path, kind: str, file_column: str | None) -> list[Mapping[str, Any]]:
    if kind == "json":
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict):
            column = file_column or FILE_COLUMNS[0]
            content = [{**about, column: name} for name, about in content.items()]
    elif kind == "lines":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        content = [json.loads(line) for line in lines if line.strip()]
    else:
        import pandas as pd

        if kind == "parquet":
            table = pd.read_parquet(path)
            if any(name is not None for name in table.index.names):
                table = table.reset_index()
        else:
            texts = dict.fromkeys((*TEXT_COLUMNS, *([file_column] if file_column else [])), "str")
            table = pd.read_csv(
                path,
                sep="\t" if kind == "tsv" else ",",
                dtype=texts,
                dtype_backend="numpy_nullable",  # whole numbers stay whole beside missing ones
            )
        table = table.astype(object).where(table.notna(), None)
        content = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("expected a list of objects, or an object of objects by file")
    return content


def plain(value: Any) -> str | int | float | bool | None:
    """A table's value as text, number, truth value or None for missing; lists become JSON."""
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def unreserved(row: Mapping[str, Any]) -> Row:
    """The row with other names for the columns that a zoo has itself."""
    return {f"{k}_in_source" if k in RESERVED else k: v for k, v in row.items()}
