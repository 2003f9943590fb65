"""Runs of training that are the same for one process and for several: what torchrun starts.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.joint_training FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from graphrep.training import (
    Networks,
    Processes,
    SelfSupervisedConfig,
    TrainingConfig,
    ViewConfig,
    build_objective,
    join_processes,
    loop,
    train,
)
from graphrep.training.state import State

from .test_training import CONFIG, OBJECTIVE, Stop, build, groups
from .test_training_finite import Spoiled, marked

# nothing is drawn for a batch, so that it does not matter how it is cut
PLAIN = SelfSupervisedConfig(views=ViewConfig(permute=False, noise=0.0, mask_ratio=0.0))
SHORT = replace(CONFIG, num_steps=12, validate_every=4, batch_size=4)


def doubles(networks: list[Networks]) -> list[Networks]:
    return [replace(n, theta=n.theta.double()) for n in networks]


def record(
    config: TrainingConfig,
    objective: SelfSupervisedConfig,
    networks: list[Networks],
    folder: Path,
) -> dict[str, Any]:
    """The losses of every step, what validation found and the model at the end, in float64."""
    model = build().double()
    torch.manual_seed(1)
    wanted = build_objective(objective, model).double()
    steps: dict[int, dict[str, float]] = {}

    def keep(metrics: Mapping[str, float], step: int) -> None:
        steps.setdefault(step, {}).update(metrics)

    validation = doubles(groups(4))
    with suppress(Stop), changed(loop, "LOG_EVERY", 1):
        train(model, wanted, doubles(networks), validation, config, folder, on_metrics=keep)
    return {"steps": steps, "model": model.state_dict()}


def all_runs(folder: Path, accumulate: int) -> dict[str, Any]:
    """With 2 processes and `accumulate` 1 the same as with one and 2."""
    config = replace(SHORT, accumulate=accumulate)
    more = replace(SHORT, accumulate=2 * accumulate)
    return {
        "views": record(config, OBJECTIVE, groups(), folder / "views"),
        "more": record(more, OBJECTIVE, groups(), folder / "more"),
        "few": record(config, OBJECTIVE, [*groups(2), *groups(2)], folder / "few"),
        "plain": record(config, PLAIN, groups(8)[1:], folder / "plain"),
    }


@contextmanager
def changed(owner: Any, name: str, value: object) -> Iterator[None]:
    """Another attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def stop_after(step: int) -> Callable[..., object]:
    """A `State.keep` that stops every process once the step is on disk."""
    keep = State.keep

    def keep_and_stop(state: State, metrics: dict[str, float]) -> None:
        keep(state, metrics)
        if state.step == step:
            raise Stop

    return keep_and_stop


def main(folder: Path) -> None:
    team = join_processes()
    found = all_runs(folder, 1)
    with changed(State, "keep", stop_after(8)):
        record(SHORT, OBJECTIVE, groups(), folder / "begun")
    with changed(Processes, "wrap", lambda team, module: module):  # each its own gradients
        found["alone"] = record(SHORT, OBJECTIVE, groups(), folder / "alone")
    model = build()
    torch.manual_seed(1)
    try:
        train(model, Spoiled(model), marked(), groups(4), SHORT, folder / "bad")
    except FloatingPointError as error:
        found["error"] = str(error)
    everyone = team.gather((team.rank, found.get("error"), found["views"]["model"]))
    if team.leads:
        torch.save({**found, "everyone": everyone}, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
