"""The graph baseline: PNA on explicit edges, through PyG.

Source: Kofinas et al. 2024, arXiv:2403.12143 (neural graphs, the graph network with a PNA
backbone of Corso et al. 2020, arXiv:2004.05718): nodes are units with their biases, edges are
unit pairs with their kernels, both through Gaussian Fourier features (Tancik et al. 2020,
arXiv:2006.10739); a message is scale(e) * W[x_i, x_j] + shift(e), aggregated by mean, minimum,
maximum and deviation over incoming edges; edges are updated between layers; the states of the
output units side by side are the embedding, and the MLP on them is the objective's head.

Where we differ, so that it runs on any architecture and no number depends on the batch:
kernels of any size enter through the positions of their numbers instead of zero-padded to a
global one; norms and depthwise kernels are numbers of nodes; a tensor that no rule placed is a
node; units and what they sit within are joined; units say kind, activation, depth and place
(of those with an identity) instead of a learned vector each; output units are spread over a
fixed number of slots; a layer's norm runs over one network, in the public code over all of a
batch; numbers that are hidden are told from zeros; the scaler's mean degree is a setting; the
map of x_i and x_j is computed at nodes, which is the same at a fraction of the cost.

Letters in shapes: B batch, N nodes, E edges, C channels, K channels of a kernel, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import Block
from ..architecture.reorder import block_index, read_block
from ..scaling import ROLES
from .base import Batch, Embedding, Encoder, depth_weights
from .explicit import KINDS_OF_EDGES, ExplicitEdges, NumbersOfBlocks, explicit_edges
from .layout import ACTIVATION_NAMES, KINDS, NUM_FREQUENCIES, layout_of
from .pna_layers import EdgeUpdate, NetworkNorm, PNALayer
from .token_head import TokenHead

READOUTS = ("outputs", "mean", "groups")


@dataclass(frozen=True, kw_only=True)
class PNAEncoderConfig:
    """Settings of `PNAEncoder`; see conf/encoder/pna.yaml.

    As published but for `frequency_scale`: at 3 the loss of predicting accuracy on held-out
    networks was 2.8 times that at 0.1 (digits_cnn, 240 steps, one seed).
    """

    name: str = "pna"
    unit_dim: int = 32  # of nodes and edges
    num_layers: int = 4
    kernel_dim: int = 9  # channels that an edge's or a node's numbers, however many, enter by
    num_frequencies: int = 128  # of the Fourier features, a sine and a cosine each; 0: none
    frequency_scale: float = 0.1  # deviation of the random frequencies; 3 as published
    reverse: bool = False  # edges also from target to source
    mean_degree: int = 16  # incoming edges of a node, on average; of the amplifying scaler
    readout: str = "outputs"  # one of READOUTS
    num_slots: int = 10  # outputs (or groups of units, by depth) kept apart in the embedding

    def __post_init__(self) -> None:
        for field in ("unit_dim", "num_layers", "kernel_dim", "mean_degree", "num_slots"):
            if getattr(self, field) < 1:
                raise ValueError(f"encoder.{field} must be at least 1, got {getattr(self, field)}")
        if self.num_frequencies < 0 or self.frequency_scale <= 0:
            raise ValueError(
                "encoder.num_frequencies must be at least 0 and encoder.frequency_scale above 0, "
                f"got {self.num_frequencies} and {self.frequency_scale}"
            )
        if self.readout not in READOUTS:
            names = ", ".join(READOUTS)
            raise ValueError(f"encoder.readout must be one of {names}, got '{self.readout}'")


class PNAEncoder(Encoder):
    """Networks of any architecture -> latents of tokens, units and the whole."""

    invariant = True

    def __init__(self, config: PNAEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        C = config.unit_dim
        self.edge_numbers = _Numbers(config, 1 + config.reverse)
        self.node_numbers = _Numbers(config, 1)
        self.edge_kind = nn.Embedding(len(KINDS_OF_EDGES), C)
        self.kind = nn.Embedding(len(KINDS) + 1, C)  # the last: a tensor that no rule placed
        self.activation = nn.Embedding(len(ACTIVATION_NAMES), C)
        self.place = nn.Linear(4 * NUM_FREQUENCIES, C)
        self.layers = nn.ModuleList(
            PNALayer(C, config.mean_degree) for _ in range(config.num_layers)
        )
        self.norms = nn.ModuleList(NetworkNorm(C) for _ in range(config.num_layers - 1))
        self.updates = nn.ModuleList(EdgeUpdate(C) for _ in range(config.num_layers - 1))
        self.predict_edge = nn.Linear(C, C)
        self.predict_source = nn.Linear(C, C, bias=False)
        self.predict_target = nn.Linear(C, C, bias=False)
        self.tokens = TokenHead(C, token_size, latent_dim)
        match config.readout:
            case "outputs":
                self.embedding_dim = config.num_slots * C
            case "groups":
                self.embedding_dim = config.num_slots * 2 * C
            case _:
                self.embedding_dim = C

    def forward(self, batch: Batch) -> Embedding:
        graph = explicit_edges(batch.architecture, self.config.reverse, batch.values.device)
        nodes, edges = self._propagate(batch, graph)
        units = nodes[:, : graph.num_nodes - graph.num_opaque]
        tokens = nodes.new_zeros(len(nodes), 0, self.latent_dim)
        return Embedding(
            tokens=self.tokens(batch, units) if batch.tokens else tokens,
            model=self._pool(batch, graph, nodes),
            units=units,
            numbers=self._predict(batch, graph, nodes, edges) if batch.predict else None,
        )

    def _propagate(self, batch: Batch, graph: ExplicitEdges) -> tuple[Tensor, Tensor]:
        """Final states of nodes [B, N, C] and edges [B, E, C], sorted by target."""
        B, N = len(batch.values), graph.num_nodes
        nodes = self._nodes(batch, graph).flatten(0, 1)
        edges = graph.sort(self._edges(batch, graph)).flatten(0, 1)
        index, pointer = graph.batched(B)
        degree = graph.degree.repeat(B)
        for number, layer in enumerate(self.layers):
            nodes = layer(nodes, edges, index, pointer, degree)
            if number < len(self.norms):
                nodes = F.silu(self.norms[number](nodes, N))
                edges = self.updates[number](nodes, edges, index)
        return nodes.unflatten(0, (B, N)), edges.unflatten(0, (B, len(graph.order)))

    def _nodes(self, batch: Batch, graph: ExplicitEdges) -> Tensor:
        """What a node is at first: kind, activation, depth and its own numbers, [B, N, C]."""
        layout, like = layout_of(batch.architecture), self.kind.weight
        start = self.place(layout.waves.to(like)) + self.kind.weight[layout.kind.to(like.device)]
        start = start + layout.activation.to(like) @ self.activation.weight
        start = torch.cat([start, self.kind.weight[-1:].expand(graph.num_opaque, -1)])
        B = len(batch.values)
        numbers = like.new_zeros(B, graph.num_nodes, self.config.kernel_dim)
        hidden = None
        if batch.visible is not None:
            hidden = like.new_zeros(B, graph.num_nodes, self.config.unit_dim)
        found = self.node_numbers.read(batch, graph.of_nodes)
        for node, (own, unseen) in zip(graph.node_of, found, strict=True):
            numbers[:, node : node + own.shape[1]] += own
            if hidden is not None and unseen is not None:
                hidden[:, node : node + own.shape[1]] += unseen
        return start + self.node_numbers.embed(numbers, hidden, 0)

    def _edges(self, batch: Batch, graph: ExplicitEdges) -> Tensor:
        """What an edge is at first: its numbers and which way it leads, [B, E, C]."""
        like, B = self.edge_kind.weight, len(batch.values)
        numbers = like.new_zeros(B, 0, self.config.kernel_dim)
        hidden = None
        found = self.edge_numbers.read(batch, graph.of_edges)
        if found:
            numbers = torch.cat([own for own, _ in found], 1)
        if found and batch.visible is not None:
            hidden = torch.cat([unseen for _, unseen in found if unseen is not None], 1)
        forward, to_parent, from_parent, back = self.edge_kind.weight
        kin = torch.stack([to_parent, from_parent])[graph.kin - 1].expand(B, -1, -1)
        parts = [forward + self.edge_numbers.embed(numbers, hidden, 0), kin]
        if self.config.reverse:
            parts.append(back + self.edge_numbers.embed(numbers, hidden, 1))
        return torch.cat(parts, 1)

    def _pool(self, batch: Batch, graph: ExplicitEdges, nodes: Tensor) -> Tensor:
        match self.config.readout:
            case "outputs":  # all nodes stand in where no unit is an output
                chosen = nodes[:, graph.outputs] if len(graph.outputs) else nodes
                weights = depth_weights(chosen.shape[1], self.config.num_slots, nodes)
                return (weights @ chosen).flatten(1)
            case "groups":
                sizes = [u.size for u in batch.architecture.units]
                groups = nodes.split([*sizes, *[1] * graph.num_opaque], 1)
                moments = [
                    torch.cat([g.mean(1), (g.var(1, unbiased=False) + 1e-6).sqrt()], 1)
                    for g in groups
                ]
                weights = depth_weights(len(groups), self.config.num_slots, nodes)
                return (weights @ torch.stack(moments, 1)).flatten(1)
            case _:
                return nodes.mean(1)

    def _predict(self, batch: Batch, graph: ExplicitEdges, nodes: Tensor, edges: Tensor) -> Tensor:
        """Numbers [B, P] from an edge's state and those of its two ends, or from its node's."""
        a, B = batch.architecture, len(nodes)
        result = nodes.new_full((B, a.num_parameters), float("nan"))
        edges = graph.unsort(edges)[:, : graph.num_forward]
        ends = graph.index[:, torch.argsort(graph.order)[: graph.num_forward]]
        source, target = self.predict_source(nodes), self.predict_target(nodes)
        joined = F.silu(self.predict_edge(edges) + source[:, ends[0]] + target[:, ends[1]])
        start = 0
        functions = self.edge_numbers.told(graph.of_edges)
        for block, function in zip(graph.of_edges.blocks, functions, strict=True):
            num = block.num_edges // block.num_features
            found = joined[:, start : start + num] @ function.T
            result[:, block_index(a, block).flatten().to(nodes.device)] = found.flatten(1)
            start += num
        alone = F.silu(target)
        functions = self.node_numbers.told(graph.of_nodes)
        for block, node, function in zip(
            graph.of_nodes.blocks, graph.node_of, functions, strict=True
        ):
            found = alone[:, node : node + block.num_edges // block.num_features] @ function.T
            result[:, block_index(a, block).flatten().to(nodes.device)] = found.flatten(1)
        return result


class _Numbers(nn.Module):
    """Numbers of edges or nodes, however many each has, as channels; and back."""

    frequencies: Tensor

    def __init__(self, config: PNAEncoderConfig, num_directions: int) -> None:
        super().__init__()
        C, K, num = config.unit_dim, config.kernel_dim, config.num_frequencies
        self.role = nn.Embedding(len(ROLES), C)
        self.functions, self.unseen, self.values = (
            nn.Sequential(nn.Linear(5 + C, C), nn.SiLU(), nn.Linear(C, width))
            for width in (K, C, C)
        )
        frequencies = torch.randn(num_directions, num, K) * config.frequency_scale * 2 * torch.pi
        self.register_buffer("frequencies", frequencies)
        self.inward = nn.Linear(num or K, C)
        self.sine = nn.Linear(num, C, bias=False) if num else None

    def _described(self, known: NumbersOfBlocks) -> Tensor:
        """Position, count and role of each number, [numbers of all blocks, 5 + C]."""
        role = self.role.weight[known.role]
        return torch.cat([known.positions.to(role), role], 1)

    def read(self, batch: Batch, known: NumbersOfBlocks) -> list[tuple[Tensor, Tensor | None]]:
        """Channels [B, edges or nodes, K] of each block, and what stands for hidden numbers.

        Channels are about as large as the numbers, however many of these there are.
        """
        described = self._described(known)
        functions = self.functions(described)
        functions = F.layer_norm(functions, functions.shape[-1:]).split(known.sizes)
        hidden = None if batch.visible is None else (~batch.visible).to(batch.values)
        unseen = self.unseen(described).split(known.sizes)
        return [
            (
                _flat(batch, block, batch.values) @ functions[i] / block.num_features**0.5,
                None
                if hidden is None
                else _flat(batch, block, hidden) @ unseen[i] / block.num_features,
            )
            for i, block in enumerate(known.blocks)
        ]

    def embed(self, numbers: Tensor, hidden: Tensor | None, direction: int) -> Tensor:
        """Channels [B, n, K] through Fourier features: [B, n, C]."""
        if self.sine is None:
            found: Tensor = self.inward(numbers)
        else:
            angles = numbers @ self.frequencies[direction].T
            found = self.inward(angles.cos()) + self.sine(angles.sin())
        return found if hidden is None else found + hidden

    def told(self, known: NumbersOfBlocks) -> tuple[Tensor, ...]:
        """What a state says of each number of a block: [numbers, C] a block."""
        functions: Tensor = self.values(self._described(known))
        return functions.split(known.sizes)


def _flat(batch: Batch, block: Block, values: Tensor) -> Tensor:
    """A block's numbers by edge or node: [B, P] -> [B, n, k]."""
    numbers = read_block(batch.architecture, block, values)
    return numbers.reshape(len(numbers), -1, block.num_features)
