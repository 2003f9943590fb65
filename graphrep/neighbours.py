"""Nearest networks by their embeddings: what a network resembles, or is a copy of.

Knows metrics and the search; how a table of embeddings is read stands in `embedding_table`.
Knows no weights and no models.

Letters in shapes: N networks of the table, Q queries, D of an embedding, K found for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .embedding_table import EmbeddingTable, names_of
from .files import write_whole
from .zoo.population import main_metric, settings
from .zoo.recipe import check_choice

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("whitened", "standardised", "cosine")
_SHOWN_SETTINGS = 4
_LEAST_SHRINKAGE = 0.05
_ROUNDING = 1e-4  # of a column's mean: a smaller spread is rounding, not a difference


class Space:
    """Where distances are taken: embeddings as a metric sees them, fitted on a table.

    whitened: columns of mean 0 and deviation 1 over the table, turned so that none goes with
    another (W = C^-1/2 of their correlation C), then the mean absolute difference; C is shrunk
    towards the identity by D / (D + N), at least 5 %, since few networks do not say what goes
    with what. standardised: Euclidean distance without the turn. cosine: embeddings as they
    are. Columns that are the same for the whole table are left out.

    Measured by benchmarks/find_parents.py: the turn is what finds the parents of networks that
    were trained on, and absolute instead of squared differences what finds those of pruned
    ones, of which few columns are far off.

    Source: Kessy, Lewin, Strimmer 2018, arXiv:1512.00809 (ZCA-cor); the shrinkage is ours.

    Args:
        metric: One of `METRICS`.
        chunks: The table's embeddings [n, D], part by part; gone through twice.
    """

    def __init__(self, metric: str, chunks: Iterable[np.ndarray]) -> None:
        from sklearn.preprocessing import StandardScaler

        check_choice("metric", metric, METRICS)
        self.distance = {"whitened": "manhattan", "standardised": "euclidean"}.get(metric, metric)
        self._turn: np.ndarray | None = None
        self._scaler: StandardScaler | None = None
        if metric == "cosine":
            return
        self._scaler = StandardScaler()
        for values in chunks:
            self._scaler.partial_fit(values.astype(np.float64))
        self._varies = self._scaler.var_ > 0
        if not self._varies.any():  # one network, or all alike: the queries may differ
            self._varies[:] = True
        rounding = _ROUNDING * np.abs(self._scaler.mean_)
        self._scaler.scale_ = np.maximum(self._scaler.scale_, rounding)
        if metric == "whitened":
            dim = int(self._varies.sum())
            products = np.zeros((dim, dim))
            for part in map(self, chunks):
                products += part.T @ part
            num = int(self._scaler.n_samples_seen_)
            self._turn = _inverse_root(products / num, shrinkage(num, dim)) / dim

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Embeddings [n, D] as float64 vectors of this space, [n, D] or fewer columns."""
        values = values.astype(np.float64)
        if self._scaler is None:
            return values
        values = self._scaler.transform(values)[:, self._varies]
        return values if self._turn is None else values @ self._turn


def shrinkage(num: int, dim: int) -> float:
    """How far the correlation of `dim` columns over `num` networks moves to the identity."""
    return max(_LEAST_SHRINKAGE, dim / (dim + num))


def _inverse_root(correlation: np.ndarray, share: float) -> np.ndarray:
    """C^-1/2 of a correlation [D, D], shrunk towards the identity by this share."""
    found, vectors = np.linalg.eigh(correlation)
    found = (1 - share) * np.maximum(found, 0) + share
    return (vectors * found**-0.5) @ vectors.T


