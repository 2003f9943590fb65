"""A zoo's page in MLflow: tables, pictures and numbers of the population."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graphrep import zoo_page
from graphrep.tracking import Tracker, TrackingConfig, read_metrics
from graphrep.tracking.server import connect
from graphrep.zoo import Zoo
from graphrep.zoo_page import record_zoo, weight_sizes
from tests.tracking.conftest import config as config, migrated_store as migrated_store
from tests.zoo.populations import zoo_of

SPLITS = ["train", "train", "train", "validation", "test", "test"]
AWAY = TrackingConfig(enabled=False)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return zoo_of(tmp_path / "zoo", SPLITS)


def test_a_recorded_zoo_has_its_page_in_mlflow(
    config: TrackingConfig, zoo: Zoo, tmp_path: Path
) -> None:
    run_id = record_zoo(zoo, Tracker(config), tmp_path / "run", params={"why": "a test"})
    client = connect(config)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["kind"]) == ("FINISHED", "zoo")
    assert run.data.params["num_models"] == "6" and run.data.params["why"] == "a test"
    assert run.data.params["main_metric"] == "test_accuracy"
    last = zoo.properties.loc[zoo.properties["epoch"] == 1, "test_accuracy"]
    assert run.data.metrics["test_accuracy all/median"] == pytest.approx(last.median())
    assert "**made by hand**" in run.data.tags["mlflow.note.content"]
    found = {f.path for at in ("", "tables", "figures") for f in client.list_artifacts(run_id, at)}
    assert found >= {
        "population.txt",
        "tables/columns.csv",
        "tables/checkpoints.csv",
        "tables/architectures.csv",
        "tables/splits.csv",
        "tables/associations.csv",
        "figures/properties.png",
        "figures/trajectories.png",
        "figures/settings.png",
        "figures/associations.png",
        "figures/architectures.png",
        "figures/weights.png",
    }


def test_the_local_record_tells_all_of_it_without_a_server(zoo: Zoo, tmp_path: Path) -> None:
    assert record_zoo(zoo, Tracker(AWAY), tmp_path / "run") == ""
    tables = tmp_path / "run" / "tables"
    assert len(pd.read_csv(tables / "checkpoints.csv")) == len(zoo)
    columns = pd.read_csv(tables / "columns.csv").set_index("property")
    assert columns.loc["learning_rate", "median"] == pytest.approx(
        zoo.properties["learning_rate"].median()
    )
    assert columns.loc["optimiser", "kind"] == "constant"
    assert "6 models, 12 checkpoints" in (tmp_path / "run" / "population.txt").read_text()
    numbers = read_metrics(tmp_path / "run").set_index("name")["value"]
    assert numbers["copies/across_splits"] == 0
    assert np.isfinite(numbers).all()


def test_a_leak_stands_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo_page, "_record_figures", lambda *_: None)  # they take seconds
    zoo = zoo_of(tmp_path / "leaking", SPLITS, copies=[(0, 4)])
    record_zoo(zoo, Tracker(AWAY), tmp_path / "run")
    numbers = read_metrics(tmp_path / "run").set_index("name")["value"]
    assert numbers["copies/across_splits"] == 2
    assert "**LEAK**" in (tmp_path / "run" / "events.jsonl").read_text()
    copies = pd.read_csv(tmp_path / "run" / "tables" / "copies.csv")
    assert copies["models"].tolist() == [2, 2]


def test_a_zoo_without_metric_splits_and_epochs_has_a_page(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", ["train"] * 4)
    for name in ("test_accuracy", "epoch", "split", "content_hash", "learning_rate"):
        del zoo.properties[name]
    record_zoo(zoo, Tracker(AWAY), tmp_path / "run")
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert "weights.png" in figures and "trajectories.png" not in figures


def test_sizes_of_weights_are_those_of_the_last_checkpoints(zoo: Zoo) -> None:
    found = weight_sizes(zoo)
    assert set(found) == {"mlp-3", "mlp-5"}
    table = zoo.properties
    for name, sizes in found.items():
        fingerprint = next(k for k, a in zoo.architectures.items() if a.name == name)
        rows = table.index[(table["architecture"] == fingerprint) & (table["epoch"] == 1)]
        assert len(sizes) == len(rows)
        for number, row in enumerate(rows):
            for tensor, values in zoo.graphs[int(row)].state_dict().items():
                if values.is_floating_point():
                    expected = float(values.double().square().mean().sqrt())
                    assert sizes[tensor][number] == pytest.approx(expected)
    assert len(weight_sizes(zoo, num=1)["mlp-3"]) == 1
