"""Weight matching: the reordering of a network's units that lies closest to a reference.

Source: git re-basin, Ainsworth et al. 2023, arXiv:2209.04836, algorithm 1 (coordinate
descent over linear assignments). Here groups come from the traced architecture and may be
nested, biases and statistics count too, groups are visited in order instead of at random,
and a first pass in execution order, matching each group by what is settled before it, gives
a second start; the closer result is kept.

Letters in shapes: T targets, S sources (of a group of targets), k kernel positions and slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import read_block, reorder_theta, tensor_of
from ..architecture.spec import Block
from ..graph import ParameterGraph
from .assignment import Nest, Orders, Score, rematch
from .permutation import Permutation

MAX_SWEEPS = 50
LARGE = 20_000_000  # numbers of a network from which on similarities are summed in float32


def match_weights(
    graph: ParameterGraph, reference: ParameterGraph, *, statistics: bool = True
) -> Permutation:
    """The permutation that brings a graph's units close to those of the reference.

    The Euclidean distance between the two thetas never increases by it.

    Args:
        statistics: Whether running statistics count, as in the whole of theta. Variances can
            be far larger than weights and then decide alone; leave them out to merge networks
            with batch norm, as git re-basin does.

    Raises:
        ValueError: the two have different architectures, or one has no values.
    """
    require_same_design(graph, reference)
    a = graph.architecture
    nest, score = Nest.of(a), WeightScore(a, graph.theta, reference.theta, statistics)
    first = in_execution_order(nest, score)
    if score.distance(first) == 0:  # a permuted copy
        return Permutation(a, first)
    starts = (first, nest.identity())
    found = [*(_descend(nest, score, start) for start in starts), nest.identity()]
    distances = [score.distance(orders) for orders in found]
    return Permutation(a, found[distances.index(min(distances))])


def require_same_design(graph: ParameterGraph, reference: ParameterGraph) -> None:
    """Raise ValueError unless both have values and one architecture.

    Their operations may differ, as where values choose the experts that run.
    """
    a, b = graph.architecture, reference.architecture
    graph.require_values("align")
    reference.require_values("align")
    if a.fingerprint == b.fingerprint:
        return
    if (a.units, a.blocks, a.tensors) != (b.units, b.blocks, b.tensors):
        raise ValueError(
            f"cannot align '{a.name}' ({a.fingerprint}) with '{b.name}' ({b.fingerprint}): "
            "the two architectures differ"
        )


class WeightScore:
    """Inner products of one network's numbers with the reference's; see `assignment.Score`."""

    def __init__(
        self, architecture: Architecture, theta: Tensor, goal: Tensor, statistics: bool = True
    ) -> None:
        self.architecture = architecture
        self.theta, self.goal = torch.nan_to_num(theta.detach()), torch.nan_to_num(goal.detach())
        if not statistics:
            for spec in architecture.stored:
                if spec.role == "statistic":
                    tensor_of(spec, self.theta).zero_()
                    tensor_of(spec, self.goal).zero_()
        self.scale = float(self.theta.double().norm() * self.goal.double().norm())
        self.large = len(theta) > LARGE
        self._kept: dict[tuple[str, bool], Tensor] = {}
        self._settled: dict[str, Tensor] = {}  # of blocks with one end that moves
        self._blocks: dict[str, list[Block]] = {}
        for block in architecture.blocks:
            for end in {block.target, block.source} - {None}:
                self._blocks.setdefault(str(end), []).append(block)

    def similarity(
        self, units: str, members: Tensor, orders: Mapping[str, Tensor], known: set[str] | None
    ) -> Tensor | None:
        """Inner products of rows with rows where `units` are targets, of columns where sources."""
        num, m = members.shape
        total = None
        for block in self._blocks.get(units, []):
            if not self._counts(block, known, {units}):
                continue
            if self._moves_alone(block) and num == 1:
                found = self._alone(block)[
                    members.unsqueeze(2), orders[units][members].unsqueeze(1)
                ]
                total = found if total is None else total + found
                continue
            goal, placed = self._read(block, True), _place(block, self._read(block, False), orders)
            for end in _ends(block):
                if end[0] == units:
                    rows = _rows(block, goal, end[1])[members.flatten()].view(num, m, -1)
                    columns = _rows(block, placed, end[1])[members.flatten()].view(num, m, -1)
                    found = (rows @ columns.mT).double()
                    total = found if total is None else total + found
        return total

    def worth(
        self, names: set[str], orders: Mapping[str, Tensor], known: set[str] | None
    ) -> dict[str, Tensor]:
        """Inner products block by block, counted for the target, or the source if it alone is."""
        result: dict[str, Tensor] = {}
        for block, (units, side) in self._touching(names):
            if self._counts(block, known, set()):
                placed = _place(block, self._read(block, False), orders)
                product = _rows(block, self._read(block, True) * placed, side)
                value = product.sum(1, dtype=torch.float64)
                result[units] = result[units] + value if units in result else value
        return result

    def total(self, names: set[str], orders: Mapping[str, Tensor]) -> float:
        """The inner product of the two networks over all blocks that these groups touch."""
        return sum(float(value.sum()) for value in self.worth(names, orders, None).values())

    def distance(self, orders: Mapping[str, Tensor]) -> float:
        """Euclidean distance of the reordered network to the reference."""
        placed = reorder_theta(self.architecture, self.theta, orders)
        parts = zip(placed.split(1 << 22), self.goal.split(1 << 22), strict=True)
        squares = (float((p.double() - g.double()).square().sum()) for p, g in parts)
        return sum(squares) ** 0.5

    def neighbours(self, names: set[str]) -> set[str]:
        """The groups whose similarities change when these move."""
        return {end for block, _ in self._touching(names) for end, _ in _ends(block)}

    def _moves_alone(self, block: Block) -> bool:
        """Whether one end moves and the others are fixed: what it says never changes."""
        return sum(not self.architecture.unit[end].fixed for end, _ in _ends(block)) == 1

    def _alone(self, block: Block) -> Tensor:
        """Inner products [place, old unit] of the units at the one end that moves."""
        if block.name not in self._settled:
            side = next(s for end, s in _ends(block) if not self.architecture.unit[end].fixed)
            goal, old = (_rows(block, self._read(block, g), side) for g in (True, False))
            self._settled[block.name] = (goal @ old.T).double()
        return self._settled[block.name]

    def _touching(self, names: set[str]) -> Iterator[tuple[Block, tuple[str, str]]]:
        for block in self.architecture.blocks:
            own = [end for end in _ends(block) if end[0] in names]
            if own:
                yield block, own[0]

    def _counts(self, block: Block, known: set[str] | None, asked: set[str]) -> bool:
        """Whether all ends are known, fixed, or the one that is asked about."""
        if known is None:
            return True
        return all(
            end in asked or end in known or self.architecture.unit[end].fixed
            for end, _ in _ends(block)
        )

    def _read(self, block: Block, goal: bool) -> Tensor:
        """A block's numbers [T, S, k], without the S for what has one end."""
        if (block.name, goal) in self._kept:
            return self._kept[block.name, goal]
        theta = self.goal if goal else self.theta
        value = read_block(self.architecture, block, theta)
        value = value.float() if self.large else value.double()
        if not self.large:
            self._kept[block.name, goal] = value
        return value


