"""New weights from a density over token latents of chosen networks.

`independent`: a kernel density a token position, every token of every sample
drawn for itself, as SANE intends (its code fixes the seed inside the loop over
tokens, so that all tokens come from the same anchor).
`joint`: one kernel density over all token latents of a network together, so the
tokens of a sample belong to each other; near an anchor by construction.

Source: SANE, arXiv:2406.09997, and Generative Hyper-Representations, arXiv:2209.14733.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Method = Literal["joint", "independent"]
METHODS: tuple[Method, ...] = ("joint", "independent")


def sample_latents(
    anchors: Tensor, num: int, method: Method, bandwidth: float, seed: int
) -> Tensor:
    """Draw token latents [num, T, Z] from a Gaussian kernel density over anchors [A, T, Z].

    Args:
        bandwidth: In units of each latent's deviation over the anchors.

    Raises:
        ValueError: no anchors, unknown method, or a bandwidth that is not positive.
    """
    if method not in METHODS:
        raise ValueError(f"sampling method must be one of {', '.join(METHODS)}, got '{method}'")
    if bandwidth <= 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    if len(anchors) == 0:
        raise ValueError("there are no anchors to sample from")
    random = np.random.RandomState(seed)
    num_tokens = anchors.shape[1]
    if method == "joint":
        return _draw(anchors.flatten(1), num, bandwidth, random).view(num, *anchors.shape[1:])
    tokens = [_draw(anchors[:, t], num, bandwidth, random) for t in range(num_tokens)]
    return torch.stack(tokens, 1)


def _draw(points: Tensor, num: int, bandwidth: float, random: np.random.RandomState) -> Tensor:
    from sklearn.neighbors import KernelDensity

    spread = points.std(0, unbiased=False).clamp(min=1e-6)
    scaled = (points / spread).double().numpy()
    drawn = KernelDensity(bandwidth=bandwidth).fit(scaled).sample(num, random_state=random)
    return torch.as_tensor(drawn).to(points) * spread
