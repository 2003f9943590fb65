"""Policies of a recipe as records: drawn, trained, traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ...architecture import Architecture
from ...graph import to_graph
from ..classifiers.train import single_thread
from ..record import Record
from .networks import PolicyConfig, PolicyNetwork
from .recipe import PolicyRecipe, draw_member
from .train import PolicyCheckpoint, train_member


class PolicyWorkshop:
    """Trains the members of one recipe, one after another."""

    def __init__(self, recipe: PolicyRecipe) -> None:
        self.recipe = recipe
        self._architectures: dict[PolicyConfig, Architecture] = {}

    def make(self, indices: Sequence[int]) -> list[Record]:
        """The members of these indices; see `graphrep.zoo.recipe.Workshop`."""
        return [self._make(index) for index in indices]

    def _make(self, index: int) -> Record:
        member = draw_member(self.recipe, index)
        try:
            config, checkpoints = train_member(
                member,
                self.recipe.kept_steps,
                test_episodes=self.recipe.test_episodes,
                test_seed=self.recipe.test_seed,
            )
        except Exception as error:
            settings = ", ".join(f"{k}={v}" for k, v in member.to_columns().items())
            raise RuntimeError(
                f"member {index} of zoo '{self.recipe.name}' failed with "
                f"{type(error).__name__}: {error}\n  its hyper-parameters: {settings}"
            ) from error
        return Record.from_state_dicts(
            f"{self.recipe.name}-{index:06d}",
            self._architecture(config),
            [checkpoint.state_dict for checkpoint in checkpoints],
            [_metrics(checkpoint) for checkpoint in checkpoints],
            properties=member.to_columns(),
            design={
                "kind": self.recipe.kind,
                "network": {**asdict(config), "hidden": list(config.hidden)},
            },
        )

    def _architecture(self, config: PolicyConfig) -> Architecture:
        """Traced once for each design."""
        if config not in self._architectures:
            with torch.random.fork_rng(devices=[]), single_thread():
                torch.manual_seed(0)
                examples = torch.randn(2, config.num_observations)
                graph = to_graph(PolicyNetwork(config), examples, name=config.label)
            self._architectures[config] = graph.architecture
        return self._architectures[config]


def _metrics(checkpoint: PolicyCheckpoint) -> dict[str, Any]:
    returns = checkpoint.returns
    return {
        "epoch": checkpoint.planned_steps,  # the one number that all members share
        "environment_steps": checkpoint.environment_steps,
        "test_return": float(returns.mean()) if len(returns) else None,
        "test_return_std": float(returns.std(correction=0)) if len(returns) else None,
        "test_episodes": len(returns),
        "train_return": checkpoint.train_return,
        "diverged": checkpoint.diverged,
    }
