"""Initial values of networks, by scheme, gain and seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..recipe import check_choice

INIT_SCHEMES = (
    "default",
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "orthogonal",
    "normal",
    "truncated_normal",
    "uniform",
)


def initialise(
    module: nn.Module, scheme: str, *, gain: float = 1.0, std: float = 0.1, seed: int
) -> None:
    """Draw new initial values in place, from `seed` alone.

    Weights of linear and convolutional layers follow the scheme, then are
    multiplied by `gain`. Biases are zero, except under `default`, which is
    torch's own for every layer. Normalisation starts as the identity.

    Args:
        std: Standard deviation under the schemes `normal` and `truncated_normal`; the latter's
            before values beyond two of it are drawn anew, as TensorFlow has it. `uniform` is
            from 0 to 1, as in the ModelZoos (Schürholt et al. 2022, arXiv:2209.14764).

    Raises:
        ValueError: unknown scheme.
    """
    check_choice("init", scheme, INIT_SCHEMES)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            if isinstance(layer, nn.Linear | nn.Conv2d):
                if scheme != "default":
                    _draw(layer.weight, scheme, std)
                    if layer.bias is not None:
                        layer.bias.zero_()
                layer.weight.mul_(gain)


def _draw(weight: Tensor, scheme: str, std: float) -> None:
    match scheme:
        case "kaiming_normal":
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        case "kaiming_uniform":
            nn.init.kaiming_uniform_(weight, nonlinearity="relu")
        case "xavier_normal":
            nn.init.xavier_normal_(weight)
        case "xavier_uniform":
            nn.init.xavier_uniform_(weight)
        case "orthogonal":
            nn.init.orthogonal_(weight)
        case "normal":
            nn.init.normal_(weight, std=std)
        case "truncated_normal":
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        case "uniform":
            nn.init.uniform_(weight)
        case _:
            raise AssertionError(scheme)
