"""Encoders as anyone would write them with the layers that torch and PyG have, to be raced.

`LibraryTransformer` has the shape of SANE's (arXiv:2406.09997), without masks. `LibraryPNA` has
the shape of the published neural-graph network (arXiv:2403.12143: four PNA layers of 32, Gaussian
Fourier features on every edge, edges updated between layers, output nodes side by side), with
`PNAConv` for its layers; it is handed its explicit graph and its networks are sequential CNNs.
With `all_pairs` it makes features of every pair of nodes, edge or not, and picks the edges then,
as the published code does; without, of the edges alone, which is the same for less.
"""

from __future__ import annotations

from math import pi, prod

import torch
from torch import Tensor, nn

from graphrep.architecture import Architecture
from graphrep.architecture.reorder import read_block
from graphrep.tokens import node_starts


class LibraryTransformer(nn.Module):
    """Token encoder or decoder of `nn.TransformerEncoder`: [B, T, num_in] -> [B, T, num_out]."""

    def __init__(self, num_in: int, num_out: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
            bias=False,
        )
        self.inward, self.outward = nn.Linear(num_in, width), nn.Linear(width, num_out)
        self.position = nn.Embedding(512, width)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        place = self.position(torch.arange(tokens.shape[1]))
        found: Tensor = self.outward(self.blocks(self.inward(tokens) + place))
        return found


class LibraryPNA(nn.Module):
    """Networks of one architecture, scaled [B, P], as one batched graph -> [B, outputs * C]."""

    def __init__(
        self,
        architecture: Architecture,
        values: Tensor,
        width: int = 32,
        *,
        all_pairs: bool = False,
    ) -> None:
        super().__init__()
        from torch_geometric.nn import PNAConv
        from torch_geometric.utils import degree

        self.graph = explicit(architecture, values)
        self.num_networks, self.num_outputs = len(values), architecture.units[-1].size
        self.num_nodes = len(self.graph[0]) // len(values)
        self.pairs = self._among_all_pairs() if all_pairs else None
        counts = degree(self.graph[2][1], len(self.graph[0])).long().bincount()
        layers = [
            PNAConv(
                width,
                width,
                ["mean", "min", "max", "std"],
                ["identity", "amplification"],
                counts,
                edge_dim=width,
            )
            for _ in range(4)
        ]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(3)
        )
        self.node, self.edge = Fourier(1, width), Fourier(self.graph[1].shape[1], width)

    def forward(self) -> Tensor:
        biases, kernels, index = self.graph
        nodes, edges = self.node(biases), self._edges(kernels)
        for number, layer in enumerate(self.layers):
            nodes = layer(nodes, index, edges)
            if number < len(self.norms):
                nodes = nn.functional.silu(self.norms[number](nodes))
                ends = torch.cat([nodes[index[0]], nodes[index[1]], edges], 1)
                edges = self.updates[number](ends)
        return nodes.unflatten(0, (self.num_networks, -1))[:, -self.num_outputs :].flatten(1)

    def _edges(self, kernels: Tensor) -> Tensor:
        """Features of edges [e, C]."""
        if self.pairs is None:
            return self.edge(kernels)
        dense = kernels.new_zeros(self.num_networks * self.num_nodes**2, kernels.shape[1])
        dense[self.pairs] = kernels
        return self.edge(dense)[self.pairs]

    def _among_all_pairs(self) -> Tensor:
        """Where edges are among the pairs of nodes of one network after the other: [e]."""
        source, target = self.graph[2]
        return source * self.num_nodes + target % self.num_nodes


class Fourier(nn.Module):
    """Gaussian Fourier features (arXiv:2006.10739), 128 frequencies, and a linear map."""

    frequencies: Tensor

    def __init__(self, num_in: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 3 * torch.randn(num_in, 128))
        self.out = nn.Linear(256, width)

    def forward(self, numbers: Tensor) -> Tensor:
        waves = 2 * pi * numbers @ self.frequencies
        found: Tensor = self.out(torch.cat([waves.sin(), waves.cos()], 1))
        return found


def explicit(architecture: Architecture, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Biases [n, 1], kernels zero-padded to one size [e, k] and edge_index [2, e] of all."""
    starts, num = node_starts(architecture), sum(u.size for u in architecture.units)
    biases, kernels, index = values.new_zeros(len(values), num, 1), [], []
    longest = max(b.num_features for b in architecture.blocks)
    for block in architecture.blocks:
        assert block.target is not None
        numbers = read_block(architecture, block, values)
        if block.source is None:
            start = starts[block.target]
            biases[:, start : start + numbers.shape[1]] = numbers
            continue
        shape = numbers.shape[1:3]
        target, source = (
            i.flatten() for i in torch.meshgrid(*map(torch.arange, shape), indexing="ij")
        )
        index.append(torch.stack([source + starts[block.source], target + starts[block.target]]))
        padded = nn.functional.pad(numbers, (0, longest - numbers.shape[3]))
        kernels.append(padded.reshape(len(values), prod(shape), longest))
    joined = torch.cat(index, 1)
    shift = num * torch.arange(len(values)).view(-1, 1, 1)
    everywhere = (joined + shift).permute(1, 0, 2).reshape(2, -1)
    return biases.flatten(0, 1), torch.cat(kernels, 1).flatten(0, 1), everywhere
