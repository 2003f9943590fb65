"""Laws of opening files: one function for every kind, notes on all that was done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphrep import cli, to_graph
from graphrep.loading import load_graph


class Net(nn.Module):
    """Two inputs, so that no chain fits it."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, width), nn.Linear(3, width)
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(torch.relu(self.left(x) + self.right(y)))


def wide() -> nn.Module:
    return Net(7)


SHAPES = [(1, 4), (1, 3)]
NAME = "tests.loading.test_open:"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.ckpt"
    state = {f"module.{k}": v for k, v in Net().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("model", [Net, Net(), NAME + "Net"], ids=["class", "module", "name"])
def test_a_file_with_its_model_becomes_a_graph(saved: Path, model: object) -> None:
    loaded = load_graph(saved, model=model, input_shape=SHAPES)  # type: ignore[arg-type]
    assert loaded.notes == ("unwrapped container 'state_dict'", "unwrapped prefix 'module.'")
    assert isinstance(loaded.module, Net)
    stored = torch.load(saved, weights_only=True)["state_dict"]
    for state in (loaded.graph.state_dict(), loaded.module.state_dict()):
        assert all(stored[f"module.{k}"].equal(v) for k, v in state.items()) and len(state) == 6
    expected = to_graph(Net(), tuple(torch.randn(s) for s in SHAPES))
    assert loaded.graph.architecture.fingerprint == expected.architecture.fingerprint


def test_a_mismatch_lists_both_sides_and_loads_nothing(saved: Path) -> None:
    module = Net(7)
    module.extra = nn.Linear(2, 2, bias=False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.load(saved, weights_only=True)["state_dict"]
    state["module.old"] = torch.zeros(2, 2)
    torch.save(state, saved)
    with pytest.raises(ValueError) as error:
        load_graph(saved, model=module, input_shape=SHAPES)
    lines = [" ".join(line.split()) for line in str(error.value).splitlines()]
    assert lines[0].startswith(f"{saved}: does not fit Net: 7 of 8 tensors differ, so nothing was")
    assert "left.weight found [6, 4], expected [7, 4]" in lines
    assert "extra.weight missing, expected [2, 2]; of this shape: 'old'" in lines
    assert "old found [2, 2], not expected" in lines
    assert len(lines) == 1 + 7  # out.bias fits
    assert all(v.equal(before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    ("model", "shapes", "says"),
    [
        ("nowhere:Net", SHAPES, "No module named 'nowhere'"),
        (NAME + "nothing", SHAPES, "has no attribute 'nothing'"),
        ("Net", SHAPES, "must be package.module:factory"),
        (NAME + "SHAPES", SHAPES, "is a list, expected a function"),
        (dict, SHAPES, "gives a dict, expected something that returns a torch.nn.Module"),
        (Net, None, "needs an example input: pass --input"),
        (Net, [(1, 4)], "missing 1 required positional argument"),
        (Net, [(1, 5), (1, 3)], "does not run on example inputs of shapes [(1, 5), (1, 3)]"),
        (Net, "1,x", "--input must be sizes such as 1,3,32,32, got '1,x'"),
        (Net, (1, 10**12), "of at most 67,108,864 numbers"),
        (Net, (-1, 4), "expected sizes from 0"),
    ],
)
def test_what_a_user_can_get_wrong_is_said(
    saved: Path, model: object, shapes: object, says: str
) -> None:
    with pytest.raises(ValueError) as error:
        load_graph(saved, model=model, input_shape=shapes)  # type: ignore[arg-type]
    assert says in str(error.value)


def test_special_values_are_kept_and_reported(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[1, 2] = float("nan")
        net[2].bias[:] = float("-inf")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    loaded = load_graph(tmp_path / "net.pt")
    assert "'0.weight': 1 NaN of 12 values (kept)" in loaded.notes
    assert "'2.bias': 2 Inf of 2 values (kept)" in loaded.notes
    assert loaded.graph.state_dict()["0.weight"].isnan().sum() == 1
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "net.pt")
    assert not any("kept" in note for note in load_graph(tmp_path / "net.pt").notes)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["graphrep", "graph", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_takes_models_with_several_inputs(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--input", "1,4", "--input", "1,3"]
    assert run(monkeypatch, str(saved), "--model", NAME + "Net", *options) == 0
    out = capsys.readouterr().out
    assert (
        "unwrapped prefix 'module.'" in out and "44 parameters" not in out and "parameters" in out
    )
    assert run(monkeypatch, str(saved), "--model", NAME + "wide", *options) == 2
    assert "found [6, 4], expected [7, 4]" in capsys.readouterr().err


def test_the_command_needs_no_model_for_a_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert run(monkeypatch, str(tmp_path / "net.pt")) == 0
    out = capsys.readouterr().out
    assert "assumed ReLU" in out and "44 parameters" in out and "1 can be permuted" in out


def test_the_command_says_what_to_pass_for_anything_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(saved)) == 2
    err = capsys.readouterr().err
    assert "Pass --model package.module:factory" in err and err.count("\n") == 1
