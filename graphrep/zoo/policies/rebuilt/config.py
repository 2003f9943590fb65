"""What a policy of Stable-Baselines3 is, from the names and shapes of its state dict alone.

Four layouts cover its algorithms and most of those that build on them. Knows no files.

Source: Raffin et al. 2021, JMLR 22(268).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ....parsing import parse_dataclass
from ...recipe import check_choice

ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.SELU, nn.Sigmoid)
}
ACTORS = {  # names that a deterministic action follows from: no critic, no target, no spread
    "actor_critic": r"(features_extractor|mlp_extractor\.policy_net|action_net)\.",
    "q_network": r"q_net\.",
    "soft": r"actor\.(?!log_std)",
    "deterministic": r"actor\.",
}
FIRST = (  # layers that read the features of an observation, the earliest first
    "mlp_extractor.policy_net.0",
    "action_net",
    "q_net.q_net.0",
    "actor.latent_pi.0",
    "actor.mu",
    "actor.mu.0",
)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class RebuiltConfig:
    """What a policy's function follows from, besides its values."""

    family: str  # one of ACTORS: algorithms that share a layout
    activation: str  # one of ACTIVATIONS
    shapes: dict[str, tuple[int, ...]]  # of the state dict, or of the part that is wanted
    observation_shape: tuple[int, ...]  # as the network takes it: one-hot where states are counted
    scaled: bool = False  # observations are 0 to 255 and are divided by 255
    squashed: bool = False  # actor_critic: means go through tanh
    clip_mean: float = 2.0  # soft, with state-dependent noise: means are cut at; 0 for not at all
    shared_features: bool = True  # actor and critic read one convolutional extractor

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation_shape", tuple(self.observation_shape))
        object.__setattr__(self, "shapes", {k: tuple(v) for k, v in self.shapes.items()})
        check_choice("family", self.family, ACTORS)
        check_choice("activation", self.activation, ACTIVATIONS)
        if not self.observation_shape or min(self.observation_shape) < 1:
            shape = list(self.observation_shape)
            raise ValueError(f"observation_shape must hold positive sizes, got {shape}")

    @property
    def label(self) -> str:
        """A short name, such as `q_network-4-ReLU`."""
        size = "x".join(map(str, self.observation_shape))
        return f"{self.family}-{size}-{self.activation}"

    def has(self, prefix: str) -> bool:
        """Whether some tensor's name starts so."""
        return any(name.startswith(prefix) for name in self.shapes)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> RebuiltConfig:
        """The config of plain values.

        Raises:
            ValueError: an unknown key, a wrong type, an unknown choice; the key is named.
        """
        return parse_dataclass(cls, content, "policy")

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values; `from_mapping` is the inverse."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {**vars(self), "shapes": shapes, "observation_shape": list(self.observation_shape)}


def family_of(shapes: Shapes) -> str:
    """Which layout a state dict has.

    Raises:
        ValueError: none of those known here.
    """
    names = list(shapes)
    if any("lstm" in name for name in names):
        raise ValueError("is a recurrent policy, a layout that is not known here")
    if any(".extractors." in f".{name}" for name in names):
        raise ValueError("reads several observations at once, a layout that is not known here")
    if "action_net.weight" in shapes:
        return "actor_critic"
    if any(name.startswith("q_net.q_net.") for name in names):
        return "q_network"
    if "actor.log_std" in shapes or "actor.log_std.weight" in shapes:
        return "soft"
    if any(name.startswith("actor.mu.") for name in names):
        return "deterministic"
    raise ValueError(
        f"has no layout of a policy that is known here; its first names are {', '.join(names[:4])}"
    )


def actor_names(family: str, names: Iterable[str]) -> list[str]:
    """Those that a deterministic action follows from: no critic, no target, no spread."""
    return [name for name in names if re.match(ACTORS[family], name)]


def num_features(shapes: Shapes) -> int:
    """Width of the first layer behind the extractor; 0 where there is none."""
    found = (shapes.get(f"{name}.weight", ()) for name in FIRST)
    return next((shape[1] for shape in found if len(shape) == 2), 0)
