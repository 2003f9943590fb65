"""One parameter as blocks: which of its axes, alone or merged, lie along which units."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .labels import Use
from .spec import Block, BlockKind, Span

if TYPE_CHECKING:
    from .grouping import Groups

UNIT_PARTS = ("in", "out", "unit")


def blocks_of(
    tensor: str,
    shape: tuple[int, ...],
    use: Use,
    groups: Groups,
    names: Mapping[int, str],
) -> list[Block]:
    """The blocks of a placed parameter; none where its units follow no order of its axes."""
    parts = _simplified(tensor, use, groups)
    ends = {part: axes for axes, part in parts.items() if part in UNIT_PARTS}
    target = ends.get("out") or next(iter(ends.values()))
    others = [axes for axes in ends.values() if axes != target]
    if len(ends) != sum(p in UNIT_PARTS for p in parts.values()):  # two alike: a bilinear table
        others = [a for a, p in parts.items() if p in UNIT_PARTS and a != target]
    source = others[0] if others else None
    if source is not None and set(source) & set(target):
        return _grouped(tensor, shape, use, groups, names, target, source)
    if len(others) > 1 or len([a for axes in parts for a in axes]) != len(shape):
        return []
    layout = tuple(sorted(parts))
    choices = []
    for axes in layout:
        if parts[axes] in UNIT_PARTS:
            spans = groups.spans(tensor, axes)
            choices.append([Span.from_index(names[g], index) for g, index in spans])
        else:
            size = prod(shape[a] for a in axes)
            choices.append([Span.from_index(None, torch.arange(size).unsqueeze(0))])
    kind: BlockKind = "lookup" if use.lookup else "diagonal" if source is None else "dense"
    combinations = list(product(*choices))
    target_axis = layout.index(target)
    source_axis = None if source is None else layout.index(source)
    simple = layout == tuple((a,) for a in range(len(shape)))
    return [
        Block(
            name=tensor if len(combinations) == 1 else f"{tensor}[{number}]",
            tensor=tensor,
            kind=kind,
            role=use.role,
            axes=axes,
            source=None if source_axis is None else axes[source_axis].units,
            target=axes[target_axis].units,
            source_axis=source_axis,
            target_axis=target_axis,
            leader=use.leader,
            layout=() if simple else layout,
        )
        for number, axes in enumerate(combinations)
    ]


def _simplified(tensor: str, use: Use, groups: Groups) -> dict[tuple[int, ...], str]:
    """Parts with joint axes reduced to those along which units change."""
    parts: dict[tuple[int, ...], str] = {}
    claimed: set[int] = set()
    for axes, part in use.parts.items():
        if part in UNIT_PARTS and len(axes) > 1:
            found = groups.axis_classes[tensor, axes].view(groups.sizes(tensor, axes))
            kept = tuple(
                a for dim, a in enumerate(axes) if bool((found != found.narrow(dim, 0, 1)).any())
            )
            if kept and kept != axes:
                groups.reduce(tensor, axes, kept)
                axes = kept
        parts[axes] = part
        claimed |= set(axes) if part in UNIT_PARTS else set()
    result = {a: p for a, p in parts.items() if p in UNIT_PARTS or not set(a) & claimed}
    for axis in {a for axes in use.parts for a in axes} - {a for axes in result for a in axes}:
        result[(axis,)] = "position"
    return result


def _grouped(
    tensor: str,
    shape: tuple[int, ...],
    use: Use,
    groups: Groups,
    names: Mapping[int, str],
    target: tuple[int, ...],
    source: tuple[int, ...],
) -> list[Block]:
    """Targets that read the sources of their own group: grouped convolutions, stacks of experts."""
    shared = [a for a in target if a in source]
    own = tuple(a for a in source if a not in shared)
    targets = groups.spans(tensor, target)
    found = groups.axis_classes[tensor, source].view(-1, prod(shape[a] for a in own))
    if not own or target[: len(shared)] != source[: len(shared)]:
        return []
    kinds, group_of = torch.unique(found, dim=0, return_inverse=True)
    s = int(groups.of_class[found[0, 0]])
    if not bool((groups.of_class[found] == s).all()):
        keys = groups.slot_keys(tensor, source).view(found.shape)
        firsts = [int((group_of == kind).nonzero()[0, 0]) for kind in range(len(kinds))]
        return _sections(tensor, shape, use, groups, names, group_of, found[firsts], keys[firsts])
    if len(targets) != 1:
        return []
    (t, rows), num_groups = targets[0], len(kinds)
    members = groups.member_of_class[kinds]  # [groups, places of the own axes]
    width = len(groups.members[s]) // num_groups
    lowest, kinds_in_order = members.amin(1).sort()
    rank = torch.empty_like(kinds_in_order)
    rank[kinds_in_order] = torch.arange(num_groups)
    within = members - members.amin(1, keepdim=True)
    regular = torch.equal(lowest, torch.arange(num_groups) * width)
    if not regular or int(within.max()) >= width or not bool((within == within[:1]).all()):
        return []
    columns = torch.argsort(within[0], stable=True).view(width, -1)
    across = prod(shape[a] for a in target) // len(found)  # places of the target's own axes
    stands = torch.arange(len(rows)) // (len(rows) // num_groups)
    if not bool((rank[group_of[rows // across]] == stands.unsqueeze(1)).all()):
        return []
    rest = tuple((a,) for a in range(len(shape)) if a not in (*target, *own))
    layout = tuple(sorted([target, own, *rest]))
    spans: dict[tuple[int, ...], Span] = {
        target: Span.from_index(names[t], rows),
        own: Span.from_index(names[s], columns),
        **{a: Span.from_index(None, torch.arange(shape[a[0]]).unsqueeze(0)) for a in rest},
    }
    simple = layout == tuple((a,) for a in range(len(shape)))
    return [
        Block(
            name=tensor,
            tensor=tensor,
            kind="dense",
            role=use.role,
            axes=tuple(spans[a] for a in layout),
            source=names[s],
            target=names[t],
            source_axis=layout.index(own),
            target_axis=layout.index(target),
            leader=use.leader,
            layout=() if simple else layout,
            groups=num_groups,
        )
    ]


def _sections(
    tensor: str,
    shape: tuple[int, ...],
    use: Use,
    groups: Groups,
    names: Mapping[int, str],
    section_of: Tensor,
    found: Tensor,
    keys: Tensor,
) -> list[Block]:
    """Rows that read units of different kinds, section by section: a packed projection.

    `section_of` [rows]; `found` and `keys` [sections, columns], the units that each reads.
    """
    if len(shape) != 2 or len(found) > 8:
        return []
    blocks: list[Block] = []
    for section, (line, key) in enumerate(zip(found, keys, strict=True)):
        for t, places in groups.spans(tensor, (0,)):
            inside = section_of[places] == section
            if not bool((inside == inside[:1]).all()):
                return []
            if not bool(inside.any()):
                continue
            rows = Span.from_index(names[t], places[:, inside[0]])
            for s, columns in groups.spans_of(line, key):
                blocks.append(
                    Block(
                        name=f"{tensor}[{len(blocks)}]",
                        tensor=tensor,
                        kind="dense",
                        role=use.role,
                        axes=(rows, Span.from_index(names[s], columns)),
                        source=names[s],
                        target=names[t],
                        source_axis=1,
                        target_axis=0,
                        leader=use.leader,
                        layout=((0,), (1,)),  # columns move by section, not as one axis
                    )
                )
    return blocks
