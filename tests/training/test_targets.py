"""Laws of targets: what a zoo's table says arrives beside the right networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from graphrep.training import SelfSupervisedConfig
from graphrep.training.objectives import PropertyConfig
from graphrep.training.objectives.property_head import Target, fit_category, fit_target
from graphrep.training.targets import context_of, networks_of, targets_of
from graphrep.zoo import Zoo

CONFIG = PropertyConfig(
    properties=("test_accuracy", "test_loss"),
    log_properties=("learning_rate",),
    categories=("kind",),
)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_targets_stand_beside_their_networks(zoo: Zoo, split: str) -> None:
    part = zoo.split(split)
    theta = torch.nn.utils.rnn.pad_sequence([g.theta for g in part.graphs], batch_first=True)
    found = networks_of(zoo, split, CONFIG)
    assert sum(map(len, found)) == len(part)
    (categories,) = [t.categories for t in context_of(zoo, CONFIG).targets if t.kind == "category"]
    for networks in found:
        assert networks.targets is not None and networks.targets.shape == (len(networks), 4)
        for index in range(len(networks)):
            rows = networks.take(torch.tensor([index]))
            width = networks.architecture.num_parameters
            same = (theta[:, :width] == rows.theta).all(1) & (theta[:, width:] == 0).all(1)
            table = part.properties[same.numpy()]
            assert len(table) >= 1 and rows.targets is not None
            row, targets = table.iloc[0], rows.targets[0].tolist()
            assert targets[0] in table["test_accuracy"].to_numpy(np.float32)
            assert targets[1] in table["test_loss"].to_numpy(np.float32)
            assert targets[2] == pytest.approx(np.log10(row["learning_rate"]))
            assert categories[int(targets[3])] == row["kind"]


def test_what_targets_are_is_read_off_the_training_split(zoo: Zoo) -> None:
    accuracy, loss, rate, kind = context_of(zoo, CONFIG).targets
    table = zoo.split("train").properties
    assert (accuracy.kind, loss.kind, rate.kind, kind.kind) == (
        "share", "number", "logarithm", "category",
    )  # fmt: skip
    assert accuracy.centre == pytest.approx(table["test_accuracy"].mean())
    assert accuracy.centre != pytest.approx(zoo.properties["test_accuracy"].mean())
    assert loss.deviation == pytest.approx(table["test_loss"].std(ddof=0))
    assert rate.centre == pytest.approx(np.log10(table["learning_rate"]).mean())
    assert kind.categories == ("cnn", "mlp")
    assert kind.frequencies == pytest.approx([(table["kind"] == k).mean() for k in ("cnn", "mlp")])


def test_two_zoos_share_one_scale(zoo: Zoo) -> None:
    kind = zoo.properties["kind"].to_numpy()
    halves = [zoo.select(kind == "cnn"), zoo.select(kind == "mlp")]
    assert targets_of(halves, CONFIG)[3].categories == ("cnn", "mlp")
    found = networks_of(halves, "train", CONFIG)
    assert [float(n.targets[0, 3]) for n in found if n.targets is not None] == [0.0, 1.0]
    with pytest.raises(ValueError, match="1 classes"):
        targets_of(halves[:1], CONFIG)


def test_an_objective_that_wants_none_gets_none(zoo: Zoo) -> None:
    found = networks_of(zoo, "train", SelfSupervisedConfig())
    assert all(n.targets is None and n.successor is None for n in found)
    assert context_of(zoo, SelfSupervisedConfig()).targets == ()


def test_mistakes_are_named(zoo: Zoo) -> None:
    with pytest.raises(ValueError, match=r"no property 'colour' in .*; there are .*test_accuracy"):
        networks_of(zoo, "train", PropertyConfig(properties=("colour",)))
    with pytest.raises(ValueError, match=r"'kind' is no number.*objective\.categories"):
        networks_of(zoo, "train", PropertyConfig(properties=("kind",)))
    with pytest.raises(ValueError, match="'stride' is constant"):
        networks_of(zoo, "train", PropertyConfig(properties=("stride",)))
    with pytest.raises(ValueError, match="none of them twice"):
        PropertyConfig(properties=("epoch",), log_properties=("epoch",))
    with pytest.raises(ValueError, match="needs properties"):
        PropertyConfig(properties=())


def test_missing_values_count_in_no_scale() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf])
    target = fit_target("x", values)
    assert (target.centre, target.deviation, target.known) == (2.0, 1.0, 0.5)
    assert fit_target("x", np.array([0.0, 10.0, 1000.0]), log=True).centre == 2.0
    labels = np.array(["a", None, "b", "b"])
    assert fit_category("c", labels).frequencies == pytest.approx((1 / 3, 2 / 3))
    assert fit_category("c", labels).known == 0.75


def test_only_spread_numbers_within_0_and_1_are_shares() -> None:
    assert fit_target("accuracy", np.array([0.1, 0.9])).kind == "share"
    assert fit_target("weight_decay", np.array([1e-4, 1e-3])).kind == "number"
    assert fit_target("gap", np.array([-0.1, 0.5])).kind == "number"


def test_a_class_that_training_lacks_is_not_known(zoo: Zoo) -> None:
    from graphrep.training.targets import _column

    target = Target(name="kind", kind="category", categories=("a", "b"), frequencies=(0.5, 0.5))
    found = _column(pd.DataFrame({"kind": ["b", "c", None]}), target)
    assert found[0] == 1 and found[1:].isnan().all()
    missing = _column(pd.DataFrame({"other": [1, 2]}), replace(target, kind="number"))
    assert missing.isnan().all()
