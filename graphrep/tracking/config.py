"""Where runs are recorded: the settings of a `Tracker`.

Knows how MLflow names its stores; does not import MLflow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Settings of `Tracker`; see conf/tracking/*.yaml."""

    uri: str = ""  # "": $MLFLOW_TRACKING_URI, else mlflow.db in the working directory
    experiment: str = "graphrep"
    enabled: bool = True  # False: only the local record is kept
    flush_seconds: float = 10.0  # metrics wait at most so long before they are sent
    flush_size: int = 1000  # ... and at most so many together
    system_metrics: bool = False  # CPU, memory, disk; they crowd the pages of short runs

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ValueError("tracking.experiment must not be empty")
        if self.flush_seconds < 0:
            raise ValueError(
                f"tracking.flush_seconds must not be negative, got {self.flush_seconds}"
            )
        if self.flush_size < 1:
            raise ValueError(f"tracking.flush_size must be at least 1, got {self.flush_size}")
        if self.uri and ":" not in self.uri and not self.uri.startswith("databricks"):
            raise ValueError(
                f"tracking.uri must be a URI such as http://host:5000 or sqlite:///path/mlflow.db, "
                f"got '{self.uri}'"
            )

    @property
    def store_uri(self) -> str:
        """The URI that MLflow is given; a path to a SQLite file is made absolute."""
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"{_SQLITE}mlflow.db"
        if uri.startswith(_SQLITE):
            return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
        return uri

    @property
    def database(self) -> Path | None:
        """The SQLite file of a local store, or None when the store is elsewhere."""
        if self.store_uri.startswith(_SQLITE):
            return Path(self.store_uri.removeprefix(_SQLITE))
        return None

    @property
    def artifacts(self) -> Path | None:
        """Where a local store keeps tables, figures and models: mlartifacts/ beside its file."""
        return None if self.database is None else self.database.parent / "mlartifacts"

    @property
    def is_server(self) -> bool:
        """Whether runs travel over HTTP."""
        return self.store_uri.startswith(("http://", "https://"))
