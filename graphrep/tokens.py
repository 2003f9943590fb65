"""The token grid: theta cut into rows of one output unit, rows into pieces.

One grid serves every encoder and the decoder. A row holds what belongs to one
output unit: its incoming weights and its bias, or the scale, shift and
statistics of its norm. Knows places in theta; knows no encoder.

Letters in shapes: B batch, P parameters, T tokens, S token size, R readers (kinds of
rows that read from the same units), K means of units that a reader reads at most.
Source: SANE, Schürholt et al. 2024, arXiv:2406.09997. There a norm costs three
nearly empty tokens a channel and a long row leaves its last piece nearly empty;
here a norm shares one row and pieces are of even length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from .architecture import Architecture, Block
from .architecture.reorder import tensor_of

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Where each token's numbers stand in theta."""

    index: Tensor  # int64 [T, S], place in theta, -1 where a token is padded
    position: Tensor  # int64 [T, 3]: global index n, layer l, output unit k
    target: Tensor  # int64 [T], node of the row's output unit, -1 for opaque rows
    layers: tuple[str, ...]  # the tensor that leads each layer's rows
    sources: tuple[tuple[str, int], ...]  # units that rows read from, and in how many groups
    reads: Tensor  # int64 [R, K], groups of `sources` counted through, -1 where there are fewer
    reader: Tensor  # int64 [T], the row of `reads` that says what a token's row reads from
    num_parameters: int

    @property
    def num_tokens(self) -> int:
        return len(self.index)

    @property
    def mask(self) -> Tensor:
        """Real entries, bool [T, S]."""
        return self.index >= 0

    def to(self, device: torch.device) -> TokenGrid:
        """The same grid on another device, moved there once and kept."""
        return self if self.index.device == device else _moved(self, device)

    @cached_property
    def _sources(self) -> Tensor:
        """int32 [T, S]: where a token's numbers come from; padding reads a zero after the last."""
        kind = torch.int32 if self.num_parameters < 2**31 - 1 else torch.int64
        return torch.where(self.mask, self.index, self.num_parameters).to(kind)

    @cached_property
    def _places(self) -> Tensor:
        """int32 [P]: where each parameter stands among the T * S numbers of the tokens."""
        kind = torch.int32 if self.index.numel() < 2**31 else torch.int64
        real = self.mask.flatten().nonzero().flatten().to(kind)
        places = torch.empty(self.num_parameters, dtype=kind, device=self.index.device)
        places[self.index.flatten()[real]] = real
        return places

    def cut(self, theta: Tensor, window: slice = ALL) -> Tensor:
        """theta [B, P] -> tokens [B, T, S] of a window, zero where padded."""
        sources = self.to(theta.device)._sources[window]
        padded = torch.nn.functional.pad(theta, (0, 1))
        return padded.index_select(1, sources.flatten()).view(len(theta), *sources.shape)

    def join(self, tokens: Tensor) -> Tensor:
        """tokens [B, T, S] -> theta [B, P]; the inverse of `cut`."""
        return tokens.flatten(1).index_select(1, self.to(tokens.device)._places)


@lru_cache(maxsize=1024)
def _moved(grid: TokenGrid, device: torch.device) -> TokenGrid:
    names = ("index", "position", "target", "reads", "reader")
    return replace(grid, **{name: getattr(grid, name).to(device) for name in names})