def _ends(block: Block) -> list[tuple[str, str]]:
    ends = [(block.target, "target"), (block.source, "source")]
    return [(units, side) for units, side in ends if units is not None]


def _rows(block: Block, value: Tensor, side: str) -> Tensor:
    """A row for each unit at one side of a block: [T, S, k] -> [units, rest]."""
    if side == "target":
        return value.reshape(len(value), -1)
    grouped = value.view(block.groups, -1, *value.shape[1:])  # groups, T of each, S of each, k
    return grouped.transpose(1, 2).reshape(block.groups * value.shape[1], -1)


def _place(block: Block, value: Tensor, orders: Mapping[str, Tensor]) -> Tensor:
    """A block's numbers [T, S, k] after units were reordered."""
    if block.target is not None and block.target in orders:
        value = value[orders[block.target]]
    if block.source is not None and block.source in orders:
        order = orders[block.source]
        if block.groups == 1:
            return value[:, order]
        within = order.view(block.groups, -1)
        within = within - within.amin(1, keepdim=True)  # each group comes from one group
        chosen = within.repeat_interleave(len(value) // block.groups, 0)
        value = value.gather(1, chosen.unsqueeze(-1).expand(value.shape))
    return value


def _descend(nest: Nest, score: WeightScore, start: Orders) -> Orders:
    """Match one group at a time, the others held, until nothing moves."""
    current = start
    waiting = set(nest.names)
    for _ in range(MAX_SWEEPS):
        for units in nest.names:
            if units not in waiting:
                continue
            waiting.discard(units)
            candidate, _ = rematch(nest, score, units, current, None)
            names = {units, *nest.below[units]}
            if all(torch.equal(candidate[name], current[name]) for name in names):
                continue
            gained = score.total(names, candidate) - score.total(names, current)
            if gained > 1e-12 * score.scale:
                current = candidate
                waiting |= score.neighbours(names) & set(nest.names)
        if not waiting:
            break
    return current


def in_execution_order(nest: Nest, score: Score) -> Orders:
    """Match each group by the blocks whose other end is settled already."""
    current, known = nest.identity(), set[str]()
    in_order = [u.name for u in nest.architecture.units if not u.fixed]
    left = sorted(nest.names, key=lambda name: _turn(nest, name, in_order))
    while left:
        learned: set[str] = set()
        for units in left:
            current, informed = rematch(nest, score, units, current, known)
            learned |= informed
            known |= informed
        still = [units for units in left if units not in known]
        if len(still) == len(left):  # nothing settled speaks of these: start anywhere
            known.add(still[0])
        left = [units for units in still if units not in known]
    return current


def _turn(nest: Nest, name: str, in_order: list[str]) -> tuple[int, int]:
    """When a group is matched: with the first of those inside it, and before them."""
    first = min(in_order.index(n) for n in (name, *nest.below[name]))
    return first, nest.names.index(name)
