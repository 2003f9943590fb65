"""torch's optimisers by name, with the settings that a zoo varies."""

from __future__ import annotations

import torch
from torch import nn

OPTIMISERS = ("adam", "adamw", "sgd", "rmsprop")


def build_optimiser(
    module: nn.Module,
    optimiser: str,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> torch.optim.Optimizer:
    """One of `OPTIMISERS` over a module's trainable parameters, torch's defaults otherwise.

    Args:
        weight_decay: Decoupled for adamw, added to the gradient for the others.
        momentum: Of sgd; the others ignore it.

    Raises:
        ValueError: unknown optimiser.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    match optimiser:
        case "adam":
            return torch.optim.Adam(
                parameters, learning_rate, weight_decay=weight_decay, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                parameters, learning_rate, weight_decay=weight_decay, fused=True
            )
        case "sgd":
            return torch.optim.SGD(
                parameters,
                learning_rate,
                momentum=momentum,
                weight_decay=weight_decay,
                fused=True,
            )
        case "rmsprop":
            return torch.optim.RMSprop(parameters, learning_rate, weight_decay=weight_decay)
        case _:
            raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, got '{optimiser}'")
