"""Which network SANE's tokens are of: named by the user, or recognised by its rows.

Tokens tell rows and their lengths, not kernels or activations. The networks of the ModelZoos
have rows that no other of them has, up to the number of input channels and classes, which the
rows tell as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...architecture import Architecture
from ...checkpoint import read_checkpoint
from ...graph import to_graph
from ...loading.factory import as_shapes, build_module, example_inputs
from .layers import ACTIVATIONS, TracedDesigns
from .modelzoos import build, describe
from .sane_tokens import TokenLayer, row_shapes, token_layers

LISTS: dict[str, tuple[tuple[tuple[int, int], ...], int, tuple[tuple[int, ...], ...]]] = {
    # (outputs, kernel) of the convolutions; features of the last image; places of the weights
    # in the list, without dropout and with it
    "CNN": (((8, 5), (6, 5), (4, 2)), 36, ((0, 3, 6, 9, 11), (0, 4, 8, 11, 14))),
    "CNN2": (((6, 5), (9, 5), (6, 2)), 54, ((0, 3, 6, 9, 11), (0, 4, 8, 11, 14))),
    "CNN3": (((16, 3), (32, 3), (15, 3)), 60, ((0, 4, 8, 13, 16),)),
}
HIDDEN = 20  # units before the classes, in all of them
RESNETS = {"ResNet-18": (2, 2, 2, 2), "ResNet-34": (3, 4, 6, 3)}
STEM = 3  # kernel of the first convolution for small images


@dataclass(frozen=True)
class Target:
    """A network that tokens are turned back to."""

    architecture: Architecture
    state: Mapping[str, Tensor]  # names and shapes; values where tokens hold none
    design: Mapping[str, Any] | None = None

    def layers_for(self, found: Sequence[tuple[int, int]]) -> list[TokenLayer]:
        """The layers that tokens with these rows have, with or without normalisations.

        Raises:
            ValueError: this network has other rows.
        """
        for with_norms in (True, False):
            layers = token_layers(self.state, with_norms)
            if row_shapes(layers) == list(found):
                return layers
        expected = row_shapes(token_layers(self.state, True))
        raise ValueError(
            f"its tokens have rows (number, length) {_shorten(found)}; "
            f"'{self.architecture.name}' has {_shorten(expected)}"
        )


def target_of_model(model: str, input_shape: str | Sequence[int] | None) -> Target:
    """The network of `package.module:factory`.

    Raises:
        ValueError: no such factory, or a module that does not run on the input.
    """
    module = build_module(model)
    shapes = as_shapes(input_shape)
    architecture = to_graph(module, example_inputs(module, shapes)).architecture
    return Target(architecture, _copy(module.state_dict()))


def target_of_checkpoint(path: str | Path, activation: str, designs: TracedDesigns) -> Target:
    """The network of a checkpoint of the ModelZoos.

    Raises:
        ValueError: unreadable, or none of the networks of the ModelZoos.
    """
    state = read_checkpoint(path).state_dict
    design = describe(state, activation)
    return Target(designs.architecture(design, Path(path).name), state, design)


def recognise(
    found: Sequence[tuple[int, int]],
    names: Sequence[str],
    activation: str | None,
    designs: TracedDesigns,
) -> Target:
    """The network of the ModelZoos that has these rows.

    Args:
        found: Rows and numbers a row, of each layer.
        names: Keys that the normalisation names; they tell networks with places for dropout
            from those without. None of them is no evidence.
        activation: Of the network; a ResNet needs none.

    Raises:
        ValueError: no network of the ModelZoos, or the activation is missing.
    """
    for label, state in _candidates(found):
        if not set(names) <= set(state):
            continue
        both = (token_layers(state, True), token_layers(state, False))
        if list(found) not in [row_shapes(layers) for layers in both]:
            continue
        needed = "conv1.weight" not in state  # a ResNet's activation is known
        if needed and activation not in ACTIVATIONS:
            raise ValueError(
                f"its tokens are of the network {label}; tokens do not tell its activation: pass "
                f"activation=, one of {', '.join(ACTIVATIONS)} (params.json of the zoo that they "
                "were made from has it as model::nlin)"
            )
        design = describe(state, activation or "")
        architecture = designs.architecture(design, f"{label.lower()}-{design['activation']}")
        return Target(architecture, _copy(build(design).state_dict()), design)
    raise ValueError(
        f"its tokens have rows (number, length) {_shorten(found)}, which is no network of the "
        "ModelZoos; pass model=package.module:factory or reference=CHECKPOINT"
    )


def _candidates(found: Sequence[tuple[int, int]]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Known networks with the input channels and classes that the rows tell, without values."""
    (width, first), (classes, _) = found[0], found[-1]
    for label, (convolutions, features, variants) in LISTS.items():
        channels = (first - 1) // convolutions[0][1] ** 2
        inputs = (channels, *(outputs for outputs, _ in convolutions))
        shapes = [(o, i, k, k) for i, (o, k) in zip(inputs, convolutions, strict=False)]
        shapes += [(HIDDEN, features), (classes, HIDDEN)]  # type: ignore[list-item]
        for places in variants if channels > 0 else ():
            state = {}
            for place, shape in zip(places, shapes, strict=True):
                state[f"module_list.{place}.weight"] = torch.empty(shape, device="meta")
                state[f"module_list.{place}.bias"] = torch.empty(shape[0], device="meta")
            yield label, state
    for label, blocks in RESNETS.items():
        if first % STEM**2 == 0:
            with torch.device("meta"):
                module = build(_resnet(blocks, width, classes, first))
            yield label, dict(module.state_dict())


def _resnet(blocks: Sequence[int], width: int, classes: int, first: int) -> dict[str, Any]:
    return {
        "network": "ResNet",
        "blocks": list(blocks),
        "bottleneck": False,
        "stem": STEM,
        "width": width,
        "num_classes": classes,
        "input_shape": [first // STEM**2, 16, 16],
        "dtype": "float32",
    }


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _shorten(shapes: Sequence[tuple[int, int]]) -> str:
    shown = " ".join(f"{rows}x{length}" for rows, length in shapes[:8])
    return shown + (f" and {len(shapes) - 8} more" if len(shapes) > 8 else "")
