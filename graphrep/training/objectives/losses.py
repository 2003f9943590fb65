"""Losses of self-supervised training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(
    found: Tensor, target: Tensor, real: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error over real entries, of what was seen and of what was hidden.

    Args:
        found, target: tokens [B, T, S]. real: bool [T, S]. visible: bool [B, T, S].
    """
    error = (found - target).square()
    seen, hidden = real & visible, real & ~visible
    return (
        (error * seen).sum() / seen.sum().clamp(min=1),
        (error * hidden).sum() / hidden.sum().clamp(min=1),
    )


def nt_xent(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy between two views, [B, H] each.

    Source: Chen et al. 2020, arXiv:2002.05709; on weights: arXiv:2110.15288.
    """
    both = F.normalize(torch.cat([one, other]), dim=1, eps=1e-6)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(float("-inf"))
    num = len(one)
    partner = torch.cat([torch.arange(num, 2 * num), torch.arange(num)]).to(one.device)
    return F.cross_entropy(similarity, partner)


def positives(one: Tensor, other: Tensor) -> Tensor:
    """Two views of a network pulled together, [B, H] each: mean of 1 - cosine, in [0, 2].

    Source: E_c+D of arXiv:2110.15288, whose code drives the cosine of positives to 0;
    what the paper says, and this, drives it to 1.
    """
    return (1 - F.cosine_similarity(one, other, dim=1, eps=1e-6)).mean()
