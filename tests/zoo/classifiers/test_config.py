"""Zoo configs: draws, checks, the files in conf/zoo."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from graphrep.zoo import Range, SearchSpace, ZooConfig, draw_member, load_images
from graphrep.zoo.networks import build_network
from tests.zoo.tiny import tiny_config

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(file.stem for file in (CONF / "zoo").glob("*.yaml") if file.stem != "base")


def compose(name: str) -> ZooConfig:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = OmegaConf.to_container(compose(f"zoo/{name}"))
    assert isinstance(content, dict)
    return ZooConfig.from_mapping(content["zoo"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_file_of_conf_is_a_config_whose_networks_fit_its_images(name: str) -> None:
    config = compose(name)
    assert config.name == name
    shapes = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}
    shape = shapes.get(config.images, (1, 28, 28))
    for network in config.networks:
        module = build_network(network, shape, 10)
        assert 300 < sum(p.numel() for p in module.parameters()) < 6000


def test_the_base_file_states_the_defaults() -> None:
    base = compose("digits_demo")
    default = ZooConfig(name="digits_demo", images="digits")
    kept = SearchSpace(activation=base.search.activation, dropout=base.search.dropout)
    kept_fields = ("networks", "network_weights", "num_models", "test_fraction")
    own = {name: getattr(base, name) for name in kept_fields}
    assert base == replace(default, search=kept, **own)
    assert base != default


def test_the_demo_s_zoo_has_the_promised_size() -> None:
    config = compose("digits_demo")
    assert config.num_models == 300
    assert len(config.kept_epochs) == 5


def test_a_config_survives_the_way_through_plain_values() -> None:
    config = tiny_config(num_workers=4, search=SearchSpace(dropout=None))
    back = ZooConfig.from_mapping(config.identity())
    assert back == replace(config, num_workers=None)
    assert ZooConfig(name="a", images="digits") == ZooConfig.from_mapping(
        {"name": "a", "images": "digits"}
    )


def test_draws_depend_on_seed_and_index_alone() -> None:
    config = tiny_config()
    assert draw_member(config, 3) == draw_member(replace(config, num_models=50, epochs=9), 3)
    assert draw_member(config, 3) != draw_member(config, 4)
    assert draw_member(config, 3) != draw_member(replace(config, seed=1), 3)


def test_changing_one_range_leaves_the_other_draws_as_they_were() -> None:
    config = tiny_config()
    search = replace(config.search, weight_decay=Range(low=0.1, high=0.2))
    changed = replace(config, search=search)
    for index in range(20):
        before, after = draw_member(config, index), draw_member(changed, index)
        assert before.weight_decay != after.weight_decay
        assert replace(before, weight_decay=after.weight_decay) == after


def test_draws_fill_their_ranges() -> None:
    config = tiny_config(search=SearchSpace(activation=("relu", "gelu")), network_weights=(9, 1))
    members = [draw_member(config, index) for index in range(600)]
    logs = sorted(math.log10(m.train_fraction) for m in members)
    assert -1 <= logs[0] < -0.98 and -0.02 < logs[-1] <= 0
    assert logs[300] == pytest.approx(-0.5, abs=0.06)  # uniform in the logarithm
    assert {m.network.activation for m in members} == {"relu", "gelu"}
    assert {m.optimiser for m in members} == {"adam", "adamw", "sgd", "rmsprop"}
    assert {m.momentum for m in members if m.optimiser == "sgd"} == {0.5, 0.9}
    assert {m.momentum for m in members if m.optimiser != "sgd"} == {0.0}
    share = sum(m.network.kind == "cnn" for m in members) / 600
    assert share == pytest.approx(0.9, abs=0.05)
    assert len({m.seed for m in members}) == 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "config has no key epoch. Valid keys: name, images, num_models"),
        ({"search": {"dropout": {"lo": 1}}}, "search.dropout has no key lo. Valid keys: low,"),
        ({"networks": [{"kind": "cnn"}, {"hid": 1}]}, r"networks\[1\] has no key hid"),
        ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"networks": {"kind": "cnn"}}, "networks must be a list"),
        ({"search": 3}, "search must be a mapping with keys optimiser"),
        ({"name": "???"}, "name is not set"),
        ({"images": "svhn"}, "images must be one of digits, mnist"),
        ({"epochs": 4, "checkpoints": [1, 8]}, r"checkpoints \[8\] lie outside of epochs 0 to 4"),
        ({"network_weights": [1.0, 2.0]}, "network_weights has 2 entries for 1 networks"),
        ({"test_fraction": 0.9}, "must leave models to train with"),
        ({"search": {"optimiser": ["lion"]}}, "search.optimiser must be one of adam"),
        ({"search": {"learning_rate": {"adam": {"high": 1}}}}, "learning_rate has no range for"),
        ({"search": {"train_fraction": {"high": 2.0}}}, r"train_fraction must lie in \(0, 1.0\]"),
        ({"search": {"dropout": {"low": 2, "high": 1}}}, "search.dropout: a range needs low <="),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(content: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZooConfig.from_mapping({"name": "a", "images": "digits", **content})


def test_the_last_epoch_is_always_kept() -> None:
    assert tiny_config(epochs=7, checkpoints=(0, 3)).kept_epochs == (0, 3, 7)
    assert tiny_config(epochs=7, checkpoints=(), checkpoint_every=3).kept_epochs == (0, 3, 6, 7)


def test_images_of_the_default_config_are_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHREP_DATA", raising=False)
    assert load_images(ZooConfig(name="a", images="digits").images).num_classes == 10
