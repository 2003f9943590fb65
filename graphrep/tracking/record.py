"""The local record of one run: a folder that tells everything, whatever a server does.

    run.json       name, experiment, tags, status, the run's id, and how much a server has
    params.json    the resolved settings, flattened
    config.yaml    the same, in full
    metrics.jsonl  a line a step
    events.jsonl   a line a table, figure, model, data set, tag: the order of things to send
    tables/ figures/ models/ ...

Both .jsonl files only grow, so "how much a server has" is one number for each, and
sending now, sending after an outage, resuming and replaying are the same act. Knows
files; does not import MLflow.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole

if TYPE_CHECKING:
    import pandas as pd

RUN_FILE = "run.json"
PARAMS_FILE = "params.json"
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"


@dataclass(kw_only=True)
class RunState:
    """What run.json holds."""

    name: str
    experiment: str
    tags: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"  # RUNNING, FINISHED, FAILED or KILLED
    started_ms: int = 0
    ended_ms: int | None = None
    store_uri: str = ""  # the server that the fields below speak of
    run_id: str = ""  # empty until a server has given one
    models: dict[str, str] = field(default_factory=dict)  # name -> id on the server
    sent_events: int = 0  # bytes of events.jsonl
    sent_metrics: int = 0  # bytes of metrics.jsonl
    sent_status: str = ""


class Record:
    """One run's folder. Made by `create` or `open`, never directly."""

    def __init__(self, folder: Path, state: RunState) -> None:
        self.folder = folder
        self.state = state

    @classmethod
    def create(cls, folder: Path, *, name: str, experiment: str, tags: Mapping[str, str]) -> Record:
        """Begin a new record in `folder`.

        An earlier record there gives way. If a server was meant to have it and lacks a
        part, it is first moved to `unsent-<time>/`, from where `replay` can send it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RUN_FILE).exists():
            earlier = cls.open(folder)
            if earlier.state.store_uri and not earlier.is_sent:
                earlier.set_aside()
        for file in (METRICS_FILE, EVENTS_FILE):
            (folder / file).write_text("")
        state = RunState(name=name, experiment=experiment, tags=dict(tags), started_ms=now_ms())
        record = cls(folder, state)
        record.save()
        return record

    @classmethod
    def open(cls, folder: Path) -> Record:
        """Read the record that `folder` holds.

        Raises:
            ValueError: There is none, or run.json cannot be read.
        """
        path = folder / RUN_FILE
        try:
            state = RunState(**json.loads(path.read_text()))
        except FileNotFoundError:
            raise ValueError(f"{folder}: no recorded run here ({RUN_FILE} is missing)") from None
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path}: not a run record of this version ({error})") from error
        return cls(folder, state)

    def mend(self) -> None:
        """Cut off what a killed process left of its last lines; only for a record at rest."""
        for file in (METRICS_FILE, EVENTS_FILE):
            _drop_torn_line(self.folder / file)

    def save(self) -> None:
        """Write run.json, whole or not at all."""
        write_text(self.folder / RUN_FILE, json.dumps(asdict(self.state), indent=2) + "\n")

    @property
    def is_sent(self) -> bool:
        """Whether the server has all of it."""
        metrics_size = (self.folder / METRICS_FILE).stat().st_size
        return (
            self.events_are_sent
            and self.state.sent_metrics >= metrics_size
            and self.state.sent_status == self.state.status
        )

    @property
    def events_are_sent(self) -> bool:
        """Whether the server has every table, figure and model so far."""
        return self.state.sent_events >= (self.folder / EVENTS_FILE).stat().st_size

    def forget_server(self, store_uri: str) -> None:
        """Count nothing as sent: the record is meant for `store_uri` from here on."""
        self.state.store_uri, self.state.run_id, self.state.sent_status = store_uri, "", ""
        self.state.sent_events = self.state.sent_metrics = 0
        self.state.models = {}
        self.save()

    def append_event(self, kind: str, **details: Any) -> None:
        """Note one thing to send; files that it names must be there already."""
        _append(self.folder / EVENTS_FILE, {"kind": kind, **details})

    def append_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note metric values of one step."""
        line = {"step": step, "time_ms": now_ms(), "values": dict(values)}
        _append(self.folder / METRICS_FILE, line)

    def events(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Events from byte `start` on, each with the position behind it."""
        return _lines(self.folder / EVENTS_FILE, start)

    def metrics(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Metric lines from byte `start` on, each with the position behind it."""
        return _lines(self.folder / METRICS_FILE, start)

    def path(self, inside: str) -> Path:
        """A place for a file in the folder; its parents are made.

        Raises:
            ValueError: The place would lie outside the folder.
        """
        path = self.folder / inside
        if not path.resolve().is_relative_to(self.folder.resolve()) or path == self.folder:
            raise ValueError(f"'{inside}' is not a place inside a run's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def set_aside(self) -> Path:
        """Move the record, with the files it names, into a folder of its own."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.state.started_ms / 1000))
        aside = self.folder / f"unsent-{stamp}-{self.state.started_ms % 1000:03d}"
        names = [event["path"] for event, _ in self.events() if "path" in event]
        for name in [*names, PARAMS_FILE, CONFIG_FILE, METRICS_FILE, EVENTS_FILE, RUN_FILE]:
            source, target = self.folder / name, aside / name
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(source, target)
        return aside


def read_metrics(folder: Path) -> pd.DataFrame:
    """The metrics of a local record as columns `name`, `step`, `value`, `time_ms`.

    Where a resumed run went over steps a second time, the later value counts.
    """
    import pandas as pd

    rows = [
        (name, line["step"], value, line["time_ms"])
        for line, _ in Record.open(folder).metrics()
        for name, value in line["values"].items()
    ]
    frame = pd.DataFrame(rows, columns=["name", "step", "value", "time_ms"])
    return frame.drop_duplicates(["name", "step"], keep="last", ignore_index=True)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def write_text(path: Path, text: str) -> None:
    """Replace a file's text so that a reader sees the old or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda unfinished: unfinished.write_text(text))


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _lines(path: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    position = start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            yield json.loads(line), position


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process left of its last line."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content or not path.exists():
        path.write_bytes(whole)
