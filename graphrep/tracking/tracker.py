"""Opening and closing runs: the one object a command makes to be recorded.

Knows which process may write (rank 0), how a run ends, and how it is taken up again.
Knows neither MLflow's API nor weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import TrackingConfig
from .parameters import clean_key, flatten, plain, provenance
from .record import CONFIG_FILE, PARAMS_FILE, RUN_FILE, Record, write_text
from .run import RecordedRun, Run
from .server import Server, in_short


class Tracker:
    """Records runs in their folders and in MLflow; see `TrackingConfig`.

    One tracker serves any number of runs, one after another, and shares what it learns
    about the server between them. Nothing the server does raises here.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._server = Server(config) if config.enabled else None

    @contextmanager
    def run(
        self,
        name: str,
        params: Mapping[str, Any],
        folder: Path,
        *,
        tags: Mapping[str, str] | None = None,
        colour: str = "",
        resume: bool = False,
    ) -> Iterator[Run]:
        """Record one run: FINISHED at the end, FAILED on an exception, KILLED on Ctrl-C.

        Args:
            name: What the run is called in lists; short, told apart by encoder and seed.
            params: The whole resolved config, nested or flat; commit and versions are added.
            folder: The run's own folder for its local record.
            tags: Labels to search by; `benchmark_id` ties a comparison together.
            colour: Of the run in MLflow's charts, as #RRGGBB; empty for MLflow's choice.
            resume: Go on in the run that `folder` holds, if it holds one.

        Yields:
            The run; on ranks above 0 of a torchrun, one that records nothing.
        """
        if int(os.environ.get("RANK", "0")) != 0:
            yield Run()
            return
        labels = {clean_key(key): str(value) for key, value in (tags or {}).items()}
        if colour:
            labels["mlflow.runColor"] = colour
        run = self._open(name, params, folder, labels, resume)
        try:
            yield run
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            run.finish("KILLED")
            raise
        except BaseException as error:
            run.set_tags({"error": f"{type(error).__name__}: {in_short(error)}"})
            run.finish("FAILED")
            raise
        run.finish("FINISHED")

    def _open(
        self,
        name: str,
        params: Mapping[str, Any],
        folder: Path,
        tags: Mapping[str, str],
        resume: bool,
    ) -> RecordedRun:
        from omegaconf import OmegaConf

        if resume and (folder / RUN_FILE).exists():
            record = Record.open(folder)
            record.mend()
            record.state.status, record.state.ended_ms = "RUNNING", None
        else:
            record = Record.create(
                folder,
                name=name,
                experiment=self.config.experiment,
                tags=tags,
            )
        if self._server is not None and not record.state.store_uri:
            record.state.store_uri = self.config.store_uri
        record.save()
        write_text(folder / PARAMS_FILE, json.dumps(flatten(params) | provenance(), indent=2))
        write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(plain(params))))
        run = RecordedRun(record, self._server, self.config)
        run.note_params()
        if resume and tags:
            run.set_tags(tags)
        return run


def replay(folder: Path, config: TrackingConfig) -> str:
    """Send a locally kept run to MLflow: all of it, or what the server lacks.

    A record whose process died before it could say so is sent as KILLED. The process
    must have ended: two would count differently what was sent.

    Returns:
        The run's id on the server.

    Raises:
        ValueError: `folder` holds no record.
        ConnectionError: The server failed; what it took by then stays, and a later call
            goes on from there.
    """
    record = Record.open(folder)
    record.mend()
    if record.state.status == "RUNNING":
        last = max(path.stat().st_mtime for path in folder.glob("*.jsonl"))
        record.state.status, record.state.ended_ms = "KILLED", int(last * 1000)
    server = Server(config)
    if not server.send(record):
        assert server.last_error is not None
        raise ConnectionError(
            f"{folder}: MLflow at {config.store_uri} did not take the run "
            f"({in_short(server.last_error)}); nothing is lost, try again later"
        ) from server.last_error
    return record.state.run_id
