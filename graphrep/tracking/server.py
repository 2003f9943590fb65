"""Bringing local records to MLflow, without ever being in the way of a training.

A `Server` follows a `Record`: it sends what the record holds beyond what was sent, and
stops at the first thing that fails, to go on from there another time. After a failure
it leaves the server alone for at least twenty times as long as the failed attempt took,
so an outage costs a training at most a twentieth of its time.

Knows when to send and when not to; what sending a thing means stands in `sending`.
"""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from . import sending
from .config import TrackingConfig
from .parameters import MAX_TAG_LENGTH, cut
from .record import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

_MIN_PAUSE_S = 60.0
_PAUSE_PER_ATTEMPT = 20.0
# Errors that stay errors however often a thing is sent: it is left out, with a warning.
_LASTING_ERRORS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "FEATURE_DISABLED"}


class Server:
    """A tracking server as far as it can be reached; see the module's text."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self.last_error: Exception | None = None
        self._client: MlflowClient | None = None
        self._retry_at = 0.0  # on the monotonic clock
        self._away = False
        self._known_runs: set[str] = set()

    def send(self, record: Record) -> bool:
        """Send what `record` holds beyond what was sent.

        Returns:
            Whether the server now has all of it. False after a failure, which is told
            in one warning an outage, and while the server is left alone.
        """
        if time.monotonic() < self._retry_at:
            return False
        started = time.monotonic()
        try:
            self._send_all(record)
        # Whatever a server, a proxy, a database or an artifact store can raise: the
        # record is kept, the training goes on, and the cause stands in the warning.
        except Exception as error:
            self._leave_alone(error, time.monotonic() - started, record.folder)
            return False
        if self._away:
            _log.warning("MLflow at %s answers again; nothing is lost", self.config.store_uri)
        self._away, self.last_error = False, None
        return True

    def client(self) -> MlflowClient:
        """MLflow's client, made at the first call (3 to 5 s; a new SQLite store 6 to 12 s)."""
        if self._client is None:
            self._client = connect(self.config)
        return self._client

    def _leave_alone(self, error: Exception, cost_s: float, folder: Path) -> None:
        self._retry_at = time.monotonic() + max(_MIN_PAUSE_S, _PAUSE_PER_ATTEMPT * cost_s)
        self.last_error = error
        _log.debug("MLflow failed", exc_info=error)
        if not self._away:
            _log.warning(
                "MLflow at %s cannot be used (%s). The run goes on and is recorded in %s; what "
                "was missed is sent once the server answers, or by graphrep.tracking.replay.",
                self.config.store_uri,
                in_short(error),
                folder,
            )
        self._away = True

    def _send_all(self, record: Record) -> None:
        state, client = record.state, self.client()
        self._settle_run_id(record)
        if state.status == "RUNNING" and state.sent_status not in ("", "RUNNING"):
            client.update_run(state.run_id, status="RUNNING")  # taken up again
        # Metrics first: they arrive even where artifacts have no place to go.
        for metrics, position in sending.metric_batches(record):
            with _leaving_out_what_cannot_be_sent(record, "metrics"):
                client.log_batch(state.run_id, metrics=metrics)
            state.sent_metrics = position
            record.save()
        for event, position in record.events(state.sent_events):
            with _leaving_out_what_cannot_be_sent(record, event["kind"]):
                sending.send_event(client, record, event)
            state.sent_events = position
            record.save()
        if state.status != "RUNNING" and state.sent_status != state.status:
            client.set_terminated(state.run_id, state.status, state.ended_ms)
        state.sent_status = state.status
        record.save()

    def _settle_run_id(self, record: Record) -> None:
        """See that the record's run is there: known, found again, or created."""
        state = record.state
        if state.store_uri != self.config.store_uri:
            record.forget_server(self.config.store_uri)
        if state.run_id in self._known_runs:
            return
        if state.run_id and not _exists(self.client(), state.run_id):
            record.forget_server(self.config.store_uri)
        if not state.run_id:
            state.run_id = self._create_run(record)
            record.save()
        self._known_runs.add(state.run_id)

    def _create_run(self, record: Record) -> str:
        state = record.state
        tags = {
            "mlflow.user": _user(),
            "mlflow.source.name": " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]),
            "mlflow.source.type": "LOCAL",
            **state.tags,
        }
        run = self.client().create_run(
            find_or_create_experiment(self.client(), state.experiment, self.config),
            start_time=state.started_ms,
            tags={key: cut(value, MAX_TAG_LENGTH) for key, value in tags.items()},
            run_name=state.name,
        )
        return str(run.info.run_id)


def connect(config: TrackingConfig) -> MlflowClient:
    """A client of the store that `config` names; a local store is made where absent.

    Bounds MLflow's retries (by default 7, over four minutes), unless the user has set
    bounds in the environment. Never touches MLflow's global state.
    """
    if config.is_server:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        # MLflow prints two lines a run into progress bars.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow.store.db.utils"):  # a line for each of its migrations
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # our warning says it

    from mlflow import MlflowClient

    if config.database is None:
        return MlflowClient(tracking_uri=config.store_uri, registry_uri=config.store_uri)
    with _alone_in(config.database.parent):
        if not config.database.exists():
            notice = f"Making MLflow's store {config.database}: once, about 10 s ..."
            Console(stderr=True).print(notice, soft_wrap=True, highlight=False)
        client = MlflowClient(tracking_uri=config.store_uri, registry_uri=config.store_uri)
        client.search_experiments(max_results=1)  # makes or migrates the tables
    return client


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out while a store's tables are made: MLflow's own lock does not."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def find_or_create_experiment(client: MlflowClient, name: str, config: TrackingConfig) -> str:
    """The id of an experiment; several processes may ask at once."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if experiment is not None:
        return str(experiment.experiment_id)
    place = None
    if config.artifacts is not None:
        place = (config.artifacts / name.replace("/", "_")).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        return str(experiment.experiment_id)


def in_short(error: BaseException) -> str:
    """The cause of an error in a line: MLflow wraps causes in paragraphs."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if within := re.search(r"Caused by (\w+\(.*\))\)", text):
        text = within[1]
    return text if len(text) <= 200 else text[:200] + " ..."


def _exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the store still has the run; someone may have deleted it, or the store."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


@contextmanager
def _leaving_out_what_cannot_be_sent(record: Record, kind: str) -> Iterator[None]:
    """Turn refusals that would be repeated for ever into warnings."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _LASTING_ERRORS:
            raise
        _log.warning(
            "MLflow refused %s of run '%s' (%s); they stay in %s",
            kind,
            record.state.name,
            in_short(error),
            record.folder,
        )
    except FileNotFoundError as error:
        _log.warning("%s: gone before it was sent to MLflow", error.filename)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
