"""A run whose numbers are no longer finite stops, and what it stopped at can be looked into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphrep.model import WeightModel
from graphrep.training import Networks, Rows, load_bad_batches, train
from graphrep.training.objectives import SelfSupervised

from .test_training import CONFIG, OBJECTIVE, build, groups, same

MARK = 7.7


class Spoiled(SelfSupervised):
    """Not finite on one network, in its loss or in the gradient alone."""

    def __init__(self, model: WeightModel, *, gradient: bool = False) -> None:
        super().__init__(OBJECTIVE, model.embedding_dim)
        self.gradient = gradient

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        found = super().losses(model, rows, generator)
        if is_marked(rows):
            zero = 0 * found["loss"]
            found["loss"] = found["loss"] + (zero.sqrt() if self.gradient else 1 / zero)
        return found


def is_marked(rows: Rows) -> bool:
    return bool((rows.theta[:, 0] == MARK).any())


def marked() -> list[Networks]:
    found = groups()
    found[1].theta[3, 0] = MARK
    return found


def spoiled(folder: Path, *, gradient: bool = False) -> tuple[WeightModel, Spoiled, str]:
    """A run of two batches a step that stopped."""
    model = build()
    torch.manual_seed(1)
    objective = Spoiled(model, gradient=gradient)
    config = replace(CONFIG, accumulate=2, validate_every=1)
    with pytest.raises(FloatingPointError) as stopped:
        train(model, objective, marked(), groups(4), config, folder)
    return model, objective, str(stopped.value)


def test_the_batch_at_fault_is_saved_and_gives_the_same_again(tmp_path: Path) -> None:
    model, objective, message = spoiled(tmp_path)
    (path,) = tmp_path.glob("not_finite-*.json")
    assert str(path) in message and "the loss is inf" in message and "learning_rate" in message
    (batch,) = load_bad_batches(path)  # of two
    assert is_marked(batch.rows) and batch.rows.architecture == groups()[1].architecture
    assert f"step {batch.step};" in message and batch.number // 2 == batch.step
    with torch.no_grad():
        again = objective.losses(model, batch.rows, batch.generator())  # the model is of that step
    assert {k: float(v) for k, v in again.items()} == pytest.approx(batch.losses, nan_ok=True)
    assert not torch.isfinite(again["loss"])
    unmarked = groups()[1].take(torch.arange(4))
    assert torch.isfinite(objective.losses(model, unmarked, batch.generator())["loss"])


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_model_is_harmed(
    tmp_path: Path,
) -> None:
    model, _, message = spoiled(tmp_path, gradient=True)
    assert "the gradient is" in message
    (path,) = tmp_path.glob("not_finite-*.json")
    batches = load_bad_batches(path)
    assert len(batches) == 2 and any(is_marked(b.rows) for b in batches)  # all, as none is told
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_run_that_stopped_stops_again_at_the_same_step(tmp_path: Path) -> None:
    _, _, first = spoiled(tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in kept["model"].values())
    _, _, second = spoiled(tmp_path)
    assert first == second
    assert same(kept["model"], torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"])


def test_numbers_that_are_looked_at_later_name_the_first_bad_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which is waited for every 20 steps."""
    from graphrep.training import finite

    first = spoiled(tmp_path / "at once")[2].partition(";")[0]
    looks: list[int] = []
    look = finite.Watch.look

    def seldom(watch: finite.Watch) -> None:
        looks.append(watch.seen[-1].step)
        if watch.seen[-1].step % 10 == 9:
            look(watch)

    monkeypatch.setattr(finite.Watch, "look", seldom)
    assert spoiled(tmp_path / "later")[2].partition(";")[0] == first
    assert looks[-1] == 9


def test_files_that_are_no_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: not the batches"):
        load_bad_batches(tmp_path / "none.json")
    spoiled(tmp_path)
    (path,) = tmp_path.glob("not_finite-*.json")
    path.with_suffix(".safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="not the batches"):
        load_bad_batches(path)
