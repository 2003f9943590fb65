"""Recipes of classifiers: draws and checks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from graphrep.zoo import (
    ClassifierRecipe,
    NetworkConfig,
    Range,
    SearchSpace,
    build_network,
    draw_member,
    load_images,
)
from graphrep.zoo.classifiers.wild import WildSpace, inner_layers
from tests.zoo.tiny import tiny_config


def test_a_config_survives_the_way_through_plain_values() -> None:
    config = tiny_config(num_workers=4, search=SearchSpace(dropout=None))
    back = ClassifierRecipe.from_mapping(config.identity())
    assert back == replace(config, num_workers=None)
    assert ClassifierRecipe(name="a", images="digits") == ClassifierRecipe.from_mapping(
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
        ({"epoch": 3}, "zoo has no key epoch. Valid keys: name, num_models"),
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
        ({"networks": []}, "networks is empty: nothing to train"),
        ({"wild": {"kinds": ["cnn"]}}, "wild has no key kinds. Valid keys: kind, depth"),
        ({"wild": {"kind": ["vit"]}}, "wild.kind must be one of mlp, cnn, resnet, got 'vit'"),
        ({"wild": {"head": ["token"]}}, "wild.head must be one of flatten, global"),
        ({"wild": {"depth": []}}, "wild.depth is empty: nothing to draw from"),
        ({"wild": {"depth": [2, 0]}}, r"wild.depth must be 1 or more, got \[2, 0\]"),
        ({"wild": {"kernel_size": [4]}}, r"wild.kernel_size must be odd, got \[4\]"),
        ({"wild": {"width": {"low": 0.2, "high": 3}}}, "wild.width must be 1 or more, got 0.2"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(content: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierRecipe.from_mapping({"name": "a", "images": "digits", **content})


def test_the_last_epoch_is_always_kept() -> None:
    assert tiny_config(epochs=7, checkpoints=(0, 3)).kept_epochs == (0, 3, 7)
    assert tiny_config(epochs=7, checkpoints=(), checkpoint_every=3).kept_epochs == (0, 3, 6, 7)


def test_images_of_the_default_config_are_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHREP_DATA", raising=False)
    assert load_images(ClassifierRecipe(name="a", images="digits").images).num_classes == 10


def wild_recipe(**changes: object) -> ClassifierRecipe:
    space = WildSpace(kind=("mlp", "cnn", "resnet"), **changes)  # type: ignore[arg-type]
    return tiny_config(wild=space, networks=())


def test_a_wild_zoo_s_draws_are_many_and_keep_to_their_ranges() -> None:
    recipe = wild_recipe(width=Range(low=4, high=64, log=True))
    designs = [draw_member(recipe, index).network for index in range(600)]
    assert len({replace(d, dropout=0.0) for d in designs}) > 590
    widths = sorted(width for d in designs for width in d.hidden)
    assert {widths[0], widths[-1]} == {4, 64}
    assert 10 < widths[len(widths) // 2] < 20  # uniform in the logarithm, but for the heaviest
    convolutional = [d for d in designs if d.kind != "mlp"]
    assert {k for d in convolutional for k in d.kernel_sizes} == {3, 5, 7}
    for name in ("batch_norm", "pooling", "num_pooled", "head"):
        assert len({getattr(d, name) for d in convolutional}) == 2
    for kind in ("mlp", "cnn", "resnet"):  # the limits make no kind or depth rarer
        of_kind = [d for d in designs if d.kind == kind]
        assert len(of_kind) == pytest.approx(200, abs=40)
        for depth in (2, 3, 4, 5):
            assert sum(len(d.hidden) == depth for d in of_kind) == pytest.approx(50, abs=22)


def test_limits_of_a_wild_zoo_hold_for_every_draw_and_matter() -> None:
    def heaviest(**limits: int) -> tuple[int, float]:
        recipe = wild_recipe(**limits)
        drawn = [inner_layers(draw_member(recipe, index).network) for index in range(200)]
        weights = max(sum(weights for weights, _ in layers) for layers in drawn)
        return weights, max(sum(w / 4**poolings for w, poolings in layers) for layers in drawn)

    most = 10**9
    weights, products = heaviest(max_weights=most, max_products=most)
    assert weights > 100_000 and products > 50_000
    assert heaviest(max_weights=20_000, max_products=most)[0] <= 20_000
    assert heaviest(max_weights=most, max_products=5_000)[1] <= 5_000


@pytest.mark.parametrize(
    ("design", "names"),
    [
        (NetworkConfig(kind="mlp", hidden=(5, 7, 4)), ("layers.1", "layers.2")),
        (NetworkConfig(hidden=(5, 7, 4), kernel_sizes=(3, 5, 7)), ("layers.1", "layers.2")),
        (NetworkConfig(kind="resnet", hidden=(5, 7), kernel_sizes=(3, 5)), ("first", "second")),
    ],
)
def test_weights_of_inner_layers_are_counted_as_they_are_built(
    design: NetworkConfig, names: tuple[str, ...]
) -> None:
    state = build_network(design, (1, 8, 8), 10).state_dict()
    built = [
        value.numel()
        for name, value in state.items()
        if name.endswith(".weight") and name.removesuffix(".weight").endswith(names)
    ]
    assert [weights for weights, _ in inner_layers(design)] == built != []


@pytest.mark.parametrize("kind", ["cnn", "resnet"])
@pytest.mark.parametrize(("pooling", "num_pooled"), [("max", None), ("avg", 1), ("none", None)])
def test_products_are_counted_at_the_sizes_that_images_have(
    kind: str, pooling: str, num_pooled: int | None
) -> None:
    design = NetworkConfig(
        kind=kind, hidden=(4, 5, 6), head="global", pooling=pooling, num_pooled=num_pooled
    )
    module, seen = build_network(design, (1, 8, 8), 10), []
    for name, layer in module.named_modules():
        is_outer = name.startswith(("stem", "layers.0")) or name.endswith("shortcut")
        if isinstance(layer, nn.Conv2d) and not is_outer:
            layer.register_forward_hook(lambda _, __, output: seen.append(output.shape[-1]))
    module(torch.zeros(1, 1, 8, 8))
    assert [8 // 2**poolings for _, poolings in inner_layers(design)] == seen


def test_a_wild_draw_depends_on_seed_and_index_alone_and_leaves_the_rest() -> None:
    recipe = wild_recipe()
    assert draw_member(recipe, 3) == draw_member(replace(recipe, num_models=99, epochs=9), 3)
    designs = {draw_member(replace(recipe, seed=seed), 3).network for seed in range(4)}
    assert len(designs) == 4
    for index in range(20):
        wild, tame = draw_member(recipe, index), draw_member(tiny_config(), index)
        assert replace(wild, network=tame.network) == tame
        assert wild.network.dropout == tame.network.dropout
    activations = SearchSpace(activation=("tanh",))
    assert draw_member(replace(recipe, search=activations), 3).network.activation == "tanh"


def test_a_wild_recipe_survives_the_way_through_plain_values() -> None:
    recipe = wild_recipe(depth=(2, 5), width=Range(choices=(4, 8)))
    assert ClassifierRecipe.from_mapping(recipe.identity()) == recipe
    assert recipe.identity() != wild_recipe().identity()


def test_weights_that_no_draw_keeps_to_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"keeps to wild.max_weights=10 and"):
        draw_member(wild_recipe(max_weights=10), 0)


def test_if_the_demanding_networks_suit_the_images_all_that_are_drawn_do() -> None:
    recipe = wild_recipe(depth=(2, 3), num_pooled=(1, 3))
    assert {design.kind for design in recipe.demanding_networks} == {"mlp", "cnn", "resnet"}

    def fits(design: NetworkConfig, side: int) -> bool:
        try:
            build_network(design, (1, side, side), 10)
        except ValueError:
            return False
        return True

    drawn = [draw_member(recipe, index).network for index in range(60)]
    for side, all_fit in ((8, True), (4, False)):
        assert all(fits(design, side) for design in recipe.demanding_networks) == all_fit
        assert all(fits(design, side) for design in drawn) == all_fit
    assert tiny_config().demanding_networks == tiny_config().networks