def nearest(
    table: pd.DataFrame | str | os.PathLike[str],
    queries: pd.DataFrame | np.ndarray | None = None,
    num: int = 5,
    metric: str = METRICS[0],
) -> pd.DataFrame:
    """The networks of a table that are nearest to each query, a row a network found.

    Args:
        table: What `graphrep.embedding.embed_to_parquet` gives or has written; a file is
            read part by part.
        queries: Embeddings [Q, D] by the same model, or a table of them. None searches the
            nearest others of each of the table's own networks.
        num: K, at most the table's networks.
        metric: "whitened", "standardised" or "cosine", see `Space`.

    Returns:
        Columns `query` (what it is, as `names_of` says), `query_row`, `rank` (1 is nearest),
        `distance`, `row` (in the table), then the table's own but for the embedding. Of
        equally distant ones that which stands first in the table comes first.

    Raises:
        ValueError: num below 1, an unknown metric, no embedding in a table, one of another
            width or by another model, or one that is not finite.
    """
    import pandas as pd

    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    searched = EmbeddingTable(table)
    own = queries is None
    asked = EmbeddingTable(table if queries is None else queries)
    _require_match(searched, asked)
    space = Space(metric, searched)
    wanted = space(np.concatenate(list(asked)))
    distances, rows = _search(searched, space, wanted, num + own)
    if own:
        distances, rows = _without_own(distances, rows)
    num_queries, found = rows.shape
    names = names_of(asked.properties).to_numpy()
    result = pd.DataFrame(
        {
            "query": np.repeat(names, found),
            "query_row": np.repeat(np.arange(num_queries), found),
            "rank": np.tile(np.arange(1, found + 1), num_queries),
            "distance": distances.ravel(),
            "row": rows.ravel(),
        }
    )
    about = searched.properties.iloc[rows.ravel()].reset_index(drop=True)
    taken = [name for name in about.columns if name in result.columns]
    about = about.rename(columns={name: f"{name}_found" for name in taken})
    return pd.concat([result, about], axis=1)


def check_ending(output: Path) -> None:
    """Raise ValueError for a file that `write_neighbours` cannot write."""
    if output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: neighbours are written as .csv or .parquet")


def write_neighbours(found: pd.DataFrame, output: Path) -> None:
    """What `nearest` gives as CSV or Parquet, by the file's ending.

    Raises:
        ValueError: another ending.
    """
    check_ending(output)
    write = found.to_parquet if output.suffix == ".parquet" else found.to_csv
    write_whole(output, partial(write, index=False))


def summarise(found: pd.DataFrame, table: pd.DataFrame | str | os.PathLike[str]) -> pd.DataFrame:
    """The columns of `nearest` that fit on a terminal: which network, how good, how made.

    Args:
        table: What was searched; settings that vary in it are shown.
    """
    searched = EmbeddingTable(table).properties
    about = found.drop(columns=["query", "query_row", "rank", "distance", "row"])
    shown = found[["query", "rank", "distance"]].copy()
    shown["network"] = names_of(about).to_numpy()
    metric = main_metric(searched)
    varied = settings(searched) if "model" in searched else []
    chosen = [*([metric] if metric else []), *varied[:_SHOWN_SETTINGS]]
    return shown.assign(**{name: about[name].to_numpy() for name in chosen})


def _search(
    table: EmbeddingTable, space: Space, wanted: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows [Q, K] of the nearest, part by part of the table."""
    from sklearn.neighbors import NearestNeighbors

    distances = np.empty((len(wanted), 0))
    rows = np.empty((len(wanted), 0), np.int64)
    start = 0
    for values in table:
        fitted = NearestNeighbors(
            n_neighbors=min(num, len(values)), algorithm="brute", metric=space.distance
        ).fit(space(values))
        near, index = fitted.kneighbors(wanted)
        distances = np.concatenate([distances, near], 1)
        rows = np.concatenate([rows, index + start], 1)
        order = np.lexsort((rows, distances))[:, :num]
        distances = np.take_along_axis(distances, order, 1)
        rows = np.take_along_axis(rows, order, 1)
        start += len(values)
    return distances, rows


def _without_own(distances: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All but each network itself, which equals may have pushed from its own list."""
    own = rows == np.arange(len(rows))[:, None]
    own[~own.any(1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return distances[~own].reshape(shape), rows[~own].reshape(shape)


def _require_match(table: EmbeddingTable, queries: EmbeddingTable) -> None:
    if len(table.columns) != len(queries.columns):
        raise ValueError(
            f"{table.name} holds embeddings of {len(table.columns)} numbers, the queries "
            f"{len(queries.columns)}: were they embedded by one model?"
        )
    if None not in (table.model, queries.model) and table.model != queries.model:
        raise ValueError(
            f"{table.name} was embedded by another model than the queries (digest "
            f"{str(table.model)[:8]} there, {str(queries.model)[:8]} here). Embed it anew"
        )
