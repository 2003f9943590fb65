"""MLflow's pages on the store: serving them, and links to where they say most.

Knows MLflow's server command and the addresses of its pages.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING
from urllib.parse import urlencode

from rich.console import Console

from .config import TrackingConfig
from .sending import VIEW_TAG, view_key
from .server import connect

if TYPE_CHECKING:
    from mlflow.entities import Run

_START_LIMIT_S = 90.0
_ORDER = {"orderByKey": "attributes.start_time", "orderByAsc": "true"}  # as they were run


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The runs of one benchmark: those with one `benchmark_id`."""

    experiment_id: str
    benchmark_id: str
    summary_run_id: str = ""  # empty where the benchmark has no run tagged kind=summary
    has_view: bool = False  # whether a run arranged its columns: `Run.arrange_comparison`


@dataclass(frozen=True, kw_only=True)
class Pages:
    """A running server of MLflow's pages."""

    url: str
    comparison: Comparison | None  # the newest, if any

    def links(self) -> str:
        """Where to look, a line each."""
        places = []
        if self.comparison is not None:
            places = [
                ("newest comparison, charts", comparison_url(self.url, self.comparison)),
                ("its runs as a table", table_url(self.url, self.comparison)),
            ]
            if self.comparison.summary_run_id:
                places.append(("its summary", summary_url(self.url, self.comparison)))
        everything = f"{self.url}/#/experiments?workflowType=machine_learning"
        places.append(("all experiments", everything))
        return "\n".join(f"{name + ':':27}{url}" for name, url in places)


def comparison_url(server_url: str, comparison: Comparison) -> str:
    """The page with the charts of one benchmark's runs, the summary left out."""
    query = {
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "searchFilter": f"{_filter(comparison.benchmark_id)} and tags.kind != 'summary'",
        **_ORDER,
    }
    return f"{_runs_url(server_url, comparison)}?{urlencode(query)}"


def table_url(server_url: str, comparison: Comparison) -> str:
    """The list of one benchmark's runs, with results as columns if it has arranged them."""
    query = {"workflowType": "machine_learning"}
    if comparison.has_view:
        query["viewStateShareKey"] = view_key(comparison.benchmark_id)
    else:
        query |= {"searchFilter": _filter(comparison.benchmark_id), **_ORDER}
    return f"{_runs_url(server_url, comparison)}?{urlencode(query)}"


def summary_url(server_url: str, comparison: Comparison) -> str:
    """The page of a benchmark's summary run: description, tables, figures."""
    page = f"{_runs_url(server_url, comparison)}/{comparison.summary_run_id}"
    return f"{page}?workflowType=machine_learning"


def newest_comparison(config: TrackingConfig) -> Comparison | None:
    """The newest benchmark in the experiment that `config` names, or None."""
    client = connect(config)
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        return None

    def newest(filter_string: str) -> Run | None:
        runs = client.search_runs(
            [experiment.experiment_id],
            filter_string=filter_string,
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None

    run = newest("tags.benchmark_id != ''")
    if run is None:
        return None
    benchmark_id = run.data.tags["benchmark_id"]
    summary = newest(f"{_filter(benchmark_id)} and tags.kind = 'summary'")
    return Comparison(
        experiment_id=str(experiment.experiment_id),
        benchmark_id=benchmark_id,
        summary_run_id=str(summary.info.run_id) if summary is not None else "",
        has_view=VIEW_TAG + view_key(benchmark_id) in experiment.tags,
    )


@contextmanager
def start_ui(config: TrackingConfig, port: int = 5000) -> Iterator[Pages]:
    """Serve a local store's pages on 127.0.0.1 for as long as the block lasts (7 s to start).

    Raises:
        ValueError: There is no store, the store is a server already, or the port is taken.
        RuntimeError: MLflow's server ended or did not answer.
    """
    if config.is_server:
        raise ValueError(
            f"tracking.uri is a server already: open {config.store_uri}"
            "/#/experiments?workflowType=machine_learning"
        )
    if config.database is not None and not config.database.exists():
        raise ValueError(
            f"{config.database}: no runs recorded here yet. Run `graphrep demo` first, or name "
            "another store by tracking.uri=sqlite:///path/to/mlflow.db"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"port {port} is taken ({error.strerror}); choose another by --port"
            ) from error

    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            _command(config, port),
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        try:
            comparison = newest_comparison(config)
            _wait_until_up(url, server, log)
            yield Pages(url=url, comparison=comparison)
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def serve_ui(config: TrackingConfig, port: int = 5000) -> None:
    """Serve the pages until Ctrl-C or SIGTERM, and print where to look; errors as `start_ui`."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that MLflow's server ends too
    console.print(f"Starting MLflow's pages on {config.store_uri}, about 10 s ...")
    try:
        with start_ui(config, port) as pages:
            console.print(pages.links(), soft_wrap=True, highlight=False)
            console.print(
                "Ctrl-C ends it. (MLflow opens its Assistant beside the pages once; × closes it.)"
            )
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopped.")


def _command(config: TrackingConfig, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    command += ["--backend-store-uri", config.store_uri]
    if config.artifacts is not None:
        command += ["--artifacts-destination", str(config.artifacts)]
    return command


def _environment() -> dict[str, str]:
    """Settings under which the server is 2 processes of 0.55 GB instead of 10 of 2.2 GB."""
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **os.environ,
    }


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    give_up_at = time.monotonic() + _START_LIMIT_S
    problem = f"did not answer at {url} within {_START_LIMIT_S:.0f} s"
    while time.monotonic() < give_up_at:
        if server.poll() is not None:
            problem = f"ended with status {server.returncode}"
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    log.seek(0)
    last = log.read().decode(errors="replace").splitlines()[-10:]
    raise RuntimeError("\n".join([f"MLflow's server {problem}. Its last words:", *last]))


def _filter(benchmark_id: str) -> str:
    return f"tags.benchmark_id = '{benchmark_id}'"


def _runs_url(server_url: str, comparison: Comparison) -> str:
    return f"{server_url.rstrip('/')}/#/experiments/{comparison.experiment_id}/runs"
