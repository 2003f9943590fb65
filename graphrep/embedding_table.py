"""Tables of embeddings: columns e0, e1, ... behind what each network is.

In memory, or as Parquet that is read part by part. Knows no models and no distances.

Letters in shapes: D of an embedding.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 16_384  # networks of a table in memory at once
MODEL_KEY = "graphrep_model"  # of a table's attributes: the digest of what embedded it


class EmbeddingTable:
    """Embeddings and what they belong to, from memory or from a file.

    Iterating gives the embeddings [n, D] in order, n up to CHUNK_ROWS. `properties` has what
    each network is, a row a network; `model` is the digest of what embedded them, if known.

    Raises:
        ValueError: no table, no embedding or no network in it.
    """

    def __init__(self, source: pd.DataFrame | np.ndarray | str | os.PathLike[str]) -> None:
        import pandas as pd

        self._path: Path | None = None
        if isinstance(source, str | os.PathLike):
            self._path = Path(source)
            names, attributes = _describe(self._path)
        else:
            if isinstance(source, np.ndarray):
                source = as_frame(source)
            names = [str(name) for name in source.columns]
            attributes = {str(name): value for name, value in source.attrs.items()}
            self._frame = source
        self.columns = [name for name in names if re.fullmatch(r"e\d+", name)]
        self.model = attributes.get(MODEL_KEY)
        self.name = "the table" if self._path is None else str(self._path)
        if not self.columns:
            raise ValueError(f"{self.name}: holds no embedding (columns e0, e1, ...)")
        others = [name for name in names if name not in self.columns]
        if self._path is not None:
            self.properties = pd.read_parquet(self._path, columns=others)
        else:
            self.properties = self._frame[others].reset_index(drop=True)
        if self.properties.empty and len(self.properties) == 0:
            raise ValueError(f"{self.name}: holds no network")

    def __iter__(self) -> Iterator[np.ndarray]:
        """Embeddings [n, D] in the table's order, n up to CHUNK_ROWS.

        Raises:
            ValueError: one is not finite.
        """
        start = 0
        for values in self._read():
            if not np.isfinite(values).all():
                row = start + int((~np.isfinite(values)).any(1).argmax())
                raise ValueError(
                    f"{self.name}: the embedding of row {row} is not finite. Leave it out; did "
                    "its training diverge?"
                )
            start += len(values)
            yield values

    def _read(self) -> Iterator[np.ndarray]:
        if self._path is None:
            values = self._frame[self.columns].to_numpy()
            for start in range(0, len(values), CHUNK_ROWS):
                yield values[start : start + CHUNK_ROWS]
            return
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self._path) as file:
            for batch in file.iter_batches(CHUNK_ROWS, columns=self.columns):
                yield batch.to_pandas()[self.columns].to_numpy()


def as_frame(values: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    if values.ndim != 2:
        raise ValueError(f"queries must be [Q, D] (two-dimensional), got {values.shape}")
    return pd.DataFrame(values, columns=[f"e{i}" for i in range(values.shape[1])])


def _describe(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Columns and attributes of a Parquet file, without reading its rows."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        schema = read_schema(path)
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as a table of embeddings: {error}") from error
    attributes = json.loads((schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    return list(schema.names), attributes


def names_of(properties: pd.DataFrame) -> pd.Series:
    """What to call each network of a table: its file, its name and epoch, or its row."""
    import pandas as pd

    if "file" in properties:
        return properties["file"].astype("str")
    if "name" not in properties:
        return pd.Series([str(row) for row in range(len(properties))], dtype="str")
    names = properties["name"].astype("str")
    if "epoch" not in properties:
        return names
    return names + " epoch " + properties["epoch"].astype("str")
