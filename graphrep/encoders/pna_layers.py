"""Layers of the PNA baseline: messages along explicit edges, aggregated by PyG.

Source: Kofinas et al. 2024, arXiv:2403.12143, with principal neighbourhood aggregation, Corso
et al. 2020, arXiv:2004.05718. Knows node and edge states and an edge index; no architecture.

Letters in shapes: B networks, N nodes of each, n nodes and e edges of all, C channels.
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AGGREGATORS = ("mean", "min", "max", "std")


class PNALayer(nn.Module):
    """One PNA convolution with edges that scale and shift what is said along them."""

    def __init__(self, unit_dim: int, mean_degree: int) -> None:
        super().__init__()
        from torch_geometric.nn.aggr import MultiAggregation

        C = unit_dim
        self.edge = nn.Linear(C, 2 * C)
        self.target = nn.Linear(C, C)
        self.source = nn.Linear(C, C, bias=False)
        self.aggregate = MultiAggregation(list(AGGREGATORS))
        self.mean_degree = mean_degree
        self.post = nn.Linear((2 * len(AGGREGATORS) + 1) * C, C)
        self.out = nn.Linear(C, C)

    def forward(
        self, nodes: Tensor, edges: Tensor, index: Tensor, pointer: Tensor, degree: Tensor
    ) -> Tensor:
        """nodes [n, C], edges [e, C] sorted by target -> nodes [n, C]."""
        ends = self.source(nodes).index_select(0, index[0])
        ends = ends + self.target(nodes).index_select(0, index[1])
        scale, shift = self.edge(edges).chunk(2, -1)
        messages = scale * ends + shift
        # on the CPU segments are faster backward, and scattering all at once is forward
        segments = torch.is_grad_enabled() and messages.device.type == "cpu"
        heard = self.aggregate(
            messages, None if segments else index[1], pointer if segments else None, len(nodes), 0
        )
        amplified = heard * (degree.add(1).to(heard).log() / log(self.mean_degree + 1)).unsqueeze(1)
        found: Tensor = self.out(self.post(torch.cat([nodes, heard, amplified], 1)))
        return found


class NetworkNorm(nn.Module):
    """Layer norm over all nodes and channels of each network."""

    def __init__(self, unit_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(unit_dim))
        self.bias = nn.Parameter(torch.zeros(unit_dim))

    def forward(self, nodes: Tensor, num_nodes: int) -> Tensor:
        """nodes [B * N, C], N of each network."""
        shape = (num_nodes, nodes.shape[1])
        normal = F.layer_norm(nodes.unflatten(0, (-1, num_nodes)), shape).flatten(0, 1)
        return normal * self.weight + self.bias


class EdgeUpdate(nn.Module):
    """An edge's next state, of its own and those of its two ends."""

    def __init__(self, unit_dim: int) -> None:
        super().__init__()
        self.edge = nn.Linear(unit_dim, unit_dim)
        self.source = nn.Linear(unit_dim, unit_dim, bias=False)
        self.target = nn.Linear(unit_dim, unit_dim, bias=False)
        self.out = nn.Linear(unit_dim, unit_dim)

    def forward(self, nodes: Tensor, edges: Tensor, index: Tensor) -> Tensor:
        source = self.source(nodes).index_select(0, index[0])
        target = self.target(nodes).index_select(0, index[1])
        found: Tensor = self.out(F.silu(self.edge(edges) + source + target))
        return found
