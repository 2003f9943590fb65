"""Memory that was overwritten in part: who reads it does not read what labels say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .labels import NONE, Activation, Tracked


@dataclass(frozen=True)
class Stale:
    """Memory that was overwritten in part: to read it gives up the labels of all its pieces."""

    pieces: list[Tracked]


def unlabelled(value: Tensor) -> Activation:
    return Activation(torch.full((1,) * value.dim(), NONE).expand(value.shape))


def same_memory(value: Tensor, storage: torch.UntypedStorage) -> bool:
    try:
        return value.untyped_storage()._cdata == storage._cdata
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return False


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage share an element; large ones are taken to."""
    size = a.untyped_storage().nbytes() // a.element_size()
    if size > 1_000_000 or a.element_size() != b.element_size():
        return True
    touched = torch.zeros(size, dtype=torch.bool)
    touched.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(touched.as_strided(b.shape, b.stride(), b.storage_offset()).any())
