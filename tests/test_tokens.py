"""The token grid: rows of output units, whatever axes these lie along; law 2."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphrep.architecture import Architecture
from graphrep.architecture.reorder import block_index
from graphrep.tokens import node_starts, token_grid

from .architectures import Case
from .by_hand import bias, span, weight
from .encoding import architecture_of, every_case
from .nested import DESIGNS, Design

LONG = 10_000  # a token size that leaves every row whole


def design(name: str) -> Architecture:
    return next(d for d in DESIGNS if d.name == name).architecture()


@every_case
@pytest.mark.parametrize("size", [1, 7, LONG])
def test_every_parameter_has_exactly_one_place(case: Case | Design, size: int) -> None:
    architecture = architecture_of(case)
    grid = token_grid(architecture, size)
    everywhere = torch.arange(architecture.num_parameters)
    assert torch.equal(grid.index[grid.mask].sort().values, everywhere)
    theta = torch.randn(2, architecture.num_parameters)
    assert torch.equal(grid.join(grid.cut(theta)), theta)
    lengths = (len(grid.target), len(grid.reader), len(grid.position))
    assert lengths == (grid.num_tokens,) * 3


@every_case
def test_a_row_holds_numbers_of_its_own_unit_only(case: Case | Design) -> None:
    """Each number of a block stands in a row whose unit is the block's target."""
    architecture = architecture_of(case)
    grid, starts = token_grid(architecture, LONG), node_starts(architecture)
    row_of = torch.empty(architecture.num_parameters, dtype=torch.int64)
    row_of[grid.index[grid.mask]] = torch.nonzero(grid.mask)[:, 0]
    for block in architecture.blocks:
        if block.target is not None:
            places = block_index(architecture, block)
            nodes = grid.target[row_of[places]].flatten(1)
            own = starts[block.target] + torch.arange(len(places))
            assert (nodes == own.unsqueeze(1)).all()


@every_case
def test_a_row_reads_what_its_edges_come_from(case: Case | Design) -> None:
    architecture = architecture_of(case)
    grid, starts = token_grid(architecture, LONG), node_starts(architecture)
    pools: list[set[int]] = []
    for name, groups in grid.sources:
        members = starts[name] + torch.arange(architecture.unit[name].size)
        pools += [set(group.tolist()) for group in members.view(groups, -1)]
    for row, layer in enumerate(grid.position[:, 1].tolist()):
        expected: set[int] = set()
        for block in architecture.blocks:
            if block.tensor != grid.layers[layer] or block.source is None:
                continue
            places = block_index(architecture, block)
            t, s, _ = torch.nonzero(torch.isin(places, grid.index[row]), as_tuple=True)
            group = t // (len(places) // block.groups)
            found = starts[block.source] + group * places.shape[1] + s
            expected |= set(found.tolist())
        reads = [r for r in grid.reads[grid.reader[row]].tolist() if r >= 0]
        assert set().union(*(pools[r] for r in reads)) == expected


def test_a_stack_of_experts_has_a_row_for_each_neuron_of_each_expert() -> None:
    architecture = design("experts")
    grid = token_grid(architecture, LONG)
    assert grid.layers == ("router.weight", "up.weight", "middle.weight", "down.weight")
    rows = [int((grid.position[:, 1] == layer).sum()) for layer in range(4)]
    assert rows == [3, 24, 6, 5]
    lengths = [int(grid.mask[grid.position[:, 1] == layer][0].sum()) for layer in range(4)]
    assert lengths == [5 + 1, 5 + 1, 4 + 1, 6 + 3]  # with biases; middle reads its own expert
    first = grid.index[(grid.position[:, 1] == 2) & (grid.position[:, 2] == 3)][0]
    middle, more = (architecture.tensor[f"middle.{n}"].offset for n in ("weight", "bias"))
    assert middle is not None and more is not None
    inner = [middle + 8 + 1 + 2 * i for i in range(4)]  # [E, f, h]: expert 1, all f, unit 1
    assert first[first >= 0].tolist() == [*inner, more + 3]


def test_a_fused_projection_has_rows_of_all_its_units() -> None:
    architecture = design("grouped-query-attention")
    grid, starts = token_grid(architecture, LONG), node_starts(architecture)
    assert grid.layers == ("qkv.weight", "o.weight")
    rows = grid.target[grid.position[:, 1] == 0]
    sizes = {"queries": 12, "keys": 6, "values": 6}
    expected = [starts[name] + i for name, size in sizes.items() for i in range(size)]
    assert rows.tolist() == expected


def test_rows_of_other_units_do_not_follow() -> None:
    """A leader with as many rows, but of other units, is no leader."""
    architecture = design("attention")
    blocks = (
        weight("v.weight", span("v", 6), span("input", 5)),
        bias("v.bias", span("qk", 6)),  # of which it could be a part
    )
    kept = tuple(b for b in architecture.blocks if b.tensor not in ("v.weight", "v.bias"))
    changed = replace(architecture, blocks=(*kept, *blocks))
    assert "v.bias" in token_grid(changed, 8).layers
    assert "v.bias" not in token_grid(architecture, 8).layers
