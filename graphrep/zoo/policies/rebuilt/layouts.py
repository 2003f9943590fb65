"""The four layouts of policies as modules; the actor's output comes first.

Whatever part of a policy the shapes list is there: an actor alone, or critics,
targets and the spread of actions as well, each an output of its own, so that a
trace places every weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import RebuiltConfig, num_features
from .parts import Critic, chain, features, linear, spread_by_state

LOG_STD = (-20.0, 2.0)  # where a soft actor cuts its spread

Outputs = Tensor | tuple[Tensor, ...]


class Rebuilt(nn.Module):
    """A policy: `act` is what it does, `forward` all that it computes."""

    def __init__(self, config: RebuiltConfig) -> None:
        super().__init__()
        self.config = config

    def act(self, observation: Tensor) -> Tensor:
        """What decides the action [N, A]: logits, values of actions, or means.

        Args:
            observation: [N, ...], numbers; one-hot where states are counted.
        """
        raise NotImplementedError

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two random rows of what `forward` takes."""
        scale = 255.0 if self.config.scaled else 1.0
        return (torch.rand(2, *self.config.observation_shape) * scale,)


class ActorCritic(Rebuilt):
    """PPO, A2C, TRPO: logits or means of actions; then their spread, then the state's value."""

    def __init__(self, config: RebuiltConfig) -> None:
        super().__init__(config)
        if "log_std" in config.shapes:  # [A], or [L, A] for noise that depends on the state
            self.log_std = nn.Parameter(torch.zeros(config.shapes["log_std"]))
        self.features_extractor = features(config, "features_extractor")
        if config.has("pi_features_extractor."):  # which old versions did not list
            self.pi_features_extractor = self.features_extractor
        if config.has("vf_features_extractor."):
            own = None if config.shared_features else features(config, "vf_features_extractor")
            self.vf_features_extractor = own or self.features_extractor
        self.mlp_extractor = nn.ModuleDict(
            {
                "policy_net": chain(config, "mlp_extractor.policy_net", ends_linear=False),
                "value_net": chain(config, "mlp_extractor.value_net", ends_linear=False),
            }
        )
        self.action_net = linear(config, "action_net")
        if config.has("value_net."):
            self.value_net = linear(config, "value_net")

    def act(self, observation: Tensor) -> Tensor:
        return self._act(self._latent(observation))

    def forward(self, observation: Tensor) -> Outputs:
        latent = self._latent(observation)
        outputs = [self._act(latent)]
        if self.config.has("log_std"):
            outputs.append(
                spread_by_state(self.log_std, latent)
                if self.log_std.dim() == 2
                else (torch.zeros_like(outputs[0]) + self.log_std).exp()
            )
        if self.config.has("value_net."):
            extractor = getattr(self, "vf_features_extractor", self.features_extractor)
            latent = self.mlp_extractor["value_net"](extractor(observation))
            outputs.append(self.value_net(latent))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _latent(self, observation: Tensor) -> Tensor:
        return self.mlp_extractor["policy_net"](self.features_extractor(observation))

    def _act(self, latent: Tensor) -> Tensor:
        means = self.action_net(latent)
        return means.tanh() if self.config.squashed else means


class QNetwork(Rebuilt):
    """DQN: the value of each action, by the network and by its target."""

    def __init__(self, config: RebuiltConfig) -> None:
        super().__init__(config)
        self.q_net = self._network("q_net")
        if config.has("q_net_target."):
            self.q_net_target = self._network("q_net_target")

    def act(self, observation: Tensor) -> Tensor:
        return self._values(self.q_net, observation)

    def forward(self, observation: Tensor) -> Outputs:
        if not self.config.has("q_net_target."):
            return self.act(observation)
        return self.act(observation), self._values(self.q_net_target, observation)

    def _network(self, prefix: str) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "features_extractor": features(self.config, f"{prefix}.features_extractor"),
                "q_net": chain(self.config, f"{prefix}.q_net", ends_linear=True),
            }
        )

    def _values(self, network: nn.ModuleDict, observation: Tensor) -> Tensor:
        return network["q_net"](network["features_extractor"](observation))


