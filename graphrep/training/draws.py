"""Random numbers of training, from the seed and a batch's number alone.

Nothing depends on what was drawn before, so a resumed run draws what an unbroken one
does, and several processes what one does.
"""

from __future__ import annotations

import torch


def seed_of(seed: int, number: int) -> int:
    """A seed for one batch (numbers from 0), one shuffle or one part of validation (below 0)."""
    return (seed * 1_000_003 + number + 500_000) % 2**63


def seed_layers(seed: int, number: int) -> None:
    """Set what modules draw for a batch by themselves, such as dropout; apart from its views."""
    torch.manual_seed((seed_of(seed, number) + 2**62) % 2**63)


def generator_of(seed: int, number: int) -> torch.Generator:
    """A generator on the CPU with that seed."""
    return torch.Generator().manual_seed(seed_of(seed, number))
