"""Tiny policies that the tests of this folder train: seconds for all of them."""

from __future__ import annotations

from typing import Any

from graphrep.zoo.policies.recipe import PolicyMember, PolicyRecipe, PolicySearch

SEARCH: dict[str, Any] = {
    "hidden": ((6,), (5, 4)),
    "n_envs": (2, 4),
    "n_steps": {"ppo": (16, 32), "a2c": (8,)},
    "batch_size": (32,),
    "n_epochs": (2,),
}


def tiny_recipe(**changes: Any) -> PolicyRecipe:
    settings: dict[str, Any] = {
        "name": "tiny",
        "num_models": 4,
        "num_steps": 256,
        "checkpoints": (0, 128),
        "test_episodes": 3,
        "search": PolicySearch(**SEARCH),
    }
    return PolicyRecipe(**{**settings, **changes})


def tiny_member(**changes: Any) -> PolicyMember:
    settings: dict[str, Any] = {
        "index": 0,
        "seed": 3,
        "environment": "CartPole-v1",
        "algorithm": "ppo",
        "hidden": (6, 5),
        "activation": "tanh",
        "learning_rate": 3e-3,
        "gamma": 0.98,
        "ent_coef": 1e-3,
        "n_envs": 4,
        "n_steps": 16,
        "batch_size": 32,
        "n_epochs": 2,
    }
    return PolicyMember(**{**settings, **changes})
