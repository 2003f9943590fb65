"""The network of a policy: fully connected, from an observation to what decides the action.

It returns logits for a choice of actions, means for continuous ones. Critics
and the spread of exploration are no part of it. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ...parsing import parse_dataclass
from ..recipe import check_choice

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """One policy design; the numbers of observations and actions come from the environment."""

    num_observations: int
    num_actions: int  # choices, or dimensions of a continuous action
    hidden: tuple[int, ...] = (32, 32)  # units of each layer; none for a linear policy
    activation: str = "tanh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_choice("activation", self.activation, ACTIVATIONS)
        if min(self.num_observations, self.num_actions, *self.hidden) < 1:
            raise ValueError(f"a policy needs positive widths, got {list(self.widths)}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the observation, each hidden layer and the output."""
        return (self.num_observations, *self.hidden, self.num_actions)

    @property
    def label(self) -> str:
        """A short name, such as `policy-4-32-32-2-tanh`."""
        return "-".join(["policy", *map(str, self.widths), self.activation])

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> PolicyConfig:
        """The design of plain values.

        Raises:
            ValueError: an unknown key, a wrong type, a value out of range; the key is named.
        """
        return parse_dataclass(cls, content, "network")


class PolicyNetwork(nn.Module):
    """A linear layer and an activation for each hidden layer, then a linear layer."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]()
        self.layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in pairwise((config.num_observations, *config.hidden))
        )
        self.output = nn.Linear(config.widths[-2], config.num_actions)

    def forward(self, observation: Tensor) -> Tensor:
        x = observation
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.output(x)