class SoftActor(nn.Module):
    """Means of actions before tanh, and their spread."""

    def __init__(self, config: RebuiltConfig) -> None:
        super().__init__()
        self.config = config
        self.features_extractor = features(config, "actor.features_extractor")
        self.latent_pi = chain(config, "actor.latent_pi", ends_linear=False)
        self.mu: nn.Module
        if config.has("actor.mu.0."):  # with noise that depends on the state
            self.mu = nn.Sequential(linear(config, "actor.mu.0"))
            self.mu.append(nn.Hardtanh(-config.clip_mean, config.clip_mean))
        else:
            self.mu = linear(config, "actor.mu")
        if "actor.log_std" in config.shapes:
            self.log_std = nn.Parameter(torch.zeros(config.shapes["actor.log_std"]))
        elif config.has("actor.log_std."):
            self.log_std = linear(config, "actor.log_std")  # type: ignore[assignment]

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        latent = self.latent_pi(self.features_extractor(observation))
        means = self.mu(latent).tanh()
        if not self.config.has("actor.log_std"):
            return (means,)
        if isinstance(self.log_std, nn.Linear):
            return means, self.log_std(latent).clamp(*LOG_STD).exp()
        return means, spread_by_state(self.log_std, latent)


class DeterministicActor(nn.Module):
    """Actions between -1 and 1."""

    def __init__(self, config: RebuiltConfig, prefix: str) -> None:
        super().__init__()
        self.features_extractor = features(config, f"{prefix}.features_extractor")
        self.mu = chain(config, f"{prefix}.mu", ends_linear=True)

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        return (self.mu(self.features_extractor(observation)).tanh(),)


class ContinuousPolicy(Rebuilt):
    """SAC, TQC, TD3, DDPG: actions, between -1 and 1; then spread, targets, values."""

    def __init__(self, config: RebuiltConfig) -> None:
        super().__init__(config)
        self.actor: SoftActor | DeterministicActor
        if config.family == "soft":
            self.actor = SoftActor(config)
        else:
            self.actor = DeterministicActor(config, "actor")
            if config.has("actor_target."):
                self.actor_target = DeterministicActor(config, "actor_target")
        if config.has("critic."):
            shared = self.actor.features_extractor if config.shared_features else None
            self.critic = Critic(config, "critic", shared)
            if config.has("critic_target."):
                self.critic_target = Critic(config, "critic_target")

    def act(self, observation: Tensor) -> Tensor:
        return self.actor(observation)[0]

    def forward(self, observation: Tensor, action: Tensor | None = None) -> Outputs:
        outputs = list(self.actor(observation))
        if self.config.has("actor_target."):
            outputs += self.actor_target(observation)
        if action is not None and self.config.has("critic."):
            outputs += self.critic(observation, action)
            if self.config.has("critic_target."):
                outputs += self.critic_target(observation, action)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def example_inputs(self) -> tuple[Tensor, ...]:
        (observation,) = super().example_inputs()
        if not self.config.has("critic."):
            return (observation,)
        return observation, 2 * torch.rand_like(self.act(observation)) - 1


def rebuild(config: RebuiltConfig) -> Rebuilt:
    """The module of a policy, with values yet to be loaded; its state dict has the config's names.

    Raises:
        ValueError: the shapes are not those of their family; what does not fit is named.
    """
    convolutional = any(".cnn." in name for name in config.shapes)
    width = num_features(config.shapes)
    if not convolutional and math.prod(config.observation_shape) != width:
        raise ValueError(
            f"reads observations of shape {list(config.observation_shape)}, but its first layer "
            f"has {width} inputs"
        )
    with torch.device("meta"):  # nothing is allocated before it is found to fit
        outline = _build(config).state_dict()
    found = {name: tuple(value.shape) for name, value in outline.items()}
    names = [*config.shapes, *(name for name in found if name not in config.shapes)]
    if differing := [name for name in names if found.get(name) != config.shapes.get(name)]:
        shown = ", ".join(f"{n} {list(config.shapes.get(n, ()))}" for n in differing[:4])
        raise ValueError(
            f"has {len(differing)} tensors that do not fit the layout '{config.family}': {shown}"
        )
    return _build(config)


def _build(config: RebuiltConfig) -> Rebuilt:
    match config.family:
        case "actor_critic":
            return ActorCritic(config)
        case "q_network":
            return QNetwork(config)
        case "soft" | "deterministic":
            return ContinuousPolicy(config)
        case family:
            raise AssertionError(family)
