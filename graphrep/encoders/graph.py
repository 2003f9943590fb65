"""The graph encoder: permutation-equivariant message passing over a network's own units.

One set of weights serves every architecture: blocks enter through the positions
of their numbers, units through their kind, activation and depth. The model
embedding does not depend on the order of hidden units.

Sources: Kofinas et al. 2024, arXiv:2403.12143 and Lim et al. 2024, arXiv:2312.04501.
Differences: dense blocks instead of explicit edges; kernels embedded through
their positions instead of padded; topology from the architecture, not from values;
edges say functions of their numbers and carry no state; the layers' moments stand
beside the learned part of the embedding.

Letters in shapes: B batch, N units, C unit channels, E edge channels, R rank of the
prediction of numbers, K numbers an edge or unit of all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..scaling import ROLES
from .base import Batch, Embedding, Encoder, depth_weights
from .layout import (
    ACTIVATION_NAMES,
    KINDS,
    NUM_FREQUENCIES,
    Features,
    Layout,
    layout_of,
    places_of_numbers,
)
from .message_passing import Functions, Round, exchange, fold, unfold
from .moments import NUM_MOMENTS, layer_moments
from .token_head import TokenHead


@dataclass(frozen=True, kw_only=True)
class GraphEncoderConfig:
    """Settings of `GraphEncoder`; see conf/encoder/graph.yaml."""

    name: str = "graph"
    unit_dim: int = 64
    linear_dim: int = 4  # channels of an edge that are linear in its numbers
    curved_dim: int = 8  # channels that are not
    value_dim: int = 8  # values that a unit says along its edges
    num_rounds: int = 3
    rank: int = 32  # of predicted numbers, between the units at an edge's two ends
    num_slots: int = 4  # depths kept apart in the embedding; at least the zoo's layers is best
    moments: bool = True  # layer moments beside the learned part

    def __post_init__(self) -> None:
        for field in ("unit_dim", "linear_dim", "curved_dim", "num_rounds", "rank", "num_slots"):
            if getattr(self, field) < 1:
                raise ValueError(f"encoder.{field} must be at least 1, got {getattr(self, field)}")
        if self.value_dim < 2:
            raise ValueError(f"encoder.value_dim must be at least 2, got {self.value_dim}")


class GraphEncoder(Encoder):
    """Networks of any architecture -> latents of tokens, units and the whole.

    In float64 the embedding ignores the order of hidden units, its company in the batch and
    padding to 1e-9 of the spread between networks, in float32 to 1e-5; the dense path is that
    along explicit edges to 1e-9, in float32 to 3e-4 (tests/encoders/test_single_precision.py).
    """

    invariant = True
    streams = True

    def __init__(self, config: GraphEncoderConfig, token_size: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        C, E = config.unit_dim, config.linear_dim + config.curved_dim
        self.role = nn.Embedding(len(ROLES), C)
        self.kernel = nn.Sequential(
            nn.Linear(4 + C, C), nn.GELU(), nn.Linear(C, config.num_rounds * E)
        )
        self.kernel_hidden = nn.Linear(C, config.num_rounds * E)
        self.diagonal = nn.Sequential(nn.Linear(4 + C, C), nn.GELU(), nn.Linear(C, C))
        self.diagonal_hidden = nn.Linear(C, C)
        self.kind = nn.Embedding(len(KINDS), C)
        self.activation = nn.Embedding(len(ACTIVATION_NAMES), C)
        self.place = nn.Linear(4 * NUM_FREQUENCIES, C)
        self.rounds = nn.ModuleList(
            Round(C, config.linear_dim, config.curved_dim, config.value_dim)
            for _ in range(config.num_rounds)
        )
        self.norm = nn.LayerNorm(C)
        self.predict_target = nn.Linear(C, config.rank)
        self.predict_source = nn.Linear(C, config.rank)
        self.predict_kernel = nn.Sequential(
            nn.Linear(4 + C, C), nn.GELU(), nn.Linear(C, 3 * config.rank + 1)
        )
        self.predict_diagonal = nn.Sequential(nn.Linear(4 + C, C), nn.GELU(), nn.Linear(C, C + 1))
        self.tokens = TokenHead(C, token_size, latent_dim)
        learned = config.num_slots * 2 * C
        self.num_moments = config.moments * config.num_slots * NUM_MOMENTS
        self.embedding_dim = learned + self.num_moments

    def forward(self, batch: Batch) -> Embedding:
        layout = layout_of(batch.architecture)
        state = self._start(batch, layout)
        functions = self._functions(batch, layout.edges)
        for number, layer in enumerate(self.rounds):
            assert isinstance(layer, Round)
            state = self._round(layer, batch, layout, state, [f[number] for f in functions])
        tokens = state.new_zeros(len(state), 0, self.latent_dim)
        if batch.tokens:
            tokens = self.tokens(batch, state)
        return Embedding(
            tokens=tokens,
            model=self._pool(batch, layout, state),
            units=state,
            numbers=self._predict(batch, layout, state) if batch.predict else None,
        )

    def _start(self, batch: Batch, layout: Layout) -> Tensor:
        """What a unit is before it hears of others: kind, activation, depth, its own numbers."""
        like, device = self.role.weight, batch.values.device
        state = self.place(layout.waves.to(like)) + self.kind.weight[layout.kind.to(device)]
        state = state + layout.activation.to(like) @ self.activation.weight
        added: dict[str, list[Tensor]] = {name: [] for name in layout.units}
        features = layout.diagonals
        functions = self.diagonal(self._described(features)).split(features.sizes)
        hidden = self.diagonal_hidden(self.role.weight[features.block_role.to(device)])
        for block, function, unseen in zip(features.blocks, functions, hidden, strict=True):
            assert block.target is not None
            own = batch.read(block) @ function / block.num_features**0.5  # [B, n, C]
            seen = batch.seen(block)
            if seen is not None:
                own = own + (1 - seen).unsqueeze(-1) * unseen
            added[block.target].append(own)
        return state + self._by_group(layout, added, batch, self.config.unit_dim)

    def _described(self, features: Features) -> Tensor:
        """What is known of each number of an edge or unit: its position and role, [K, 4 + C]."""
        role = self.role.weight[features.role.to(self.role.weight.device)]
        return torch.cat([features.positions.to(role), role], 1)

    def _functions(self, batch: Batch, features: Features) -> list[list[Functions]]:
        """The channels of each block, a list of rounds for each."""
        rounds, num_linear = self.config.num_rounds, self.config.linear_dim
        kernels = self.kernel(self._described(features)).split(features.sizes)
        role = self.role.weight[features.block_role.to(batch.values.device)]
        hidden = self.kernel_hidden(role).unflatten(1, (rounds, -1))
        return [
            [
                Functions(part, row, num_linear)
                for part, row in zip(
                    (kernel / block.num_features**0.5).chunk(rounds, 1), unseen, strict=True
                )
            ]
            for kernel, block, unseen in zip(kernels, features.blocks, hidden, strict=True)
        ]

    @staticmethod
    def _by_group(
        layout: Layout, parts: dict[str, list[Tensor]], batch: Batch, width: int
    ) -> Tensor:
        """Sums of the parts of each group, groups one after the other: [B, N, width]."""
        B, like = len(batch.values), batch.values
        summed = [
            sum(parts[name][1:], parts[name][0]) if parts[name] else like.new_zeros(B, size, width)
            for name, size in zip(layout.units, layout.sizes, strict=True)
        ]
        return torch.cat(summed, 1) if summed else like.new_zeros(B, 0, width)

    def _round(
        self, layer: Round, batch: Batch, layout: Layout, state: Tensor, functions: list[Functions]
    ) -> Tensor:
        normal = layer.norm(state)
        forward, backward = (
            dict(zip(layout.units, said.split(layout.sizes), strict=True))
            for said in layer.say(normal)
        )
        incoming: dict[str, list[Tensor]] = {name: [] for name in layout.units}
        outgoing: dict[str, list[Tensor]] = {name: [] for name in layout.units}
        for block, function in zip(layout.edges.blocks, functions, strict=True):
            assert block.source is not None and block.target is not None
            numbers, seen = fold(batch.read(block), block.groups), batch.seen(block)
            came, went = exchange(
                numbers,
                None if seen is None else fold(seen, block.groups),
                function,
                backward[block.target].fold(block.groups),
                forward[block.source].fold(block.groups),
            )
            t, s = numbers.shape[1:3]
            came = layer.mean(came, s, layout.num_incoming[block.target])
            went = layer.mean(went, t, layout.num_outgoing[block.source])
            incoming[block.target].append(unfold(came, block.groups))
            outgoing[block.source].append(unfold(went, block.groups))
        width = (self.config.linear_dim + self.config.curved_dim) * self.config.value_dim
        return layer.update(
            state,
            normal,
            self._by_group(layout, incoming, batch, width),
            self._by_group(layout, outgoing, batch, width),
            self._hear_kin(layer, batch, layout, normal),
        )

    def _hear_kin(
        self, layer: Round, batch: Batch, layout: Layout, normal: Tensor
    ) -> Tensor | None:
        if not layout.kin:
            return None
        groups = {name: normal[:, rows] for name, rows in layout.units.items()}
        heard = layer.hear_kin(groups, layout.kin)
        parts = {name: [heard[name]] if name in heard else [] for name in layout.units}
        return self._by_group(layout, parts, batch, self.config.unit_dim)

    def _predict(self, batch: Batch, layout: Layout, state: Tensor) -> Tensor:
        """Each number from the states of the units at its edge's two ends, [B, P].

        Bilinear in the two states at every position of the kernel, and linear in each;
        linear in its unit's state for a diagonal number. NaN for numbers of no unit.
        """
        normal, B = self.norm(state), len(state)
        features, found = layout.edges, []
        kernels = self.predict_kernel(self._described(features)).split(features.sizes)
        for block, kernel in zip(features.blocks, kernels, strict=True):
            assert block.source is not None and block.target is not None
            both, of_target, of_source, constant = kernel.split([*[self.config.rank] * 3, 1], 1)
            target = self.predict_target(normal[:, layout.units[block.target]])
            source = self.predict_source(normal[:, layout.units[block.source]])
            target, source = fold(target, block.groups), fold(source, block.groups)
            mixed = target.unsqueeze(2) * both + of_source  # [B, t, k, R]
            alone = target @ of_target.T + constant.T  # [B, t, k]
            numbers = mixed.flatten(1, 2) @ source.transpose(1, 2)  # [B, t * k, s]
            numbers = numbers.unflatten(1, mixed.shape[1:3]) + alone.unsqueeze(-1)
            found.append(numbers.transpose(2, 3).reshape(B, -1))
        features = layout.diagonals
        kernels = self.predict_diagonal(self._described(features)).split(features.sizes)
        for block, kernel in zip(features.blocks, kernels, strict=True):
            assert block.target is not None
            numbers = normal[:, layout.units[block.target]] @ kernel[:, 1:].T + kernel[:, 0]
            found.append(numbers.reshape(B, -1))
        found.append(state.new_full((B, 1), float("nan")))
        places = places_of_numbers(batch.architecture).to(state.device)
        return torch.cat(found, 1)[:, places]  # -1 is last

    def _pool(self, batch: Batch, layout: Layout, state: Tensor) -> Tensor:
        """Mean and deviation of unit states a group, spread by depth; then layer moments."""
        slots, C = self.config.num_slots, self.config.unit_dim
        groups = [_mean_and_deviation(states) for states in state.split(layout.sizes, 1)]
        found = torch.stack(groups, 1) if groups else state.new_zeros(len(state), 0, 2 * C)
        pooled = [(depth_weights(len(groups), slots, found) @ found).flatten(1)]
        if self.config.moments:
            pooled.append(layer_moments(batch, slots))
        return torch.cat(pooled, 1)


def _mean_and_deviation(states: Tensor) -> Tensor:
    """[B, n, C] -> [B, 2C]; the deviation is smooth at zero."""
    centre = states.mean(1)
    variance = (states - centre.unsqueeze(1)).square().mean(1)
    return torch.cat([centre, (variance + 1e-6).sqrt()], -1)
