"""A tracking server that is down costs a warning: nothing raises, nothing is lost."""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path

import pandas as pd
import pytest

from graphrep.tracking import (
    Run,
    Tracker,
    TrackingConfig,
    read_metrics,
    replay,
    resolve_model,
    server as server_module,
)
from graphrep.tracking.server import connect
from tests.tracking.local_server import LocalServer

NUM_STEPS = 40


def work(run: Run, steps: range) -> None:
    for step in steps:
        run.log_metrics({"train/loss": 1 / (step + 1)}, step)
    run.log_table(pd.DataFrame({"a": [1, 2]}), f"table_{steps.start}")


def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    own = [entry for entry in caplog.records if entry.name.startswith("graphrep")]
    return [entry.getMessage() for entry in own if entry.levelno >= logging.WARNING]


def assert_all_there(config: TrackingConfig, run_id: str) -> None:
    client = connect(config)
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [*range(NUM_STEPS)]
    assert {file.path for file in client.list_artifacts(run_id, "tables")} == {
        "tables/table_0.csv",
        f"tables/table_{NUM_STEPS // 2}.csv",
    }
    assert client.get_run(run_id).data.params["seed"] == "1"
    assert client.get_run(run_id).info.status == "FINISHED"
    path = resolve_model(f"runs:/{run_id}/graph", config.uri)
    assert (path / "model.safetensors").read_bytes() == b"weights"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_up_is_told_everything_without_warnings(
    server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The control of all tests below: with nothing wrong, nothing is said."""
    config = TrackingConfig(uri=server.url, flush_size=10)
    with Tracker(config).run("r", {"seed": 1}, tmp_path / "run") as run:
        work(run, range(NUM_STEPS // 2))
        work(run, range(NUM_STEPS // 2, NUM_STEPS))
        assert run.log_model(model(tmp_path), "graph") == f"runs:/{run.id}/graph"
    assert_all_there(config, run.id)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("fault", ["refuses", "answers 500"])
def test_a_server_down_from_the_start_loses_nothing(
    fault: str, server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrackingConfig(uri=server.url, flush_size=10)
    if fault == "refuses":
        server.stop()
    server.ill = True
    folder, started = tmp_path / "run", time.monotonic()
    tracker = Tracker(config)
    with tracker.run("r", {"seed": 1}, folder) as run:
        work(run, range(NUM_STEPS // 2))
        work(run, range(NUM_STEPS // 2, NUM_STEPS))
        assert resolve_model(run.log_model(model(tmp_path), "graph")).is_relative_to(folder)
    with tracker.run("another", {}, tmp_path / "another"):
        pass
    assert time.monotonic() - started < 10
    assert server.num_requests <= 1
    (warning,) = warnings_of(caplog)
    assert server.url in warning and str(folder) in warning
    assert list(read_metrics(folder)["step"]) == [*range(NUM_STEPS)]
    assert (folder / "params.json").exists() and (folder / "tables" / "table_0.csv").exists()
    with pytest.raises(ConnectionError, match="nothing is lost"):
        replay(folder, config)

    server.ill = False
    if fault == "refuses":
        server.start()
    run_id = replay(folder, config)
    assert_all_there(config, run_id)
    assert replay(folder, config) == run_id


@pytest.mark.parametrize("fault", ["dies", "answers 500"])
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_down_in_the_middle_loses_nothing(
    fault: str,
    comes_back: bool,
    server: LocalServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if comes_back:  # otherwise it is left alone for a minute, longer than this test
        monkeypatch.setattr(server_module, "_MIN_PAUSE_S", 0.0)
        monkeypatch.setattr(server_module, "_PAUSE_PER_ATTEMPT", 0.0)
    config = TrackingConfig(uri=server.url, flush_size=10)
    started = time.monotonic()
    with Tracker(config).run("r", {"seed": 1}, tmp_path / "run") as run:
        run_id = run.id
        work(run, range(NUM_STEPS // 2))
        server.ill = True
        if fault == "dies":
            server.stop()
        work(run, range(NUM_STEPS // 2, NUM_STEPS))
        server.ill = False
        if fault == "dies":
            server.start()
        run.log_model(model(tmp_path), "graph")
    assert time.monotonic() - started < 20
    messages = warnings_of(caplog)
    assert "cannot be used" in messages[0]
    if comes_back:
        assert len(messages) == 2 and "answers again" in messages[1]
    else:
        assert len(messages) == 1
        assert connect(config).get_run(run_id).info.status == "RUNNING"
        assert replay(tmp_path / "run", config) == run_id
    assert_all_there(config, run_id)


def test_a_server_that_swallows_requests_is_given_up_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connects, never answers
        config = TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", flush_size=1)
        connect(config)
        started = time.monotonic()
        with Tracker(config).run("r", {}, tmp_path / "run") as run:
            work(run, range(NUM_STEPS))
    assert time.monotonic() - started < 8  # one attempt of 1 s, not one a step
    assert len(warnings_of(caplog)) == 1


def test_bounds_are_set_for_mlflow_but_never_over_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")  # so that it is restored
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    connect(config)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


def test_an_unsent_record_is_kept_when_its_folder_is_used_again(tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}")
    tracker = Tracker(config)
    with tracker.run("first", {}, tmp_path / "run") as run:
        work(run, range(3))
    with tracker.run("second", {}, tmp_path / "run") as run:
        run.log_metrics({"train/loss": 9.0}, 9)
    assert list(read_metrics(tmp_path / "run")["step"]) == [9]
    (kept,) = (tmp_path / "run").glob("unsent-*")
    assert list(read_metrics(kept)["step"]) == [0, 1, 2]
    assert (kept / "tables" / "table_0.csv").exists()


def test_what_a_server_refuses_for_good_does_not_hold_up_the_rest(
    server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrackingConfig(uri=server.url)
    with Tracker(config).run("r", {}, tmp_path / "run") as run:
        run.log_dataset(pd.DataFrame({"a": [1]}), "name" * 200, "source")  # too long a name
        run.log_text("after", "after.md")
    assert "after.md" in {file.path for file in connect(config).list_artifacts(run.id)}
    assert any("refused dataset" in message for message in warnings_of(caplog))


def test_a_run_deleted_at_the_server_is_made_anew(server: LocalServer, tmp_path: Path) -> None:
    config = TrackingConfig(uri=server.url)
    with Tracker(config).run("r", {}, tmp_path / "run") as first:
        first.log_metrics({"loss": 1.0}, 0)
    connect(config).delete_run(first.id)
    with Tracker(config).run("r", {}, tmp_path / "run", resume=True) as second:
        second.log_metrics({"loss": 0.5}, 1)
    assert second.id != first.id
    assert [m.step for m in connect(config).get_metric_history(second.id, "loss")] == [0, 1]


def test_a_broken_upload_of_a_model_goes_on_in_the_same_model(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def broken(self: MlflowClient, model_id: str, local_dir: str) -> None:
        raise ConnectionResetError("in the middle")

    config = TrackingConfig(uri=server.url)
    with Tracker(config).run("r", {"seed": 1}, tmp_path / "run") as run:
        run_id = run.id
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_model_artifacts", broken)
            run.log_model(model(tmp_path), "graph")
    assert replay(tmp_path / "run", config) == run_id
    path = resolve_model(f"runs:/{run_id}/graph", config.uri)
    assert (path / "model.safetensors").read_bytes() == b"weights"
    experiment = connect(config).get_run(run_id).info.experiment_id
    assert len(connect(config).search_logged_models([experiment])) == 1
