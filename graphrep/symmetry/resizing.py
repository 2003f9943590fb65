"""Architectures with other numbers of hidden units: members left out, members repeated.

Knows which places of theta go and stay, so that values follow by one gather; what must be
summed or shared for the function to stay is said in `duplicates.py`.

Letters in shapes: n members of a unit group, s slots, P length of theta.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.spec import Block, Span, TensorSpec

Axis = tuple[str, int]  # a tensor and one of its axes


def resize(
    architecture: Architecture, members: Mapping[str, Tensor]
) -> tuple[Architecture, Tensor]:
    """The design with the given members of some unit groups, and where its numbers come from.

    Args:
        members: The old member that each new one is, int64 [n'], by unit group. Those that are
            named again go behind the others. No group may sit within or hold another, and its
            blocks lie along plain axes without groups (see `copies.can_merge`).

    Returns:
        The architecture, and for each number of its theta the place in the old one, int64 [P'].
    """
    axes: dict[Axis, _Axis] = {}
    for block in architecture.blocks:
        for axis, span in enumerate(block.axes):
            if span.units is not None and span.units in members:
                key = block.tensor, axis
                if key not in axes:
                    axes[key] = _Axis(architecture.tensor[block.tensor].shape[axis])
                axes[key].spans.setdefault(span, members[span.units])
    for axis_ in axes.values():
        axis_.lay_out()
    specs, gathered, offset = [], [], 0
    for spec in architecture.tensors:
        root = architecture.tensor[spec.tied_to] if spec.tied_to else spec
        shape = tuple(
            len(axes[root.name, a].origin) if (root.name, a) in axes else size
            for a, size in enumerate(spec.shape)
        )
        new = replace(spec, shape=shape)
        if spec.offset is not None:
            places = _places(spec)
            for a in range(len(shape)):
                if (spec.name, a) in axes:
                    places = places.index_select(a, axes[spec.name, a].origin)
            gathered.append(places.flatten())
            new = replace(new, offset=offset)
            offset += new.numel
        specs.append(new)
    units = [
        replace(u, size=len(members[u.name])) if u.name in members else u
        for u in architecture.units
    ]
    blocks = [_resized(block, axes) for block in architecture.blocks]
    result = replace(architecture, units=tuple(units), blocks=tuple(blocks), tensors=tuple(specs))
    return result, torch.cat(gathered) if gathered else torch.zeros(0, dtype=torch.int64)


def _places(spec: TensorSpec) -> Tensor:
    assert spec.offset is not None
    return torch.arange(spec.offset, spec.offset + spec.numel).view(spec.shape)


def _resized(block: Block, axes: Mapping[Axis, _Axis]) -> Block:
    spans = [
        axes[block.tensor, a].moved(span) if (block.tensor, a) in axes else span
        for a, span in enumerate(block.axes)
    ]
    return replace(block, axes=tuple(spans))


class _Axis:
    """One axis of a tensor: `origin` is the old place of each new one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.spans: dict[Span, Tensor] = {}  # that change, and their members
        self.places: dict[Span, Tensor] = {}  # new places [n', s]
        self.origin = torch.arange(size)

    def lay_out(self) -> None:
        """Members keep the order of the axis; repeated ones stand where a wider layer has them."""
        if len(self.spans) == 1:
            ((span, members),) = self.spans.items()
            found = self._whole(span, len(members))
            if found is not None:
                self.places[span] = found
                self.origin = torch.empty(found.numel(), dtype=torch.int64)
                self.origin[found.flatten()] = span.index()[members].flatten()
                return
        stays = torch.ones(self.size, dtype=torch.bool)
        for span, members in self.spans.items():
            left_out = torch.ones(span.size, dtype=torch.bool)
            left_out[members] = False
            stays[span.index()[left_out]] = False
        self._renumber = stays.cumsum(0) - 1
        self.origin = torch.nonzero(stays).flatten()
        for span, members in self.spans.items():
            again = _is_repeated(members)
            places = self._renumber[span.index()[members]]
            more = span.index()[members[again]]
            places[again] = len(self.origin) + torch.arange(more.numel()).view(more.shape)
            self.origin = torch.cat([self.origin, more.flatten()])
            self.places[span] = places

    def _whole(self, span: Span, num: int) -> Tensor | None:
        """New places [num, s] of a span that has the axis for itself, by member or by slot."""
        everything = torch.arange(num * span.slots)
        if span.covers(self.size):
            return everything.view(num, span.slots)
        by_slot = replace(span, start=0, stride=1, slot_stride=span.size)
        if span.size * span.slots == self.size and span == by_slot:
            return everything.view(span.slots, num).T
        return None

    def moved(self, span: Span) -> Span:
        """The same units' places along the new axis."""
        places = self.places[span] if span in self.places else self._renumber[span.index()]
        return Span.from_index(span.units, places)


def _is_repeated(members: Tensor) -> Tensor:
    """Which entries were named before, bool [n']."""
    first = torch.full((int(members.max()) + 1,), len(members))
    first = first.scatter_reduce(0, members, torch.arange(len(members)), "amin")
    return first[members] != torch.arange(len(members))
