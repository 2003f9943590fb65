"""How a policy is trained: Stable-Baselines3 on environments of gymnasium.

Everything follows from the member's seed and one thread, so that its weights
are the same bits whichever process trains it. Knows no files.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..classifiers.train import single_thread
from .episodes import play_episodes
from .networks import ACTIVATIONS, PolicyConfig, PolicyNetwork
from .recipe import PolicyMember

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


@dataclass(frozen=True, kw_only=True)
class PolicyCheckpoint:
    """A policy's values and returns after some steps of its environment."""

    planned_steps: int  # when it was to be kept
    environment_steps: int  # when it was: at the first update from then on
    state_dict: dict[str, Tensor]
    returns: Tensor  # of its test episodes; none where it diverged
    train_return: float | None  # mean of the last training episodes (at most 100), which explore
    diverged: bool  # some value is not finite


def require_packages() -> None:
    """Raise ValueError, saying how to install them, unless the packages of the extra are there."""
    for package in ("gymnasium", "stable_baselines3"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"a zoo of policies needs the package {package}, which is not installed. "
                "Run: pip install graphrep[rl]"
            ) from error


def train_member(
    member: PolicyMember, kept_steps: Sequence[int], *, test_episodes: int, test_seed: int
) -> tuple[PolicyConfig, list[PolicyCheckpoint]]:
    """Train one policy; keep its actor after each of `kept_steps`, 0 for its start.

    Weights change when all environments have gone `n_steps`; a checkpoint is of the first
    change at or after its planned steps. What is kept changes nothing in the training.
    A policy whose values cease to be finite can act no more: it stays as it is, flagged.

    Args:
        test_episodes: How many judge each checkpoint.
        test_seed: Where these start.

    Raises:
        ValueError: the packages of the extra `rl` are not installed.
    """
    require_packages()
    checkpoints = []
    with single_thread(), own_randomness():
        algorithm = build_algorithm(member)
        config = policy_config(algorithm, member)
        for planned in sorted(kept_steps):
            _train_until(algorithm, planned)
            with torch.random.fork_rng(devices=[]):
                network = actor_of(algorithm, config)
                finite = _finite(network)
                returns = play_episodes(
                    network,
                    member.environment,
                    num_episodes=test_episodes if finite else 0,
                    seed=test_seed,
                )
            checkpoints.append(
                PolicyCheckpoint(
                    planned_steps=planned,
                    environment_steps=algorithm.num_timesteps,
                    state_dict=network.state_dict(),
                    returns=returns,
                    train_return=_train_return(algorithm),
                    diverged=not finite,
                )
            )
        assert algorithm.env is not None
        algorithm.env.close()
    return config, checkpoints


def build_algorithm(member: PolicyMember) -> OnPolicyAlgorithm:
    """What trains a member, at its start; seeds the global generators."""
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    widths = list(member.hidden)
    settings: dict[str, Any] = {
        "learning_rate": member.learning_rate,
        "gamma": member.gamma,
        "ent_coef": member.ent_coef,
        "n_steps": member.n_steps,
        "policy_kwargs": {
            "net_arch": {"pi": widths, "vf": widths},  # the critic is as wide as the actor
            "activation_fn": ACTIVATIONS[member.activation],
        },
        "seed": member.seed,
        "device": "cpu",
    }
    environments = make_vec_env(member.environment, n_envs=member.n_envs, seed=member.seed)
    algorithm: OnPolicyAlgorithm
    match member.algorithm:
        case "ppo":
            algorithm = PPO(
                "MlpPolicy",
                environments,
                batch_size=member.batch_size,
                n_epochs=member.n_epochs,
                **settings,
            )
        case "a2c":
            algorithm = A2C("MlpPolicy", environments, **settings)
        case name:
            raise AssertionError(name)
    algorithm.set_logger(Logger(folder=None, output_formats=[]))  # its own writes to /tmp
    return algorithm


def policy_config(algorithm: OnPolicyAlgorithm, member: PolicyMember) -> PolicyConfig:
    """The design of the actor that an algorithm trains."""
    layers = _actor_layers(algorithm)
    return PolicyConfig(
        num_observations=layers[0].in_features,
        num_actions=layers[-1].out_features,
        hidden=member.hidden,
        activation=member.activation,
    )


@torch.no_grad()
def actor_of(algorithm: OnPolicyAlgorithm, config: PolicyConfig) -> PolicyNetwork:
    """A copy of the actor alone: without critic and without the spread of continuous actions."""
    network = PolicyNetwork(config)
    for own, layer in zip([*network.layers, network.output], _actor_layers(algorithm), strict=True):
        own.load_state_dict(layer.state_dict())
    return network


def _actor_layers(algorithm: OnPolicyAlgorithm) -> list[nn.Linear]:
    policy = algorithm.policy
    hidden = [m for m in policy.mlp_extractor.policy_net if isinstance(m, nn.Linear)]
    last = policy.action_net
    assert isinstance(last, nn.Linear)
    return [*hidden, last]


def _train_until(algorithm: OnPolicyAlgorithm, num_steps: int) -> None:
    missing = num_steps - algorithm.num_timesteps
    if missing <= 0 or not _finite(algorithm.policy):
        return
    try:
        algorithm.learn(missing, reset_num_timesteps=False)
    except ValueError:  # torch draws no actions from values that are not finite
        if _finite(algorithm.policy):
            raise


def _finite(module: nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in module.state_dict().values())


def _train_return(algorithm: OnPolicyAlgorithm) -> float | None:
    episodes = algorithm.ep_info_buffer
    return sum(float(e["r"]) for e in episodes) / len(episodes) if episodes else None


@contextmanager
def own_randomness() -> Iterator[None]:
    """Leave the global generators, which Stable-Baselines3 seeds, as they were found."""
    import numpy

    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
