"""Stores for tests of tracking: a migrated SQLite file, and MLflow's server in a thread."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphrep.tracking import TrackingConfig
from graphrep.tracking.server import connect
from tests.tracking.local_server import LocalServer


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with all tables: making them takes seconds, copying the file none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(TrackingConfig(uri=f"sqlite:///{path}")).search_experiments()
    return path


@pytest.fixture
def config(migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    """A store of the test's own."""
    for name in ("MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def server(
    migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalServer]:
    """A server with a store of the test's own, reached quickly or not at all."""
    import mlflow
    from mlflow.server import handlers

    for name in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
        monkeypatch.setattr(handlers, name, None)
    for name in ("MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(name, raising=False)
    artifacts = tmp_path / "served"
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", artifacts.as_uri())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    shutil.copy(migrated_store, tmp_path / "server.db")
    uri_before = mlflow.get_tracking_uri()
    server = LocalServer(tmp_path / "server.db")
    yield server
    server.stop()
    mlflow.set_tracking_uri(uri_before)
