"""Checkpoints that somebody keeps: a folder or a glob pattern of files, of mixed designs.

What they are is found by opening them; what is known of them comes from a table, from
their names and from the numbers that were saved beside the weights. Files are opened by
`graphrep.load_graph`'s rules, so nothing in them is executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...checkpoint import read_checkpoint
from ...graph import ParameterGraph
from ..record import Record, Skipped
from .designs import Designs, outline_of
from .property_tables import Row, read_table, unreserved
from .row_matching import About, Matched, match_rows
from .runs import Moment, find_runs
from .weight_files import find_weights

LONGEST_TEXT = 1000  # letters of a text that was saved beside weights
MOST_NAMES = 100  # of files that the zoo's header lists


class Checkpoints:
    """Files of weights as a zoo: one file one model, except where names tell a run.

    Files whose names differ in a time alone (epoch_001.pt, ckpt-5.pt, step=100.ckpt, best.pt,
    or checkpoint-100/model.safetensors) are checkpoints of one model where the first and the
    last of them have tensors of the same names, shapes and types; otherwise, and for all other
    numbers (net_3.pt), each file is a model of its own; see `runs.py`. A run is called by
    its path with a star: run1/epoch_1.pt and run1/epoch_2.pt make the model `run1/*.pt`.

    A table's row names its file by relative or absolute path, by name, stem or folder, and
    applies to the whole model or to that checkpoint of a run; several rows may name a run
    where each has the `epoch` or `step` of one checkpoint. Columns with a meaning:
    `model` (package.module:factory) and `input_shape` (1,3,32,32; several by semicolon)
    override the options for this model, `split` fixes the model's split. Factories are imported
    and called: pass only tables that you trust. Where the table and a file both know a value,
    the table's counts. Rows whose file is not there are listed as skipped.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        properties: Path | str | None = None,
        model: Any = None,
        input_shape: Sequence[Any] | str | None = None,
        recursive: bool = True,
        file_column: str | None = None,
        group: bool = True,
        epoch_pattern: str | None = None,
    ) -> None:
        """Find the files and match the table; weights are read at the ends of runs only.

        Args:
            source: A folder, a glob pattern (`runs/*/best.pt`), or one file.
            properties: CSV, TSV, JSON, JSON lines or Parquet, a row a file; see `read_table`.
            model: `package.module:factory`, for files that do not bring their design along.
            input_shape: What the models run on, as for `graphrep.load_graph`.
            recursive: Search a folder in depth.
            file_column: Of the table, naming files; by default the first of `FILE_COLUMNS`.
            group: Join checkpoints of one run; otherwise each file is a model.
            epoch_pattern: A regular expression for what tells a run's checkpoints apart in
                their relative paths, with groups `(?P<epoch>...)` or `(?P<step>...)`.

        Raises:
            ValueError: nothing there, a table that cannot be read, or rows that name no
                file at all, several files, or one file twice.
        """
        self.model = model
        self.input_shape = input_shape
        found = find_weights(source, recursive)
        self.root = found.root
        self.title = self.root.resolve().name or "checkpoints"
        self.designs = Designs()
        self._runs = find_runs(found.paths, _compile(epoch_pattern))
        if not group:
            self._runs = _apart(m for moments in self._runs.values() for m in moments)
        self._runs = _agreeing(self.root, self._runs)
        self._table, self._matched = "", Matched()
        if properties is not None:
            rows, column = read_table(Path(properties), file_column)
            self._table = Path(properties).name
            self._matched = match_rows(rows, column, Path(properties), self.root, self._runs)
        self.facts: Mapping[str, Any] = self._facts(str(source), len(found.paths)) | {
            "passed_over": dict(found.passed_over)
        }

    def names(self) -> Sequence[str]:
        """Models by path, then what the table names but is not there."""
        return [*self._runs, *self._matched.missing]

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One model with all its checkpoints."""
        if name not in self._runs:
            raise ValueError(f"{name}: named in {self._table} but not there")
        moments = self._runs[name]
        of_model = self._matched.models.get(name, About())
        graphs: list[ParameterGraph] = []
        rows: list[Row] = []
        notes: dict[str, None] = {}  # in order, each once
        own: list[About] = []
        for moment in moments:
            about = self._matched.files.get(moment.path, About())
            model = about.factory or of_model.factory or self.model
            shape = about.input_shape or of_model.input_shape or self.input_shape
            try:
                opened = self.designs.open(self.root / moment.path, model, shape)
                _require_same(opened.graph, graphs)
            except ValueError as error:
                yield Skipped(name=moment.path, reason=str(error))
                continue
            graphs.append(opened.graph)
            rows.append(row_of(opened.extra, moment.says, about.values))
            notes |= dict.fromkeys(opened.notes)
            own.append(about)
        if graphs:
            used = of_model.factory or next((a.factory for a in own if a.factory), self.model)
            properties = {**of_model.values, "notes": "; ".join(notes) or None}
            if isinstance(used, str):
                properties["factory"] = used
            yield Record.from_graphs(
                name,
                graphs,
                rows,
                properties=properties,
                split=_one_split(name, [of_model, *own]),
            )

    def _facts(self, source: str, num_files: int) -> dict[str, Any]:
        facts: dict[str, Any] = {"source": source, "num_files": num_files}
        if self._table:
            unnamed = self._matched.unnamed
            facts["properties"] = self._table
            facts["num_files_without_row"] = len(unnamed)
            facts["files_without_row"] = unnamed[:MOST_NAMES]
            facts["num_rows_without_file"] = len(self._matched.missing)
        return facts


def row_of(extra: Mapping[str, Any], says: Mapping[str, Any], told: Mapping[str, Any]) -> Row:
    """A checkpoint's row: what was saved beside it, then its name, then the table, each surer.

    A number that the name overrides is kept as `<name>_in_file`.
    """
    row = unreserved({k: v[:LONGEST_TEXT] if isinstance(v, str) else v for k, v in extra.items()})
    for key, value in says.items():
        if row.get(key, value) != value:
            row[f"{key}_in_file"] = row[key]
        row[key] = value
    return {**row, **told}


def _require_same(graph: ParameterGraph, others: Sequence[ParameterGraph]) -> None:
    if others and graph.architecture != others[0].architecture:
        raise ValueError(
            "is of another architecture than the checkpoints before it in its run; pass "
            "group=False to import each file as a model of its own"
        )


def _one_split(name: str, abouts: Sequence[About]) -> str | None:
    splits = sorted({about.split for about in abouts if about.split})
    if len(splits) > 1:
        raise ValueError(f"{name}: its checkpoints lie in {' and '.join(splits)}, expected one")
    return splits[0] if splits else None


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"epoch_pattern '{pattern}': {error}") from error
    if not {"epoch", "step"} & set(compiled.groupindex):
        raise ValueError(
            f"epoch_pattern '{pattern}': expected a group (?P<epoch>\\d+) or (?P<step>\\d+)"
        )
    return compiled


def _apart(moments: Any) -> dict[str, list[Moment]]:
    return {m.path: [m] for m in sorted(moments, key=lambda m: m.path)}


def _agreeing(root: Path, runs: Mapping[str, list[Moment]]) -> dict[str, list[Moment]]:
    """Runs whose first and last file hold the same tensors; the files of others stand alone."""
    result: dict[str, list[Moment]] = {}
    for name, moments in runs.items():
        ends = moments[:: len(moments) - 1] if len(moments) > 1 else ()
        outlines = {_outline(root, moment) for moment in ends} - {None}
        if len(outlines) > 1:
            result |= _apart(moments)
        else:
            result[name] = moments
    return result


def _outline(root: Path, moment: Moment) -> Any:
    """None for files that have none of their own, such as ONNX, or that cannot be read."""
    try:
        return outline_of(read_checkpoint(root / moment.path))
    except ValueError:
        return None
