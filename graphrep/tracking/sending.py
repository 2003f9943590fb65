"""What sending one thing of a record to MLflow means.

Each function may be called a second time with the same thing and leaves one on the
server: metrics are known by name, step and time, parameters by name, files by place.
Knows MLflow's client; imports its entities only inside functions.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from .parameters import MAX_TAG_LENGTH, clean_key, cut
from .record import PARAMS_FILE, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_log = logging.getLogger(__name__)

METRICS_PER_CALL = 1000  # MLflow's limits of one log_batch
PARAMS_PER_CALL = 100
VIEW_TAG = "mlflow.sharedViewState."  # of an experiment: what MLflow's "share" button makes


def send_event(client: MlflowClient, record: Record, event: Mapping[str, Any]) -> None:
    """Send one line of events.jsonl, with the files it names."""
    run_id = record.state.run_id
    match event:
        case {"kind": "params"}:
            _send_params(client, record)
        case {"kind": "tags", "tags": tags}:
            _send_tags(client, run_id, tags)
        case {"kind": "artifact", "path": path}:
            parent = str(PurePosixPath(path).parent)
            client.log_artifact(run_id, str(record.folder / path), "" if parent == "." else parent)
        case {"kind": "dataset"}:
            _send_dataset(client, run_id, event)
        case {"kind": "model"}:
            _send_model(client, record, event)
        case {"kind": "view"}:
            _send_view(client, run_id, event)
        case _:
            _log.warning("%s: unknown event '%s' left out", record.folder, event.get("kind"))


def metric_batches(record: Record) -> Iterator[tuple[list[Metric], int]]:
    """Unsent metrics in calls' worth, each with the position to go on from after it."""
    from mlflow.entities import Metric

    batch: list[Metric] = []
    position = record.state.sent_metrics
    for line, behind in record.metrics(position):
        for name, value in line["values"].items():
            if len(batch) == METRICS_PER_CALL:
                yield batch, position  # this line's first values may go a second time
                batch = []
            batch.append(Metric(name, value, line["time_ms"], line["step"]))
        position = behind
    if batch:
        yield batch, position


def _send_params(client: MlflowClient, record: Record) -> None:
    """Parameters the server lacks; MLflow never changes one that it has."""
    from mlflow.entities import Param

    run_id = record.state.run_id
    wanted: dict[str, str] = json.loads((record.folder / PARAMS_FILE).read_text())
    there = client.get_run(run_id).data.params
    changed = sorted(key for key in wanted.keys() & there.keys() if wanted[key] != there[key])
    if changed:
        _log.warning(
            "run '%s' was begun with other values of %s: MLflow keeps those as parameters, "
            "config.yaml has the new ones",
            record.state.name,
            ", ".join(changed),
        )
    new = [Param(key, value) for key, value in wanted.items() if key not in there]
    for start in range(0, len(new), PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[start : start + PARAMS_PER_CALL])


def _send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(
        run_id, tags=[RunTag(key, cut(value, MAX_TAG_LENGTH)) for key, value in tags.items()]
    )


def _send_dataset(client: MlflowClient, run_id: str, event: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=event["name"],
        digest=event["digest"],
        source_type="local",
        source=json.dumps({"uri": event["source"]}),
        schema=json.dumps({"mlflow_colspec": event["columns"]}),
        profile=json.dumps({"num_rows": event["num_rows"]}),
    )
    context = InputTag("mlflow.data.context", event["context"])
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[context])])


def _send_model(client: MlflowClient, record: Record, event: Mapping[str, Any]) -> None:
    """A model's folder as a logged model: no pickle, no export, listed under Models.

    An upload that broke off goes on in the model it began.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    state, name = record.state, event["name"]
    model_id = state.models.get(name, "")
    if not model_id or client.get_logged_model(model_id).status != LoggedModelStatus.PENDING:
        model = client.create_logged_model(
            client.get_run(state.run_id).info.experiment_id,
            name=name,
            source_run_id=state.run_id,
            params=event["params"],
            model_type=event["model_type"],
        )
        model_id = state.models[name] = str(model.model_id)
        record.save()
    client.log_model_artifacts(model_id, str(record.folder / event["path"]))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(state.run_id, [LoggedModelOutput(model_id, step=0)])
    metrics = [
        Metric(clean_key(key), value, event["time_ms"], 0, model_id=model_id)
        for key, value in event["metrics"].items()
    ]
    if metrics:
        client.log_batch(state.run_id, metrics=metrics)


def view_key(benchmark_id: str) -> str:
    """The name of a benchmark's arranged list of runs in MLflow's addresses."""
    return "benchmark-" + re.sub(r"[^A-Za-z0-9]+", "-", benchmark_id)


def _send_view(client: MlflowClient, run_id: str, event: Mapping[str, Any]) -> None:
    """Arrange the list of one benchmark's runs, as MLflow's pages read it."""
    names = {f"metrics.`{name}`": name for name in event["metrics"]}
    names |= {f"params.`{name}`": name for name in event["params"]}
    state = {
        "searchFilter": f"tags.benchmark_id = '{event['benchmark_id']}'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(names),
        "columnOrder": list(names),
        "columnWidths": {column: max(80, 30 + 7 * len(name)) for column, name in names.items()},
    }
    experiment_id = client.get_run(run_id).info.experiment_id
    tag = VIEW_TAG + view_key(event["benchmark_id"])
    client.set_experiment_tag(experiment_id, tag, json.dumps(state))