@lru_cache(maxsize=1024)
def token_grid(architecture: Architecture, token_size: int) -> TokenGrid:
    """The grid of an architecture; every parameter has exactly one place in it.

    Args:
        token_size: Numbers a token at most; longer rows become several tokens.
    """
    if token_size < 1:
        raise ValueError(f"token_size must be at least 1, got {token_size}")
    pieces, positions, targets, readers = [], [], [], []
    layers = _layers(architecture)
    sources, reads, reader_of_row = _readers(architecture, layers)
    for number, layer in enumerate(layers):
        num_pieces = -(-layer.places.shape[1] // token_size)
        cut = torch.full((len(layer.places), num_pieces, token_size), -1)
        for p, piece in enumerate(layer.places.tensor_split(num_pieces, dim=1)):
            cut[:, p, : piece.shape[1]] = piece
        pieces.append(cut.flatten(0, 1))
        k = torch.arange(len(layer.places))
        position = torch.stack([torch.full_like(k, number), k], 1)
        positions.append(position.repeat_interleave(num_pieces, 0))
        targets.append(layer.nodes.repeat_interleave(num_pieces))
        readers.append(reader_of_row[number].repeat_interleave(num_pieces))
    none = torch.empty(0, dtype=torch.int64)
    index = torch.cat([none.view(0, token_size), *pieces])
    position = torch.cat([none.view(0, 2), *positions])
    return TokenGrid(
        index=index,
        position=torch.cat([torch.arange(len(index)).unsqueeze(1), position], 1),
        target=torch.cat([none, *targets]),
        layers=tuple(layer.leader.tensor for layer in layers),
        sources=sources,
        reads=reads,
        reader=torch.cat([none, *readers]),
        num_parameters=architecture.num_parameters,
    )


def node_starts(architecture: Architecture) -> dict[str, int]:
    """The first node of each unit group, counting nodes in the order of the groups."""
    starts, start = {}, 0
    for units in architecture.units:
        starts[units.name] = start
        start += units.size
    return starts


class _Layer(NamedTuple):
    leader: Block  # the first block of the tensor that leads
    places: Tensor  # int64 [n, length]: its rows in theta, with those that follow it
    nodes: Tensor  # int64 [n], -1 where a row belongs to no unit


def _layers(a: Architecture) -> list[_Layer]:
    """Each leading tensor's rows, with those of the tensors that follow it."""
    places, starts = torch.arange(a.num_parameters), node_starts(a)
    first = {block.tensor: block for block in reversed(a.blocks)}
    rows = {name: _rows(a, places, block) for name, block in first.items()}
    nodes = {name: _row_nodes(a, block, len(rows[name]), starts) for name, block in first.items()}
    members: dict[str, dict[str, None]] = {}
    for block in a.blocks:
        leader = first.get(block.leader)
        follows = (
            leader is not None
            and leader.target_axis is not None
            and first[block.tensor].target_axis is not None
            and torch.equal(nodes[leader.tensor], nodes[block.tensor])
        )
        name = block.leader if follows else block.tensor
        members.setdefault(name, {name: None})[block.tensor] = None
    return [
        _Layer(first[name], torch.cat([rows[member] for member in found], 1), nodes[name])
        for name, found in members.items()
        if rows[name].numel()
    ]


def _rows(a: Architecture, places: Tensor, block: Block) -> Tensor:
    """Places of a whole tensor in theta, a row an output unit as its block sees them."""
    value = tensor_of(a.tensor[block.tensor], places)
    if block.layout:
        sizes = [prod(value.shape[axis] for axis in merged) for merged in block.layout]
        value = value.permute([axis for merged in block.layout for axis in merged]).reshape(sizes)
    if block.target_axis is None:
        return value.reshape(1, -1) if value.dim() < 2 else value.flatten(1)
    return value.movedim(block.target_axis, 0).reshape(value.shape[block.target_axis], -1)


def _along(a: Architecture, first: Block) -> list[tuple[Block, Tensor]]:
    """The blocks that share a tensor's rows, and their units' rows [members, slots]."""
    return [
        (block, block.axes[block.target_axis].index())
        for block in a.blocks
        if block.tensor == first.tensor
        and block.target is not None
        and block.target_axis is not None
        and (block.target_axis, block.layout) == (first.target_axis, first.layout)
    ]


def _row_nodes(a: Architecture, first: Block, num_rows: int, starts: dict[str, int]) -> Tensor:
    result = torch.full((num_rows,), -1)
    for block, index in _along(a, first):
        assert block.target is not None
        members = torch.arange(len(index)).unsqueeze(1).expand(index.shape)
        result[index.flatten()] = starts[block.target] + members.flatten()
    return result


def _readers(
    a: Architecture, layers: list[_Layer]
) -> tuple[tuple[tuple[str, int], ...], Tensor, list[Tensor]]:
    """`sources` and `reads` of the grid, and the reader of each layer's rows."""
    start: dict[tuple[str, int], int] = {}
    total, num_readers = 0, 0
    reads, readers = [], []
    for layer in layers:
        columns: dict[tuple[str, int], Tensor] = {}
        for block, index in _along(a, layer.leader):
            if block.source is None:
                continue
            source = (block.source, block.groups)
            if source not in start:
                start[source] = total
                total += block.groups
            column = columns.setdefault(source, torch.full((len(layer.places),), -1))
            group = torch.arange(len(index)) // (len(index) // block.groups)
            column[index.flatten()] = start[source] + group.repeat_interleave(index.shape[1])
        empty = torch.full((len(layer.places), 1), -1)
        found = torch.stack(list(columns.values()), 1) if columns else empty
        different, reader = torch.unique(found, dim=0, return_inverse=True)
        reads.append(different)
        readers.append(num_readers + reader)
        num_readers += len(different)
    most = max((r.shape[1] for r in reads), default=1)
    padded = [torch.nn.functional.pad(r, (0, most - r.shape[1]), value=-1) for r in reads]
    return tuple(start), torch.cat([torch.empty(0, most, dtype=torch.int64), *padded]), readers
