"""How a policy is judged: whole episodes in which it always does what it prefers.

The episodes run side by side in one vectorised environment of gymnasium and
start alike for the same seed, so that policies can be compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def play_episodes(module: nn.Module, environment: str, *, num_episodes: int, seed: int) -> Tensor:
    """Undiscounted returns of deterministic episodes, float64 [num_episodes].

    Args:
        module: From observations [N, O] to logits [N, A] (the largest is done) or, where
            actions are continuous, to actions [N, A] (clipped to what the environment takes).
        environment: A name that gymnasium knows, of episodes that end.
        seed: Decides where all episodes start.
    """
    import gymnasium

    if num_episodes == 0:
        return torch.zeros(0, dtype=torch.float64)
    environments = gymnasium.make_vec(environment, num_envs=num_episodes)
    try:
        observations, _ = environments.reset(seed=seed)
        returns = torch.zeros(num_episodes, dtype=torch.float64)
        running = torch.ones(num_episodes, dtype=torch.bool)
        while running.any():
            outputs = module(torch.from_numpy(observations))
            actions = choose_actions(outputs, environments.single_action_space)
            observations, rewards, ended, cut, _ = environments.step(actions)
            returns += torch.from_numpy(rewards) * running
            running &= ~torch.from_numpy(ended | cut)  # what follows is another episode
    finally:
        environments.close()
    return returns


def choose_actions(outputs: Tensor, action_space: Any) -> Any:
    """What a policy prefers, as the array that its environments take.

    Args:
        outputs: [N, A], logits or actions.
    """
    if hasattr(action_space, "n"):
        return outputs.argmax(1).numpy()
    return outputs.numpy().clip(action_space.low, action_space.high)
