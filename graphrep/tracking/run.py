"""What a run records while it goes on: the object that loops and commands are handed.

`Run` itself records nothing, so a loop can take `run: Run = Run()` and never ask.
`RecordedRun` writes everything to its folder at once and brings it to MLflow in batches.
Knows neither MLflow's API nor weights.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .config import TrackingConfig
from .parameters import MAX_TAG_LENGTH, clean_key
from .record import Record, now_ms
from .server import Server

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class Figure(Protocol):
    """What can be drawn to a file: a matplotlib Figure."""

    def savefig(self, fname: Any, **kwargs: Any) -> None: ...


class Run:
    """A run that records nothing: other ranks, tests, loops without tracking."""

    @property
    def id(self) -> str:
        """MLflow's id of the run; empty while no server has given one."""
        return ""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers of one step; the part of a name before `/` becomes a section."""

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Record a table as tables/<name>.csv, which MLflow's pages show as a table."""

    def log_figure(self, figure: Figure, name: str) -> None:
        """Record a picture as figures/<name>.png."""

    def log_text(self, text: str, name: str) -> None:
        """Record a text under its name with ending, such as `notes.md`."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file or a whole folder, in a folder of the run's artifacts."""

    def log_dataset(
        self, table: pd.DataFrame, name: str, source: str | Path, context: str = "training"
    ) -> None:
        """Record which data were used: columns, size and digest, not the rows."""

    def log_model(
        self,
        folder: Path,
        name: str,
        *,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        model_type: str = "",
    ) -> str:
        """Record a trained model's folder (config.json, model.safetensors, README.md).

        Returns:
            What `resolve_model` turns back into a folder: `runs:/<run id>/<name>`, or a
            local path while no server has the model.
        """
        return str(folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Label the run, to be searched by."""

    def set_description(self, markdown: str) -> None:
        """Set the text at the top of the run's page; tables render."""

    def arrange_comparison(
        self, benchmark_id: str, metrics: Sequence[str], params: Sequence[str] = ("seed",)
    ) -> None:
        """Choose which results stand as columns in MLflow's list of a benchmark's runs."""

    def flush(self) -> None:
        """Send now what waits to be sent."""


class RecordedRun(Run):
    """A run with a folder, followed by a server; made by `Tracker.run`."""

    def __init__(self, record: Record, server: Server | None, config: TrackingConfig) -> None:
        self._record = record
        self._server = server
        self._config = config
        self._waiting = 0  # metrics since the last sending
        self._sent_at = time.monotonic()
        self._monitor: SystemMetricsMonitor | None = None

    @property
    def id(self) -> str:
        return self._record.state.run_id

    @property
    def folder(self) -> Path:
        """Where the local record lies."""
        return self._record.folder

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        cleaned = {clean_key(name): float(value) for name, value in values.items()}
        self._record.append_metrics(cleaned, int(step))
        self._waiting += len(cleaned)
        waited_s = time.monotonic() - self._sent_at
        if self._waiting >= self._config.flush_size or waited_s >= self._config.flush_seconds:
            self.flush()

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        import pandas as pd

        path = self._record.path(f"tables/{name}.csv")
        numbered = isinstance(table.index, pd.RangeIndex)
        table.to_csv(path, index=not numbered, float_format="%.6g")
        self._note("artifact", path=f"tables/{name}.csv")

    def log_figure(self, figure: Figure, name: str) -> None:
        path = self._record.path(f"figures/{name}.png")
        figure.savefig(path, dpi=150, bbox_inches="tight")
        self._note("artifact", path=f"figures/{name}.png")

    def log_text(self, text: str, name: str) -> None:
        self._record.path(name).write_text(text)
        self._note("artifact", path=name)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._note("artifact", path=self._keep(path, f"{folder}/{path.name}".lstrip("/")))

    def log_dataset(
        self, table: pd.DataFrame, name: str, source: str | Path, context: str = "training"
    ) -> None:
        from pandas.util import hash_pandas_object

        rows = hash_pandas_object(table.astype("str"), index=False).to_numpy().tobytes()
        self._note(
            "dataset",
            name=name,
            digest=hashlib.sha256(rows).hexdigest()[:8],
            source=str(source),
            context=context,
            num_rows=len(table),
            columns=[
                {"name": str(column), "type": _column_type(str(dtype)), "required": True}
                for column, dtype in table.dtypes.items()
            ],
        )

    def log_model(
        self,
        folder: Path,
        name: str,
        *,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        model_type: str = "",
    ) -> str:
        name = "".join("_" if character in "/:.%\"'" else character for character in name)
        kept = self._keep(folder, f"models/{name}")
        self._note(
            "model",
            name=name,
            path=kept,
            metrics={key: float(value) for key, value in (metrics or {}).items()},
            params={key: str(value) for key, value in (params or {}).items()},
            model_type=model_type,
            time_ms=now_ms(),
        )
        if self._server is not None and self._record.events_are_sent:
            return f"runs:/{self.id}/{name}"
        return str(self._record.folder / kept)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._note("tags", tags={clean_key(key): str(value) for key, value in tags.items()})

    def set_description(self, markdown: str) -> None:
        if len(markdown) > MAX_TAG_LENGTH:
            self.log_text(markdown, "description.md")
        self._note("tags", tags={"mlflow.note.content": markdown})

    def arrange_comparison(
        self, benchmark_id: str, metrics: Sequence[str], params: Sequence[str] = ("seed",)
    ) -> None:
        self._note("view", benchmark_id=benchmark_id, metrics=list(metrics), params=list(params))

    def flush(self) -> None:
        self._waiting, self._sent_at = 0, time.monotonic()
        if self._server is not None and self._server.send(self._record):
            self._watch_machine()

    def note_params(self) -> None:
        """Send params.json and config.yaml, which lie in the folder."""
        self._record.append_event("params")
        self._note("artifact", path="config.yaml")

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED and send the rest."""
        if self._monitor is not None:
            self._monitor.finish()
        self._record.state.status, self._record.state.ended_ms = status, now_ms()
        self._record.save()
        self.flush()

    def _watch_machine(self) -> None:
        """Begin MLflow's own record of CPU, memory, disk and GPU, if wanted."""
        if not self._config.system_metrics or self._monitor is not None:
            return

        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self.id, resume_logging=True, tracking_uri=self._config.store_uri
        )
        self._monitor.start()

    def _note(self, kind: str, **details: Any) -> None:
        self._record.append_event(kind, **details)
        self.flush()

    def _keep(self, path: Path, place: str) -> str:
        """Copy a file or folder into the record, unless it lies in it; its place there."""
        if path.resolve().is_relative_to(self._record.folder.resolve()):
            return path.resolve().relative_to(self._record.folder.resolve()).as_posix()
        target = self._record.path(place)
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
        else:
            shutil.copy2(path, target)
        return place


def _column_type(dtype: str) -> str:
    """MLflow's name of a pandas column type."""
    match dtype:
        case _ if dtype.startswith(("int", "uint", "Int", "UInt")):
            return "long"
        case _ if dtype.startswith(("float", "Float")):
            return "double"
        case "bool" | "boolean":
            return "boolean"
        case _ if dtype.startswith("datetime"):
            return "datetime"
        case _:
            return "string"
