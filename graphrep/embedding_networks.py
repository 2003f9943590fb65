"""Embeddings of networks in memory or mapped from files, in batches of one architecture.

Large networks are embedded one at a time, and block by block where the encoder can, so
that neither their scaled numbers nor the channels of their edges stand in memory together.

Letters in shapes: N networks, B of one batch, D of an embedding, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .architecture import Architecture
from .architecture.reorder import tensor_of
from .graph import ParameterGraph
from .model import WeightModel
from .recognition import STREAM_FROM, MappedNetwork


@torch.no_grad()
def embed_networks(
    model: WeightModel,
    networks: Sequence[ParameterGraph | MappedNetwork],
    batch_size: int,
    show_progress: bool = False,
) -> Tensor:
    """Embeddings float32 [N, D] on the CPU, in the order of the networks."""
    result = torch.empty(len(networks), model.embedding_dim)
    batches = _batches(networks, batch_size)
    if show_progress:
        from rich.progress import track

        batches = track(batches, description="encoding")  # type: ignore[assignment]
    for rows in batches:
        architecture = networks[rows[0]].architecture
        if is_streamed(model, networks[rows[0]]):
            found = _embed_streamed(model, networks[rows[0]])
        else:
            chosen = [networks[i] for i in rows]
            theta = torch.stack([n.theta for n in chosen if isinstance(n, ParameterGraph)])
            found = embed_rows(model, theta.float(), architecture)
        result[rows] = found.cpu()
    return result


@torch.no_grad()
def embed_rows(model: WeightModel, theta: Tensor, architecture: Architecture) -> Tensor:
    """Embeddings [B, D] of networks in rows, theta [B, P], where the model is, in one batch."""
    device = next(model.parameters()).device
    return model.encode(theta.to(device), architecture, tokens=False).model


def _embed_streamed(model: WeightModel, network: ParameterGraph | MappedNetwork) -> Tensor:
    def tensor(name: str) -> Tensor:
        if isinstance(network, MappedNetwork):
            return network.tensors[name]
        return tensor_of(network.architecture.tensor[name], network.theta)

    return model.encode_streamed(tensor, network.architecture).model


def _batches(
    networks: Sequence[ParameterGraph | MappedNetwork], batch_size: int
) -> list[list[int]]:
    """Places of networks that go together: of one architecture, large ones alone."""
    groups: dict[str, list[int]] = {}
    for i, network in enumerate(networks):
        groups.setdefault(network.architecture.fingerprint, []).append(i)
    parts = []
    for rows in groups.values():
        num = 1 if _is_large(networks[rows[0]].architecture) else batch_size
        parts += [rows[start : start + num] for start in range(0, len(rows), num)]
    return parts


def is_streamed(model: WeightModel, network: ParameterGraph | MappedNetwork) -> bool:
    """Whether a network is large enough to be embedded block by block, by a model that can."""
    return model.streams and _is_large(network.architecture)


def _is_large(architecture: Architecture) -> bool:
    return architecture.num_parameters >= STREAM_FROM
