"""Laws of foretelling checkpoints: who follows whom, no change is where it begins, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from graphrep.settings import Settings
from graphrep.training import Networks, SelfSupervisedConfig, TrainingConfig, evaluate, train
from graphrep.training.objectives import TrajectoryConfig
from graphrep.training.targets import networks_of, successors_of
from graphrep.zoo import Zoo

from .shared import check_resumed_equals_unbroken, pair

CONFIG = TrajectoryConfig(hidden_dim=8, window=16)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_successor_is_the_same_training_at_its_next_epoch(zoo: Zoo, split: str) -> None:
    part = zoo.split(split)
    for group, networks in zip(part.groups(), networks_of(zoo, split, CONFIG), strict=True):
        table = part.properties.iloc[group.rows.numpy()].reset_index(drop=True)
        assert networks.successor is not None and networks.targets is not None
        last = table.groupby("model")["epoch"].transform("max").to_numpy()
        assert ((networks.successor.numpy() < 0) == (table["epoch"].to_numpy() == last)).all()
        for row, following in enumerate(networks.successor.tolist()):
            if following < 0:
                assert networks.targets[row].isnan().all()
                continue
            assert table["model"][following] == table["model"][row]
            assert table["epoch"][following] == table["epoch"][row] + 1  # tiny keeps every epoch
            ratio = (1 + table["epoch"][following]) / (1 + table["epoch"][row])
            assert float(networks.targets[row, 0]) == pytest.approx(np.log(ratio))
        rows = networks.take(torch.arange(len(networks)))
        assert rows.later is not None and rows.has_later is not None
        following = networks.successor[rows.has_later]
        assert torch.equal(rows.later[rows.has_later], group.theta[following])
        assert torch.equal(rows.later[~rows.has_later], rows.theta[~rows.has_later])


def test_successors_need_no_order_and_skip_no_epoch() -> None:
    table = pd.DataFrame({"model": [2, 1, 2, 1, 3, 2], "epoch": [4, 1, 0, 0, 7, 2]})
    successor, step = successors_of(table)
    assert successor.tolist() == [-1, -1, 5, 1, -1, 0]
    assert step[2, 0] == pytest.approx(np.log(3)) and step[0].isnan()
    with pytest.raises(ValueError, match="epochs"):
        successors_of(table[["model"]])


def test_before_training_the_prediction_is_no_change(zoo: Zoo) -> None:
    """And a prediction that was moved at random is worse, so the measure can tell."""
    weights, objective = pair(zoo, CONFIG)
    rows = networks_of(zoo, "train", CONFIG)[0].take(torch.arange(6))
    with torch.no_grad():
        found = objective.losses(weights, rows, torch.Generator().manual_seed(0))
        assert float(found["ratio"]) == pytest.approx(1, abs=1e-5)
        assert float(found["change"]) == pytest.approx(float(found["unchanged"]), rel=1e-4)
        assert 0 < float(found["unchanged"]) < 1
        torch.nn.init.normal_(objective.out.weight)
        torch.nn.init.normal_(weights.decoder.outward.weight)
        worse = objective.losses(weights, rows, torch.Generator().manual_seed(0))
    assert float(worse["ratio"]) > 1.5


def test_the_end_of_a_training_counts_in_no_change(zoo: Zoo) -> None:
    weights, objective = pair(zoo, CONFIG)
    torch.nn.init.normal_(objective.out.weight)
    networks = networks_of(zoo, "train", CONFIG)[0]
    rows = networks.take(torch.arange(len(networks)))
    assert rows.has_later is not None and rows.later is not None
    generator = torch.Generator()

    def change(later: torch.Tensor) -> float:
        found = objective.losses(weights, replace(rows, later=later), generator.manual_seed(0))
        return float(found["change"].detach())

    last, others = (~rows.has_later).float(), rows.has_later.float()
    assert change(rows.later + last.unsqueeze(1)) == change(rows.later)
    assert change(rows.later + others.unsqueeze(1)) != change(rows.later)


def test_both_checkpoints_are_reordered_alike(zoo: Zoo) -> None:
    """What predicting no change costs does not depend on the order that was drawn."""
    for config in (CONFIG, TrajectoryConfig(permute=False)):
        weights, objective = pair(zoo, replace(config, window=1000))
        rows = networks_of(zoo, "train", config)[0].take(torch.arange(6))
        found = [
            objective.losses(weights, rows, torch.Generator().manual_seed(seed)) for seed in (0, 1)
        ]
        sizes = [float(losses["unchanged"].detach()) for losses in found]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)


def test_training_foresees_a_change_that_weights_tell(tmp_path: Path, zoo: Zoo) -> None:
    """Networks that shrink by half from one checkpoint to the next."""
    architecture = next(iter(zoo.architectures.values()))
    generator = torch.Generator().manual_seed(0)

    def population(num: int) -> Networks:
        start = torch.randn(num, architecture.num_parameters, generator=generator)
        theta = torch.cat([start, start / 2])
        successor = torch.cat([torch.arange(num, 2 * num), torch.full((num,), -1)])
        return Networks(architecture, theta, torch.full((2 * num, 1), 0.7), successor)

    config = TrajectoryConfig(window=32)
    weights, objective = pair(zoo, config)
    training = TrainingConfig(num_steps=60, validate_every=60, num_threads=1, learning_rate=5e-3)
    validation = [population(20)]
    train(weights, objective, [population(60)], validation, training, tmp_path)
    assert evaluate(weights, objective, validation, training)["ratio"] < 0.7


def test_a_resumed_run_equals_an_unbroken_one(zoo: Zoo, tmp_path: Path) -> None:
    check_resumed_equals_unbroken(zoo, CONFIG, tmp_path)


def test_networks_without_successors_are_refused(zoo: Zoo) -> None:
    weights, objective = pair(zoo, CONFIG)
    rows = networks_of(zoo, "train", SelfSupervisedConfig())[0].take(torch.arange(2))
    with pytest.raises(ValueError, match=r"next checkpoint.*networks_of"):
        objective.losses(weights, rows, torch.Generator())


def test_settings_out_of_range_are_refused() -> None:
    assert Settings.load(["objective=trajectory"]).objective == TrajectoryConfig()
    with pytest.raises(ValueError, match="floor must be positive"):
        TrajectoryConfig(floor=0.0)
    with pytest.raises(ValueError, match="change_weight must be positive"):
        Settings.load(["objective=trajectory", "objective.change_weight=0"])
