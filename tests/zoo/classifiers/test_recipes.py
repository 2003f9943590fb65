"""The recipes of classifiers in conf/zoo: they parse, and their networks suit their images."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from graphrep import Architecture, ParameterGraph, to_graph
from graphrep.config import choices, compose
from graphrep.zoo import (
    ClassifierRecipe,
    NetworkConfig,
    SearchSpace,
    build_network,
    draw_member,
    parse_recipe,
)

RECIPES = (
    "digits_mlp",
    "digits_cnn",
    "mnist_cnn",
    "fashion_cnn",
    "cifar_cnn3",
    "small_cnn",
    "wild_cnn",
    "resnet_mini",
    "vit_mini",
)
NUM_PARAMETERS = {"mnist_cnn": 2464, "fashion_cnn": 2464, "cifar_cnn3": 10853, "small_cnn": 4970}
SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}


@cache
def recipe_of(name: str) -> ClassifierRecipe:
    recipe = parse_recipe(compose([f"zoo={name}"])["zoo"])
    assert isinstance(recipe, ClassifierRecipe)
    return recipe


def first_designs(recipe: ClassifierRecipe, num: int) -> set[NetworkConfig]:
    """The designs of the first members, without what holds no weights."""
    members = (draw_member(recipe, index) for index in range(num))
    return {replace(member.network, dropout=0.0) for member in members}


@pytest.mark.parametrize("name", ["digits_demo", *RECIPES])
def test_every_recipe_is_named_as_its_file_and_keeps_the_start(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.name == name
    if name != "digits_demo":
        assert recipe.kept_epochs[0] == 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_small_recipe_trains_the_networks_of_the_full_one_for_less(name: str) -> None:
    full, small = recipe_of(name), recipe_of(f"{name}_small")
    assert small.name == f"{name}_small"
    assert (small.images, small.networks, small.wild) == (full.images, full.networks, full.wild)
    assert small.kept_epochs[0] == 0
    assert small.num_models < full.num_models
    assert small.num_models * small.epochs < full.num_models * full.epochs


@pytest.mark.parametrize("name", RECIPES)
def test_networks_of_a_recipe_classify_its_images_and_are_traced_whole(name: str) -> None:
    recipe = recipe_of(f"{name}_small")
    shape = SHAPES[recipe.images]
    images = torch.randn(2, *shape)
    for design in sorted(first_designs(recipe, 4), key=str)[:2]:
        module = build_network(design, shape, 10)
        assert module(images).shape == (2, 10)
        graph = to_graph(module, images, name=design.label, strict=True)
        assert graph.architecture.num_parameters == NUM_PARAMETERS.get(
            name, graph.architecture.num_parameters
        )
        assert {block.kind for block in graph.architecture.blocks} <= {"dense", "diagonal"}
        back = Architecture.from_json(graph.architecture.to_json())
        assert back.fingerprint == graph.architecture.fingerprint
        loaded = ParameterGraph.from_state_dict(back, module.state_dict())
        assert torch.equal(loaded.theta, graph.theta)
        other = build_network(replace(design, hidden=(3, *design.hidden[1:])), shape, 10)
        with pytest.raises(ValueError):
            ParameterGraph.from_state_dict(back, other.state_dict())


def test_a_wild_zoo_holds_an_architecture_a_member_and_others_few() -> None:
    assert len(first_designs(recipe_of("wild_cnn"), 100)) > 95
    for name in ("mnist_cnn", "small_cnn", "resnet_mini", "vit_mini"):
        assert len(first_designs(recipe_of(name), 100)) <= 4  # activations


def test_small_cnn_draws_from_the_ranges_of_its_paper() -> None:
    members = [draw_member(recipe_of("small_cnn"), index) for index in range(400)]
    assert {m.optimiser for m in members} == {"adam", "sgd", "rmsprop"}
    assert {m.network.activation for m in members} == {"relu", "tanh"}
    assert {m.train_fraction for m in members} == {0.1, 0.25, 0.5, 1.0}
    assert {m.batch_size for m in members} == {512}
    assert len({m.init for m in members}) == 5
    for values, low, high in (
        ([m.learning_rate for m in members], 5e-4, 5e-2),
        ([m.weight_decay for m in members], 2e-8, 2e-2),
        ([m.init_std for m in members], 1e-3, 0.5),
        ([m.network.dropout for m in members], 0.0, 0.7),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert recipe_of("small_cnn").kept_epochs == (0, 1, 2, 3, 20, 40, 60, 80, 86)


def test_the_base_file_states_the_defaults() -> None:
    base = recipe_of("digits_demo")
    default = ClassifierRecipe(name="digits_demo", images="digits")
    kept = SearchSpace(activation=base.search.activation, dropout=base.search.dropout)
    kept_fields = ("networks", "network_weights", "num_models", "test_fraction")
    own = {name: getattr(base, name) for name in kept_fields}
    assert base == replace(default, search=kept, **own)
    assert base != default


def test_the_demo_s_zoo_has_the_promised_size() -> None:
    recipe = recipe_of("digits_demo")
    assert recipe.num_models == 300
    assert len(recipe.kept_epochs) == 5


def test_no_file_of_conf_is_left_out() -> None:
    """Those of other kinds of zoos say so in their names."""
    known = {"base", "digits_demo", *RECIPES, *(f"{name}_small" for name in RECIPES)}
    assert {name for name in choices("zoo") if "inr" not in name and "policy" not in name} == known
