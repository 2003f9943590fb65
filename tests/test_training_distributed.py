"""Two processes train as one does that takes as many batches a step: gloo, under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrep.training import Processes, join_processes, load_bad_batches

from .joint_training import PLAIN, SHORT, all_runs, record
from .test_training import OBJECTIVE, groups
from .test_training_finite import is_marked

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes trained; one torchrun for all tests, which takes seconds to start."""
    found = tmp_path_factory.mktemp("joint")
    command = [*TORCHRUN, "-m", "tests.joint_training", str(found)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, Any]:
    """What they found."""
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds that takes twice as many batches a step."""
    return all_runs(tmp_path_factory.mktemp("one"), 2)


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest of all losses, training and validation, of every step."""
    assert a["steps"].keys() == b["steps"].keys()
    return max(
        abs(value - b["steps"][step][name])
        for step, metrics in a["steps"].items()
        for name, value in metrics.items()
        if "per_second" not in name
    )


@pytest.mark.parametrize("name", ["views", "more", "few", "plain"])
def test_two_processes_have_the_losses_of_one_with_the_doubled_batch(
    one: dict[str, Any], two: dict[str, Any], name: str
) -> None:
    assert len(one[name]["steps"]) == SHORT.num_steps
    assert difference(one[name], two[name]) < 1e-9
    for key, value in one[name]["model"].items():
        assert torch.allclose(value, two[name]["model"][key], rtol=0, atol=1e-9), key


def test_so_it_is_with_one_batch_of_twice_the_size_where_nothing_is_drawn(
    two: dict[str, Any], tmp_path: Path
) -> None:
    config = replace(SHORT, batch_size=2 * SHORT.batch_size)
    whole = record(config, PLAIN, groups(8)[1:], tmp_path / "whole")
    half = record(SHORT, PLAIN, groups(8)[1:], tmp_path / "half")
    assert difference(whole, two["plain"]) < 1e-9
    assert difference(half, two["plain"]) > 1e-4


def test_processes_that_do_not_exchange_gradients_have_other_losses(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert difference(one["views"], two["alone"]) > 1e-4


def test_all_processes_end_with_one_model(two: dict[str, Any]) -> None:
    (first, _, model), (second, _, other) = two["everyone"]
    assert (first, second) == (0, 1)
    assert all(torch.equal(value, other[name]) for name, value in model.items())


def test_one_process_goes_on_where_two_were_stopped(folder: Path, one: dict[str, Any]) -> None:
    """What a step computes does not depend on who shares it."""
    checkpoint = folder / "begun" / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 8
    config = replace(SHORT, accumulate=2)
    found = record(config, OBJECTIVE, groups(), folder / "begun")
    assert list(found["steps"]) == [9, 10, 11, 12]
    for step, metrics in found["steps"].items():
        assert metrics["train/loss"] == pytest.approx(one["views"]["steps"][step]["train/loss"])
    with pytest.raises(ValueError, match="another configuration"):
        record(SHORT, OBJECTIVE, groups(), folder / "begun")  # half as many batches a step


def test_a_batch_at_fault_in_one_process_stops_all_and_is_saved(
    folder: Path, two: dict[str, Any]
) -> None:
    errors = [error for _, error, _ in two["everyone"]]
    assert errors[0] == errors[1] and "the loss is inf" in errors[0]
    (path,) = (folder / "bad").glob("not_finite-*.json")
    (batch,) = load_bad_batches(path)
    assert is_marked(batch.rows)


def test_a_process_alone_needs_no_others() -> None:
    team = join_processes()
    assert team == Processes(0, 1) and team.leads
    assert team.share(3) == 3 and team.gather(3) == [3]
    module = torch.nn.Linear(1, 1)
    assert team.wrap(module) is module
