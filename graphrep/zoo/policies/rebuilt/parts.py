"""What the layouts of policies are made of: chains of linear layers, convolutions, critics.

Each part is built from the shapes under a prefix of the state dict and has its names.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from .config import ACTIVATIONS, RebuiltConfig

STRIDES = {8: 4, 4: 2, 3: 1}  # of the one convolutional extractor, by the kernel's side


def linear(config: RebuiltConfig, prefix: str) -> nn.Linear:
    """The layer whose weights stand under `prefix`."""
    shape = config.shapes.get(f"{prefix}.weight", ())
    if len(shape) != 2:
        raise ValueError(f"has no linear layer '{prefix}': its weight has shape {list(shape)}")
    return nn.Linear(shape[1], shape[0], bias=f"{prefix}.bias" in config.shapes)


def chain(config: RebuiltConfig, prefix: str, *, ends_linear: bool) -> nn.Sequential:
    """The linear layers under `prefix` in turn, an activation behind each.

    Args:
        ends_linear: No activation behind the last.
    """
    found = (re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.weight", name) for name in config.shapes)
    places = sorted(int(match[1]) for match in found if match)
    if places != list(range(0, 2 * len(places), 2)):
        raise ValueError(f"has layers {places} under '{prefix}', which are no plain chain")
    layers: list[nn.Module] = []
    for place in places:
        layers += [linear(config, f"{prefix}.{place}"), ACTIVATIONS[config.activation]()]
    return nn.Sequential(*(layers[:-1] if ends_linear else layers))


class Features(nn.Module):
    """Observations [N, ...] -> features [N, F], without any weights."""

    def __init__(self, config: RebuiltConfig) -> None:
        super().__init__()
        self.scale = 255.0 if config.scaled else 1.0

    def forward(self, observation: Tensor) -> Tensor:
        return self.scaled(observation).flatten(1)

    def scaled(self, observation: Tensor) -> Tensor:
        """What the policy is fed where observations are bytes."""
        return observation / self.scale if self.scale != 1 else observation


class ConvolutionalFeatures(Features):
    """Three convolutions and a linear layer, ReLU behind each.

    Source: Mnih et al. 2015, Nature 518.
    """

    def __init__(self, config: RebuiltConfig, prefix: str) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        size = list(config.observation_shape[1:])
        channels = 0
        for place in (0, 2, 4):
            shape = config.shapes.get(f"{prefix}.cnn.{place}.weight", ())
            side = shape[-1] if len(shape) == 4 and shape[2] == shape[3] else 0
            if side not in STRIDES:
                raise ValueError(
                    f"has unknown convolutions: '{prefix}.cnn.{place}' has shape {list(shape)}"
                )
            channels = shape[0]
            layers += [nn.Conv2d(shape[1], channels, side, STRIDES[side]), nn.ReLU()]
            size = [(n - side) // STRIDES[side] + 1 for n in size]
        last = linear(config, f"{prefix}.linear.0")
        if len(size) != 2 or min(size) < 1 or channels * math.prod(size) != last.in_features:
            raise ValueError(
                f"reads observations of shape {list(config.observation_shape)}, which do not "
                f"give the {last.in_features} features of its convolutions"
            )
        self.cnn = nn.Sequential(*layers, nn.Flatten())
        self.linear = nn.Sequential(last, nn.ReLU())

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(self.cnn(self.scaled(observation)))


def features(config: RebuiltConfig, prefix: str) -> Features:
    """The extractor under `prefix`: convolutions where it has any."""
    if config.has(f"{prefix}.cnn."):
        return ConvolutionalFeatures(config, prefix)
    return Features(config)


class Critic(nn.Module):
    """Values of an action in a state, by each of several networks."""

    def __init__(self, config: RebuiltConfig, prefix: str, shared: Features | None = None) -> None:
        super().__init__()
        self.features_extractor = shared or features(config, f"{prefix}.features_extractor")
        self.count = 0
        while config.has(f"{prefix}.qf{self.count}."):
            network = chain(config, f"{prefix}.qf{self.count}", ends_linear=True)
            self.add_module(f"qf{self.count}", network)
            self.count += 1

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        inputs = torch.cat([self.features_extractor(observation), action], 1)
        return tuple(self.get_submodule(f"qf{i}")(inputs) for i in range(self.count))


def spread_by_state(log_std: Tensor, latent: Tensor) -> Tensor:
    """Standard deviation of actions under noise that depends on the state.

    Args:
        log_std: [L, A], or [L, 1] for all actions alike.
        latent: [N, L].

    Source: Raffin et al. 2021, arXiv:2005.05719.
    """
    return (latent.square() @ log_std.exp().square()).sqrt()
