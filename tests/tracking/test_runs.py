"""What is recorded comes back: from the folder, from MLflow, and after a resumed run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from graphrep.tracking import Run, Tracker, TrackingConfig, read_metrics, replay, resolve_model
from graphrep.tracking.parameters import clean_key
from graphrep.tracking.record import Record
from graphrep.tracking.run import RecordedRun
from graphrep.tracking.server import Server, connect

PARAMS = {"encoder": {"name": "graph", "dims": [8, 8]}, "seed": 3, "text": "long " * 2000}
TABLE = pd.DataFrame({"encoder": ["graph", "token"], "r2": [0.93, 0.125]})


def model_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"encoder": "graph"}')
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (path / "README.md").write_text("# graph\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def steps_at_server(config: TrackingConfig, run_id: str, name: str) -> list[tuple[int, float]]:
    history = connect(config).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def record(tracker: Tracker, folder: Path, num_steps: int = 25, **options: object) -> str:
    with tracker.run("graph seed 3", PARAMS, folder, **options) as run:  # type: ignore[arg-type]
        for step in range(num_steps):
            run.log_metrics({"train/loss": 1 / (step + 1), "train/rate": 0.1 * step}, step)
        run.log_table(TABLE, "results")
        return run.id


def test_metrics_params_tables_and_tags_come_back(config: TrackingConfig, tmp_path: Path) -> None:
    run_id = record(Tracker(config), tmp_path / "run", tags={"benchmark_id": "b1"})
    run = connect(config).get_run(run_id)
    assert steps_at_server(config, run_id, "train/loss") == [(i, 1 / (i + 1)) for i in range(25)]
    assert run.data.params["encoder.name"] == "graph" and run.data.params["seed"] == "3"
    assert run.data.params.keys() >= {"git_commit", "git_dirty", "torch_version"}
    assert run.data.tags["benchmark_id"] == "b1"
    assert run.info.status == "FINISHED"
    path = Path(connect(config).download_artifacts(run_id, "tables/results.csv"))
    pd.testing.assert_frame_equal(pd.read_csv(path), TABLE)
    assert read_metrics(tmp_path / "run").groupby("name").size().to_dict() == {
        "train/loss": 25,
        "train/rate": 25,
    }


def test_values_that_are_no_numbers_come_back(config: TrackingConfig, tmp_path: Path) -> None:
    with Tracker(config).run("r", {}, tmp_path / "run") as run:
        run.log_metrics({"loss": math.nan}, 0)
        run.log_metrics({"loss": math.inf}, 1)
        run.log_metrics({"loss": 0.5}, 2)
    assert [s for s, _ in steps_at_server(config, run.id, "loss")] == [0, 1, 2]


def test_a_long_value_is_cut_and_whole_in_the_config(
    config: TrackingConfig, tmp_path: Path
) -> None:
    run_id = record(Tracker(config), tmp_path / "run")
    value = connect(config).get_run(run_id).data.params["text"]
    assert len(value) == 6000 and value.endswith("config.yaml)")
    path = Path(connect(config).download_artifacts(run_id, "config.yaml"))
    assert OmegaConf.to_container(OmegaConf.load(path)) == PARAMS


def test_ten_thousand_metrics_travel_in_few_calls(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    calls: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        calls.append(len(metrics))
        return log_batch(self, run_id, metrics, params, tags, synchronous)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    with Tracker(config).run("r", {}, tmp_path / "run") as run:
        for step in range(2500):
            run.log_metrics({f"m{i}": float(step) for i in range(4)}, step)
    assert sum(calls) == 10_000
    assert len(calls) <= 20
    assert len(steps_at_server(config, run.id, "m3")) == 2500


def test_a_model_comes_back_byte_for_byte(config: TrackingConfig, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    with Tracker(config).run("r", {}, tmp_path / "run") as run:
        uri = run.log_model(folder, "graph", metrics={"tau": 0.8}, params={"dim": 8})
        (folder / "config.json").write_text("changed afterwards")
    assert uri == f"runs:/{run.id}/graph"
    found = resolve_model(uri, config.uri)
    assert contents(found) == contents(tmp_path / "run" / "models" / "graph")
    assert contents(found) != contents(folder)
    model_id = json.loads((tmp_path / "run" / "run.json").read_text())["models"]["graph"]
    assert contents(resolve_model(f"models:/{model_id}", config.uri)) == contents(found)
    assert resolve_model(str(folder)) == folder


def test_a_registered_model_resolves_by_version_and_alias(
    config: TrackingConfig, tmp_path: Path
) -> None:
    with Tracker(config).run("r", {}, tmp_path / "run") as run:
        uri = run.log_model(model_folder(tmp_path / "model"), "graph")
    client = connect(config)
    client.create_registered_model("digits")
    client.create_model_version("digits", resolve_model(uri, config.uri).as_uri(), run.id)
    client.set_registered_model_alias("digits", "best", "1")
    for name in ("models:/digits/1", "models:/digits@best"):
        assert contents(resolve_model(name, config.uri)) == contents(tmp_path / "model")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("runs:/0123456789abcdef0123456789abcdef/graph", "not found"),
        ("models:/m-nothing", "not found"),
        ("models:/a/b/c/d", "expected runs:/"),
        ("no/such/folder", "neither a folder"),
    ],
)
def test_a_model_that_is_not_there_is_a_clear_error(
    config: TrackingConfig, uri: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        resolve_model(uri, config.uri)


def test_a_run_without_the_model_is_a_clear_error(config: TrackingConfig, tmp_path: Path) -> None:
    run_id = record(Tracker(config), tmp_path / "run", num_steps=1)
    with pytest.raises(ValueError, match="has no model 'graph'"):
        resolve_model(f"runs:/{run_id}/graph", config.uri)
    with pytest.raises(ValueError, match="no MLflow store at"):
        resolve_model(f"runs:/{run_id}/graph", f"sqlite:///{tmp_path}/other.db")


def test_a_data_set_figure_and_description_are_recorded(
    config: TrackingConfig, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    with Tracker(config).run("r", {}, tmp_path / "run", colour="#0072B2") as run:
        run.log_dataset(TABLE, "digits", tmp_path / "zoo")
        run.log_figure(Figure(), "empty")
        run.log_text("hello", "notes.md")
        run.set_description("| a |\n|---|\n| 1 |")
        run.arrange_comparison("b1", metrics=["probe/r2"])
    found = connect(config).get_run(run.id)
    assert found.inputs is not None
    (dataset,) = [entry.dataset for entry in found.inputs.dataset_inputs]
    assert dataset.name == "digits" and json.loads(dataset.profile or "") == {"num_rows": 2}
    assert found.data.tags["mlflow.note.content"].startswith("| a |")
    assert found.data.tags["mlflow.runColor"] == "#0072B2"
    assert (tmp_path / "run" / "figures" / "empty.png").read_bytes()[:4] == b"\x89PNG"
    names = {file.path for file in connect(config).list_artifacts(run.id)}
    assert names == {"config.yaml", "figures", "notes.md"}
    experiment = connect(config).get_experiment(found.info.experiment_id)
    assert "probe/r2" in experiment.tags["mlflow.sharedViewState.benchmark-b1"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_run_ends_as_it_ended(
    config: TrackingConfig, tmp_path: Path, error: BaseException | None, status: str
) -> None:
    try:
        with Tracker(config).run("r", {}, tmp_path / "run") as run:
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt) as raised:
        assert raised is error
    assert connect(config).get_run(run.id).info.status == status


def test_a_killed_run_goes_on_as_the_same_run(config: TrackingConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    opened = Record.create(folder, name="r", experiment="graphrep", tags={})
    run = RecordedRun(opened, Server(config), config)
    run.log_metrics({"loss": 1.0}, 0)
    run.flush()
    run.log_metrics({"loss": 0.5}, 1)  # never sent: the process is killed here
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "val')  # the line it died in
    with Tracker(config).run("r", {}, folder, resume=True) as resumed:
        resumed.log_metrics({"loss": 0.25}, 2)
    assert resumed.id == run.id != ""
    assert steps_at_server(config, run.id, "loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert list(read_metrics(folder)["value"]) == [1.0, 0.5, 0.25]
    assert record(Tracker(config), folder) != run.id  # control: without resume, another run


def test_replay_sends_a_record_once_and_to_any_store(
    config: TrackingConfig, tmp_path: Path
) -> None:
    apart = TrackingConfig(uri=config.uri, enabled=False)
    assert record(Tracker(apart), tmp_path / "run") == ""
    assert not connect(config).search_experiments(filter_string="name = 'graphrep'")
    run_id = replay(tmp_path / "run", config)
    assert replay(tmp_path / "run", config) == run_id
    assert len(steps_at_server(config, run_id, "train/loss")) == 25
    assert connect(config).get_run(run_id).info.status == "FINISHED"
    with pytest.raises(ValueError, match="no recorded run"):
        replay(tmp_path, config)


@pytest.mark.slow
def test_processes_may_make_a_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graphrep.tracking import *\n"
        "folder, name = Path(sys.argv[1]), sys.argv[2]\n"
        "config = TrackingConfig(uri=f'sqlite:///{folder}/new/mlflow.db')\n"
        "with Tracker(config).run(name, {}, folder / name) as run: print(run.id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    ids = {out.strip() for out, _ in outputs}
    assert len(ids) == 3 and "" not in ids, outputs
    found = connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/new/mlflow.db")).search_runs(["1"])
    assert {run.info.run_id for run in found} == ids


def test_only_the_first_rank_records(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with Tracker(config).run("r", {}, tmp_path / "one") as run:
        assert type(run) is Run and run.id == ""
        run.log_metrics({"loss": 1.0}, 0)
        assert run.log_model(tmp_path, "graph") == str(tmp_path)
    assert not (tmp_path / "one").exists()
    monkeypatch.setenv("RANK", "0")
    with Tracker(config).run("r", {}, tmp_path / "zero") as run:
        assert run.id != ""


def test_names_are_made_fit_for_mlflow(config: TrackingConfig, tmp_path: Path) -> None:
    awkward = {"val//accuracy (%)": 1.0, "../loss": 2.0, "probe/r²": 3.0, "ok/name": 4.0}
    with Tracker(config).run("r", {}, tmp_path / "run") as run:
        run.log_metrics(awkward, 0)
    at_server = connect(config).get_run(run.id).data.metrics
    assert at_server == {clean_key(name): value for name, value in awkward.items()}
    assert at_server["ok/name"] == 4.0
    with pytest.raises(ValueError, match="not a place inside"):
        Record.open(tmp_path / "run").path("../outside.csv")


def test_importing_the_package_imports_no_mlflow() -> None:
    code = "import sys, graphrep.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
