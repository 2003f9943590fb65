"""The graph encoder: permutation-equivariant message passing over a network's own units.

One set of weights serves every architecture: blocks enter through the positions
of their numbers, units through their kind, activation and depth. The model
embedding does not depend on the order of hidden units.

Sources: Kofinas et al. 2024, arXiv:2403.12143 and Lim et al. 2024, arXiv:2312.04501.
Differences: dense blocks instead of explicit edges; kernels embedded through
their positions instead of padded; topology from the architecture, not from values;
the layers' moments stand beside the learned part of the embedding.

Letters in shapes: B batch, N units, C unit channels, E edge channels, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architecture import Architecture, Block
from ..architecture.reorder import read_block
from ..architecture.rules import ACTIVATIONS
from ..scaling import ROLES
from .base import NUM_MOMENTS, Batch, Embedding, Encoder, depth_weights, layer_moments
from .message_passing import Kin, Round, fold, kin, unfold

KINDS = ("input", "hidden", "output", "fixed")
ACTIVATION_NAMES = ("none", "other", *ACTIVATIONS.split())
NUM_FREQUENCIES = 6


@dataclass(frozen=True, kw_only=True)
class GraphEncoderConfig:
    """Settings of `GraphEncoder`; see conf/encoder/graph.yaml."""

    name: str = "graph"
    unit_dim: int = 48
    edge_dim: int = 8
    value_dim: int = 8  # per edge channel
    num_rounds: int = 3
    num_slots: int = 4  # depths kept apart in the embedding; at least the zoo's layers is best
    moments: bool = True  # layer moments beside the learned part

    def __post_init__(self) -> None:
        for field in ("unit_dim", "edge_dim", "value_dim", "num_rounds", "num_slots"):
            if getattr(self, field) < 1:
                raise ValueError(f"encoder.{field} must be at least 1, got {getattr(self, field)}")


class GraphEncoder(Encoder):
    """Networks of any architecture -> latents of tokens, units and the whole."""

    def __init__(self, config: GraphEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        C, E = config.unit_dim, config.edge_dim
        self.role = nn.Embedding(len(ROLES), C)
        self.kernel = nn.Sequential(nn.Linear(4 + C, C), nn.GELU(), nn.Linear(C, 2 * E))
        self.kernel_seen = nn.Linear(C, E)
        self.edge_start = nn.Linear(2 * E, E)
        self.diagonal = nn.Sequential(nn.Linear(4 + C, C), nn.GELU(), nn.Linear(C, C))
        self.diagonal_seen = nn.Linear(C, C)
        self.kind = nn.Embedding(len(KINDS), C)
        self.activation = nn.Embedding(len(ACTIVATION_NAMES), C)
        self.place = nn.Linear(2 * 2 * NUM_FREQUENCIES, C)
        self.rounds = nn.ModuleList(Round(C, E, config.value_dim) for _ in range(config.num_rounds))
        self.token_own = nn.Linear(2 * token_size, C)
        self.token_ends = nn.Linear(2 * C, C)
        self.token_mix = nn.Sequential(
            nn.LayerNorm(C), nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C)
        )
        self.token_out = nn.Linear(C + token_size, latent_dim)
        learned = config.num_slots * (2 * C + 2 * E)
        self.embedding_dim = learned + config.moments * config.num_slots * NUM_MOMENTS

    def forward(self, batch: Batch) -> Embedding:
        a = batch.architecture
        state = self._start(batch)
        edges = {i: self._edge(batch, b) for i, b in enumerate(a.blocks) if b.source is not None}
        nested = kin(a, batch.values.device)
        for layer in self.rounds:
            assert isinstance(layer, Round)
            state, edges = self._round(layer, a, state, edges, nested)
        none = batch.values.new_zeros(len(batch.values), 0, self.config.unit_dim)
        units = torch.cat([none, *(state[u.name] for u in a.units)], 1)
        return Embedding(
            tokens=self._tokens(batch, units, state),
            model=self._pool(batch, state, edges),
            units=units,
        )

    def _start(self, batch: Batch) -> dict[str, Tensor]:
        """What a unit is before it hears of others: kind, activation, depth, its own numbers."""
        a, B = batch.architecture, len(batch.values)
        state = {}
        for number, units in enumerate(a.units):
            names = [n if n in ACTIVATION_NAMES else "other" for n in units.activations] or ["none"]
            chosen = torch.tensor([ACTIVATION_NAMES.index(n) for n in names]).to(
                batch.values.device
            )
            fixed = torch.linspace(-1, 1, units.size) if units.fixed else torch.zeros(units.size)
            depth = torch.full((units.size,), number / max(1, len(a.units) - 1))
            place = self.place(_waves(torch.stack([depth, fixed], 1)).to(batch.values))
            kind = self.kind.weight[KINDS.index(units.kind)]
            start = place + kind + self.activation(chosen).mean(0)
            state[units.name] = start.expand(B, *start.shape)
        for block in a.blocks:
            if block.kind == "diagonal" and block.target is not None:
                numbers = read_block(a, block, batch.values)  # [B, n, k]
                functions = self.diagonal(self._features(block)) / block.num_features**0.5
                added = numbers @ functions
                if batch.visible is not None:
                    seen = read_block(a, block, batch.visible.to(numbers))
                    role = self.role.weight[_role(block)]
                    added = added + (1 - seen.mean(-1, keepdim=True)) * self.diagonal_seen(role)
                state[block.target] = state[block.target] + added
        return state

    def _features(self, block: Block) -> Tensor:
        """What is known of each number of a unit pair: its position and role, [k, 4 + C]."""
        role = self.role.weight[_role(block)]
        positions = block.positions().to(role)
        return torch.cat([positions, role.expand(len(positions), -1)], 1)

    def _edge(self, batch: Batch, block: Block) -> Tensor:
        """A unit pair's numbers, whatever their count, as edge channels: [B * groups, t, s, E]."""
        numbers = read_block(batch.architecture, block, batch.values)
        functions = self.kernel(self._features(block)) / block.num_features**0.5
        edge = self.edge_start(nn.functional.gelu(numbers @ functions))
        edge = edge + numbers @ functions[:, : edge.shape[-1]]
        if batch.visible is not None:
            seen = read_block(batch.architecture, block, batch.visible.to(numbers))
            role = self.role.weight[_role(block)]
            edge = edge + (1 - seen.mean(-1, keepdim=True)) * self.kernel_seen(role)
        return fold(edge, block.groups)

    @staticmethod
    def _round(
        layer: Round,
        a: Architecture,
        state: dict[str, Tensor],
        edges: dict[int, Tensor],
        nested: list[Kin],
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        normal = {name: layer.norm(s) for name, s in state.items()}
        incoming = {name: torch.zeros_like(s) for name, s in state.items()}
        outgoing = {name: torch.zeros_like(s) for name, s in state.items()}
        counts_in: dict[str, int] = {}
        counts_out: dict[str, int] = {}
        updated = {}
        for number, edge in edges.items():
            block = a.blocks[number]
            assert block.source is not None and block.target is not None
            source = fold(normal[block.source], block.groups)
            target = fold(normal[block.target], block.groups)
            edge = layer.edges(edge, target, source)
            updated[number] = edge
            message = unfold(layer.forward_message(edge, source), block.groups)
            incoming[block.target] = incoming[block.target] + message
            back = unfold(layer.backward_message(edge.transpose(1, 2), target), block.groups)
            outgoing[block.source] = outgoing[block.source] + back
            counts_in[block.target] = counts_in.get(block.target, 0) + 1
            counts_out[block.source] = counts_out.get(block.source, 0) + 1
        heard = layer.hear_kin(normal, nested) if nested else {}
        new = {
            name: layer.units(
                s,
                normal[name],
                incoming[name] / max(1, counts_in.get(name, 0)),
                outgoing[name] / max(1, counts_out.get(name, 0)),
                heard.get(name),
            )
            for name, s in state.items()
        }
        return new, updated

    def _tokens(self, batch: Batch, units: Tensor, state: dict[str, Tensor]) -> Tensor:
        """A token's latent reads its own numbers and the states of the units at its two ends."""
        grid, window = batch.grid, batch.window
        own = grid.cut(batch.values)[:, window]
        seen = (
            torch.ones_like(own)
            if batch.visible is None
            else grid.cut(batch.visible.to(own))[:, window]
        )
        nothing = units.new_zeros(len(units), 1, units.shape[2])
        ends = torch.cat([units, nothing], 1)[:, grid.target[window].to(units.device)]  # -1 is last
        sources = self._source_means(batch, state, nothing)
        hidden = self.token_own(torch.cat([own, seen], -1)) + self.token_ends(
            torch.cat([ends, sources], -1)
        )
        hidden = hidden + self.token_mix(hidden)
        return self.token_out(torch.cat([hidden, own], -1))

    @staticmethod
    def _source_means(batch: Batch, state: dict[str, Tensor], nothing: Tensor) -> Tensor:
        """Mean state of the units that each of the window's tokens reads from, [B, T, C]."""
        grid = batch.grid
        means = [state[name].unflatten(1, (groups, -1)).mean(2) for name, groups in grid.sources]
        reads = grid.reads.to(nothing.device)
        found = torch.cat([*means, nothing], 1)[:, reads].sum(2)  # -1 is last
        found = found / (reads >= 0).sum(1, keepdim=True).clamp(min=1)
        return found[:, grid.reader[batch.window].to(nothing.device)]

    def _pool(self, batch: Batch, state: dict[str, Tensor], edges: dict[int, Tensor]) -> Tensor:
        """Mean and deviation of unit states a group and edge channels a layer, spread by depth."""
        slots, C, E = self.config.num_slots, self.config.unit_dim, self.config.edge_dim
        groups = [state[u.name] for u in batch.architecture.units]
        layers = [e.reshape(len(batch.values), -1, E) for e in edges.values()]
        pooled = []
        for parts, width in ((groups, C), (layers, E)):
            none = batch.values.new_zeros(len(batch.values), 0, 2 * width)
            found = torch.stack([_mean_and_deviation(p) for p in parts], 1) if parts else none
            pooled.append((depth_weights(len(parts), slots, found) @ found).flatten(1))
        if self.config.moments:
            pooled.append(layer_moments(batch.values, batch.architecture, slots))
        return torch.cat(pooled, 1)


def _mean_and_deviation(states: Tensor) -> Tensor:
    """[B, n, C] -> [B, 2C]; the deviation is smooth at zero."""
    centre = states.mean(1)
    variance = (states - centre.unsqueeze(1)).square().mean(1)
    return torch.cat([centre, (variance + 1e-6).sqrt()], -1)


def _role(block: Block) -> int:
    return ROLES.index(block.role) if block.role in ROLES else ROLES.index("other")


def _waves(places: Tensor) -> Tensor:
    """Sines and cosines of places [n, d] -> [n, d * 2 * NUM_FREQUENCIES]."""
    frequencies = torch.pi * 2.0 ** torch.arange(NUM_FREQUENCIES)
    angles = (places.unsqueeze(-1) * frequencies).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], 1)
