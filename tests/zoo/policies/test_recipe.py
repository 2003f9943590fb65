"""Recipes of policies: draws, checks, the files in conf/zoo."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from graphrep.zoo.policies.recipe import PolicyRecipe, PolicySearch, draw_member
from tests.zoo.policies.members import tiny_recipe

CONF = Path(__file__).parents[3] / "conf"


def composed(name: str) -> PolicyRecipe:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = OmegaConf.to_container(compose(f"zoo/{name}"))
    assert isinstance(content, dict)
    recipe = PolicyRecipe.from_mapping(content["zoo"])
    assert isinstance(recipe, PolicyRecipe)
    return recipe


def test_the_full_file_states_the_defaults() -> None:
    full = composed("rl_policy")
    default = PolicyRecipe(name="rl_policy", num_models=1000)
    assert full == default
    assert full != replace(default, test_episodes=3)


def test_the_small_file_is_a_shorter_full_one() -> None:
    full, small = composed("rl_policy"), composed("rl_policy_small")
    assert small.search == full.search
    assert small.num_models * small.num_steps < 0.05 * full.num_models * full.num_steps
    assert small.kept_steps[0] == full.kept_steps[0] == 0


@pytest.mark.parametrize("name", ["rl_policy", "rl_policy_small"])
def test_every_member_of_the_files_is_kept_exactly_when_planned(name: str) -> None:
    """Weights change when all environments have gone their steps."""
    recipe = composed(name)
    space = recipe.search
    for algorithm in space.algorithm:
        for n_envs, n_steps in product(space.n_envs, space.n_steps[algorithm]):
            assert not [kept for kept in recipe.kept_steps if kept % (n_envs * n_steps)]
    assert 100 % (space.n_envs[0] * space.n_steps["ppo"][0])  # which not every number would be


def test_a_recipe_survives_the_way_through_plain_values() -> None:
    recipe = tiny_recipe(num_workers=4)
    assert PolicyRecipe.from_mapping(recipe.identity()) == replace(recipe, num_workers=None)
    assert recipe.identity()["kind"] == "policy"
    assert PolicyRecipe.from_mapping({"name": "a"}) == PolicyRecipe(name="a")


def test_draws_depend_on_seed_and_index_alone() -> None:
    recipe = tiny_recipe()
    assert draw_member(recipe, 3) == draw_member(replace(recipe, num_models=9, num_steps=512), 3)
    assert draw_member(recipe, 3) != draw_member(recipe, 4)
    assert draw_member(recipe, 3) != draw_member(replace(recipe, seed=1), 3)
    assert recipe.test_seed == replace(recipe, num_models=9).test_seed
    assert recipe.test_seed != replace(recipe, seed=1).test_seed


def test_changing_one_range_leaves_the_other_draws_as_they_were() -> None:
    recipe = tiny_recipe()
    changed = replace(recipe, search=replace(recipe.search, activation=("relu",)))
    pairs = [(draw_member(recipe, i), draw_member(changed, i)) for i in range(20)]
    assert any(before != after for before, after in pairs)
    for before, after in pairs:
        assert replace(before, activation="relu") == after


def test_draws_fill_their_ranges() -> None:
    recipe = PolicyRecipe(name="a")
    members = [draw_member(recipe, index) for index in range(400)]
    space = recipe.search
    assert {m.algorithm for m in members} == {"ppo", "a2c"}
    assert {m.hidden for m in members} == set(space.hidden)
    assert {m.gamma for m in members} == set(space.gamma.choices)
    assert {m.batch_size for m in members if m.algorithm == "ppo"} == set(space.batch_size)
    assert {(m.batch_size, m.n_epochs) for m in members if m.algorithm == "a2c"} == {(0, 1)}
    for name in space.algorithm:
        rates = [m.learning_rate for m in members if m.algorithm == name]
        low, high = space.learning_rate[name].bounds
        assert low <= min(rates) < 1.1 * low and 0.9 * high < max(rates) <= high
        assert {m.n_steps for m in members if m.algorithm == name} == set(space.n_steps[name])
    assert len({m.seed for m in members}) == 400
    assert draw_member(recipe, 0).to_columns()["hidden"] in {"16-16", "32-32", "64-64"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"steps": 3}, "zoo has no key steps. Valid keys: name, num_models"),
        ({"environment": "Pong-v5"}, "environment must be one of CartPole-v1, Acrobot-v1"),
        ({"num_steps": 0}, "num_steps and test_episodes must be positive, got 0"),
        ({"num_steps": 10, "checkpoints": [0, 20]}, r"checkpoints \[20\] lie outside of steps"),
        ({"search": {"algorithm": ["dqn"]}}, "search.algorithm must be one of ppo, a2c, got 'dqn'"),
        ({"search": {"activation": []}}, "search.activation is empty"),
        ({"search": {"hidden": [[4, 0]]}}, "search.hidden must hold positive widths"),
        ({"search": {"gamma": {"high": 1.5}}}, r"search.gamma must lie in \[0, 1.0\]"),
        ({"search": {"n_steps": {"ppo": [64]}}}, "search.n_steps has nothing to draw from for a2c"),
        ({"search": {"n_steps": {"ppo": [0], "a2c": [8]}}}, "search.n_steps must be positive"),
        ({"search": {"learning_rate": {"sac": {"high": 1.0}}}}, "learning_rate has nothing to"),
        ({"search": {"batch_size": [100]}}, "batch_size 100 does not divide the 512 steps of 8"),
        ({"search": {"n_envs": [0]}}, "search.n_envs must be positive"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyRecipe.from_mapping({"name": "a", **content})


def test_sizes_of_batches_matter_to_ppo_alone() -> None:
    PolicySearch(algorithm=("a2c",), batch_size=(100,))
    with pytest.raises(ValueError, match="does not divide"):
        PolicySearch(algorithm=("ppo",), batch_size=(100,))
