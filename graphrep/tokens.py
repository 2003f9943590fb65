"""The token grid: theta cut into rows of one output unit, rows into pieces.

One grid serves every encoder and the decoder. A row holds what belongs to one
output unit: its incoming weights and its bias, or the scale, shift and
statistics of its norm. Knows places in theta; knows no encoder.

Letters in shapes: B batch, P parameters, T tokens, S token size.
Source: SANE, Schürholt et al. 2024, arXiv:2406.09997. There a norm costs three
nearly empty tokens a channel and a long row leaves its last piece nearly empty;
here a norm shares one row and pieces are of even length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .architecture import Architecture
from .architecture.reorder import tensor_of


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Where each token's numbers stand in theta."""

    index: Tensor  # int64 [T, S], place in theta, -1 where a token is padded
    position: Tensor  # int64 [T, 3]: global index n, layer l, output unit k
    target: Tensor  # int64 [T], node of the row's output unit, -1 for opaque rows
    layers: tuple[str, ...]  # the tensor that leads each layer's rows
    num_parameters: int

    @property
    def num_tokens(self) -> int:
        return len(self.index)

    @property
    def mask(self) -> Tensor:
        """Real entries, bool [T, S]."""
        return self.index >= 0

    def cut(self, theta: Tensor) -> Tensor:
        """theta [B, P] -> tokens [B, T, S], zero where padded."""
        return theta[:, self.index.clamp(min=0)] * self.mask

    def join(self, tokens: Tensor) -> Tensor:
        """tokens [B, T, S] -> theta [B, P]; the inverse of `cut`."""
        theta = tokens.new_empty(len(tokens), self.num_parameters)
        theta[:, self.index[self.mask]] = tokens[:, self.mask]
        return theta


@lru_cache(maxsize=64)
def token_grid(architecture: Architecture, token_size: int) -> TokenGrid:
    """The grid of an architecture; every parameter has exactly one place in it.

    Args:
        token_size: Numbers a token at most; longer rows become several tokens.
    """
    if token_size < 1:
        raise ValueError(f"token_size must be at least 1, got {token_size}")
    places = torch.arange(architecture.num_parameters)
    nodes = node_starts(architecture)
    pieces, positions, targets = [], [], []
    layers = _layers(architecture, places, nodes)
    for layer, (_, rows, row_targets) in enumerate(layers):
        num_pieces = -(-rows.shape[1] // token_size)
        cut = torch.full((len(rows), num_pieces, token_size), -1)
        for number, piece in enumerate(rows.tensor_split(num_pieces, dim=1)):
            cut[:, number, : piece.shape[1]] = piece
        pieces.append(cut.flatten(0, 1))
        k = torch.arange(len(rows))
        positions.append(
            torch.stack([torch.full_like(k, layer), k], 1).repeat_interleave(num_pieces, 0)
        )
        targets.append(row_targets.repeat_interleave(num_pieces))
    index = torch.cat(pieces) if pieces else torch.empty(0, token_size, dtype=torch.int64)
    position = torch.cat(positions) if positions else torch.empty(0, 2, dtype=torch.int64)
    numbered = torch.cat([torch.arange(len(index)).unsqueeze(1), position], 1)
    target = torch.cat(targets) if targets else torch.empty(0, dtype=torch.int64)
    names = tuple(name for name, _, _ in layers)
    return TokenGrid(index, numbered, target, names, architecture.num_parameters)


def node_starts(architecture: Architecture) -> dict[str, int]:
    """The first node of each unit group, counting nodes in the order of the groups."""
    starts, start = {}, 0
    for units in architecture.units:
        starts[units.name] = start
        start += units.size
    return starts


def _layers(
    architecture: Architecture, places: Tensor, nodes: dict[str, int]
) -> list[tuple[str, Tensor, Tensor]]:
    """Each leading tensor, its rows [n, length] with those that follow it, their nodes [n]."""
    axis_of = {b.tensor: b.target_axis for b in reversed(architecture.blocks)}
    leaders: dict[str, list[str]] = {}
    for block in architecture.blocks:
        leader = (
            block.leader if _may_follow(architecture, block.leader, block.tensor, axis_of) else ""
        )
        members = leaders.setdefault(leader or block.tensor, [leader or block.tensor])
        if block.tensor not in members:
            members.append(block.tensor)
    layers = []
    for leader, members in leaders.items():
        rows = torch.cat([_rows(architecture, places, name, axis_of[name]) for name in members], 1)
        if rows.numel():
            layers.append((leader, rows, _row_nodes(architecture, leader, len(rows), nodes)))
    return layers


def _may_follow(
    a: Architecture, leader: str, follower: str, axis_of: dict[str, int | None]
) -> bool:
    """Whether the follower has a row for each row of its leader."""
    if leader not in axis_of or axis_of[leader] is None or axis_of[follower] is None:
        return False
    sizes = [a.tensor[name].shape[axis_of[name] or 0] for name in (leader, follower)]
    return sizes[0] == sizes[1]


def _rows(a: Architecture, places: Tensor, name: str, axis: int | None) -> Tensor:
    value = tensor_of(a.tensor[name], places)
    if axis is None:
        return value.reshape(1, -1) if value.dim() < 2 else value.flatten(1)
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)


def _row_nodes(a: Architecture, name: str, num_rows: int, nodes: dict[str, int]) -> Tensor:
    result = torch.full((num_rows,), -1)
    for block in a.blocks:
        if block.tensor == name and block.target is not None and block.target_axis is not None:
            index = block.axes[block.target_axis].index()
            members = torch.arange(index.shape[0]).unsqueeze(1).expand(index.shape)
            result[index.flatten()] = nodes[block.target] + members.flatten()
    return result
