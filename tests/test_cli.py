"""The command line from end to end, at a tiny size, and what a person sees when it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from graphrep import cli
from graphrep.zoo import Zoo

TINY = [
    "zoo.num_models=12",
    "zoo.epochs=1",
    "zoo.checkpoints=[1]",
    "zoo.train_limit=200",
    "zoo.test_limit=80",
    "zoo.num_workers=0",
    "training.num_steps=20",
    "training.validate_every=10",
    "tracking.enabled=false",
]
SAMPLING = [
    "evaluation.sampling.num_samples=2",
    "evaluation.sampling.finetuning.steps=[2]",
    "evaluation.probes.properties=[test_accuracy]",
    "evaluation.probes.log_properties=[]",
    "evaluation.probes.categories=[activation]",
]


class Terminal:
    """Runs commands as a shell would: exit status, standard output, standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["graphrep", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        shown = self.capsys.readouterr()
        return status, shown.out, shown.err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.setenv("COLUMNS", "160")
    return Terminal(monkeypatch, capsys)


def test_a_comparison_leaves_its_summary_and_models_that_every_command_takes(
    terminal: Terminal, tmp_path: Path
) -> None:
    settings = [f"output={tmp_path}", *TINY, *SAMPLING]
    status, out, err = terminal("demo", *settings)
    assert status == 0, err
    for word in ("graph", "token", "statistics", "raw", "tau test_accuracy", "random init"):
        assert word in out
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert set(summary["encoders"]) == {"graph", "token", "statistics", "raw"}
    for found in summary["encoders"].values():
        assert {"r2", "kendall_tau"} <= set(found["probe"]["test_accuracy"])
        assert {"mean_accuracy", "best_accuracy", "finetuned_accuracy"} <= set(found["samples"])
        assert found["num_parameters"] > 0 and found["train_seconds"] > 0
    assert {
        "random_init_accuracy", "scratch_accuracy", "zoo_best_accuracy", "zoo_mean_accuracy"
    } <= set(summary["baselines"])  # fmt: skip
    pictures = {p.stem for p in (tmp_path / "demo" / "summary" / "figures").glob("*.png")}
    assert {"probe_scores", "sample_accuracies", "finetuning", "losses", "architecture"} <= pictures

    (zoo_path,) = (tmp_path / "zoos").iterdir()
    model = str(tmp_path / "demo" / "graph-seed0" / "model")
    status, out, err = terminal(
        "embed", model, str(zoo_path), "--output", str(tmp_path / "e.parquet")
    )
    assert status == 0, err
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert len(table) == len(Zoo.open(zoo_path)) and "e0" in table and "test_accuracy" in table

    status, out, err = terminal("probe", model, str(zoo_path), *SAMPLING[2:])
    assert status == 0 and "test_accuracy" in out, err

    samples = tmp_path / "samples"
    status, out, err = terminal(
        "sample", model, "--num", "3", "--zoo", str(zoo_path), "--output", str(samples)
    )
    assert status == 0 and "accuracy" in out, err
    files = sorted(samples.iterdir())
    assert [f.name for f in files] == [f"sample-{i:04d}.safetensors" for i in range(3)]
    architecture = next(a for a in Zoo.open(zoo_path).architectures.values())
    status, _, err = terminal(
        "embed", model, str(files[0]), "--output", str(tmp_path / "f.parquet")
    )
    if len(Zoo.open(zoo_path).architectures) > 1:
        assert status == 2 and "differ in what no weight shows" in err
    assert architecture.num_parameters > 0


def test_training_several_encoders_and_resuming(terminal: Terminal, tmp_path: Path) -> None:
    settings = [f"output={tmp_path}", *TINY]
    status, out, err = terminal("train", "encoder=statistics,raw", *settings)
    assert status == 0, err
    assert out.count("model.safetensors") == 0 and out.count("model:") == 2
    models = sorted(tmp_path.glob("train/*/*/model/model.safetensors"))
    assert len(models) == 2
    before = [m.read_bytes() for m in models]
    status, _, err = terminal("train", "encoder=statistics,raw", *settings)
    assert status == 0, err
    assert [m.read_bytes() for m in models] == before


def make_module() -> nn.Module:
    """A factory that `graphrep graph --model` finds."""
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def test_a_checkpoint_file_becomes_a_graph(terminal: Terminal, tmp_path: Path) -> None:
    torch.save({"state_dict": make_module().state_dict()}, tmp_path / "net.pt")
    command = ["graph", str(tmp_path / "net.pt"), "--model", "tests.test_cli:make_module"]
    status, out, err = terminal(
        *command, "--input", "1,4", "--picture", str(tmp_path / "a.png"),
        "--json", str(tmp_path / "a.json"),
    )  # fmt: skip
    assert status == 0, err
    assert "44 parameters" in out and "unwrapped container 'state_dict'" in out
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert json.loads((tmp_path / "a.json").read_text())["units"]
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    command[1] = str(tmp_path / "other.pt")
    status, _, err = terminal(*command, "--input", "1,4")
    assert status == 2 and "other.pt" in err and "missing, expected [6, 4]" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "encoder=gnn"], "choices: graph, hyperrep, pna, raw, statistics, token"),
        (["zoo", "create", "recipe.num_modles=3"], "Did you mean 'zoo.num_models'"),
        (["sample", "/nowhere/model"], "/nowhere/model"),
        (["probe", "/nowhere/model", "/nowhere/zoo"], "/nowhere/zoo"),
        (["graph", "/nowhere/net.pt", "--model", "a:b", "--input", "1"], "/nowhere/net.pt"),
        (["benchmark", "--encoders", "graph,gnn"], "choices: graph"),
        (["benchmark", "--seeds", "one"], "--seeds"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(
    terminal: Terminal, command: list[str], message: str
) -> None:
    status, out, err = terminal(*command)
    assert status == 2
    assert message in err and "Traceback" not in out + err


def test_debug_shows_where_it_happened(terminal: Terminal) -> None:
    with pytest.raises(ValueError, match="choices"):
        terminal("train", "encoder=gnn", "--debug")


@pytest.mark.parametrize(
    "command", ["zoo", "graph", "train", "embed", "probe", "sample", "benchmark", "ui", "demo"]
)
def test_every_command_explains_itself(terminal: Terminal, command: str) -> None:
    status, out, _ = terminal(command, "--help")
    assert status == 0 and f"{command} " in out and "Usage" in out and len(out) > 300
