"""Links to MLflow's pages lead to the newest comparison; serving them fails clearly."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from graphrep.tracking import (
    Comparison,
    Tracker,
    TrackingConfig,
    comparison_url,
    newest_comparison,
    start_ui,
    table_url,
)
from graphrep.tracking.server import connect


def benchmark(config: TrackingConfig, folder: Path, benchmark_id: str) -> None:
    tracker = Tracker(config)
    for encoder in ("graph", "token"):
        tags = {"benchmark_id": benchmark_id, "kind": "encoder"}
        with tracker.run(encoder, {}, folder / benchmark_id / encoder, tags=tags) as run:
            run.log_metrics({"probe/r2": 0.5}, 0)
    tags = {"benchmark_id": benchmark_id, "kind": "summary"}
    with tracker.run("summary", {}, folder / benchmark_id / "summary", tags=tags) as run:
        run.arrange_comparison(benchmark_id, metrics=["probe/r2"])


def query_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(urlsplit(url).fragment).query)


def test_the_newest_benchmark_is_found_and_linked(config: TrackingConfig, tmp_path: Path) -> None:
    assert newest_comparison(config) is None
    with Tracker(config).run("alone", {}, tmp_path / "alone"):
        pass
    assert newest_comparison(config) is None
    benchmark(config, tmp_path, "first one")
    benchmark(config, tmp_path, "second one")
    comparison = newest_comparison(config)
    assert comparison is not None and comparison.benchmark_id == "second one"
    summary = connect(config).get_run(comparison.summary_run_id)
    assert summary.data.tags["kind"] == "summary"
    assert summary.data.tags["benchmark_id"] == "second one"

    query = query_of(comparison_url("http://host:5000/", comparison))
    assert query["compareRunsMode"] == ["CHART"]
    assert query["workflowType"] == ["machine_learning"]
    found = connect(config).search_runs([comparison.experiment_id], query["searchFilter"][0])
    assert sorted(run.info.run_name for run in found) == ["graph", "token"]
    assert query_of(table_url("http://host", comparison))["viewStateShareKey"] == [
        "benchmark-second-one"
    ]
    plain = Comparison(experiment_id="1", benchmark_id="x")
    assert "viewStateShareKey" not in query_of(table_url("http://host", plain))


def test_pages_without_a_store_are_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no runs recorded here yet"),
        start_ui(TrackingConfig(uri=f"sqlite:///{tmp_path}/none.db")),
    ):
        pass
    with (
        pytest.raises(ValueError, match="a server already: open http://host"),
        start_ui(TrackingConfig(uri="http://host:5000")),
    ):
        pass


def test_a_taken_port_is_a_clear_error(config: TrackingConfig) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is taken"), start_ui(config, port):
            pass


@pytest.mark.slow
def test_pages_are_served_and_end(config: TrackingConfig, tmp_path: Path) -> None:
    benchmark(config, tmp_path, "b1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with start_ui(config, port) as pages:
        assert pages.comparison is not None and pages.comparison.benchmark_id == "b1"
        assert comparison_url(pages.url, pages.comparison) in pages.links()
        with urllib.request.urlopen(pages.url, timeout=10) as answer:
            assert b"<title>MLflow</title>" in answer.read()
    with pytest.raises(OSError):
        urllib.request.urlopen(pages.url, timeout=2)
