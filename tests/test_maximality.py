"""Nothing is missed: on tiny modules, all reorderings that keep the function are searched for.

The search knows no rule: it tries every order of every parameter and keeps those under which
the outputs stay. Their number must be the size of the derived group, and theory's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations, product
from math import prod

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import graphrep
from graphrep.graph import ParameterGraph, log10_symmetries

from .families.case import draw, outputs, perms
from .families.tiny import TINY, Tiny

MOST = 24  # orders of a tensor's numbers that are all tried; beyond, orders of its axes
CHUNK = 8192
TOLERANCE = 1e-9


every_tiny = pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)


def orders_of(numels: int, shape: tuple[int, ...]) -> Tensor:
    """All orders of a few numbers, or all orders of the axes of a larger tensor: [n, numel]."""
    if prod(range(1, numels + 1)) <= MOST:
        return torch.tensor(list(permutations(range(numels))))
    places = torch.arange(numels).view(shape)
    found = []
    for axes in product(*(permutations(range(size)) for size in shape)):
        moved = places
        for axis, order in enumerate(axes):
            moved = moved.index_select(axis, torch.tensor(order))
        found.append(moved.flatten())
    return torch.stack(found)


def pools(tiny: Tiny, state: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Tensors whose numbers are reordered as one list."""
    joined = {name for names in tiny.together for name in names}
    return [*tiny.together, *((name,) for name in state if name not in joined)]


def search(tiny: Tiny) -> set[tuple[int, ...]]:
    """All reorderings of the state that keep the outputs, as old places in a list of all numbers.

    Two networks and inputs decide: what passes the first is tried on the second.
    """
    found: list[Tensor] | None = None
    for seed in range(2):
        module = tiny.module(seed)
        state = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
        names = pools(tiny, state)
        flat = [torch.cat([state[n].flatten() for n in pool]) for pool in names]
        choices = [
            orders_of(len(values), tuple(state[pool[0]].shape))
            for pool, values in zip(names, flat, strict=True)
        ]
        x = draw(*tiny.shape, dtype=torch.float64, seed=seed)
        expected = outputs(module, x)[0]

        def change(
            values: list[Tensor], module=module, names=names, state=state, x=x, expected=expected
        ) -> Tensor:
            given = {}
            for pool, value in zip(names, values, strict=True):
                for name, part in zip(pool, value.chunk(len(pool)), strict=True):
                    given[name] = part.view(state[name].shape)
            return (functional_call(module, given, (x,)) - expected).abs().amax()

        numbers = chosen(choices, found)
        kept: list[Tensor] = []
        with torch.no_grad():
            for chunk in numbers:
                values = [v[c[i]] for v, c, i in zip(flat, choices, chunk.T, strict=True)]
                same = vmap(change)(values) < TOLERANCE * expected.abs().max()
                kept.append(chunk[same])
        found = kept
    starts = torch.tensor([0, *map(len, flat)]).cumsum(0)
    return {
        tuple(int(p) for c, i, s in zip(choices, row, starts, strict=False) for p in c[i] + s)
        for row in torch.cat(found)
    }


def chosen(choices: list[Tensor], found: list[Tensor] | None) -> Iterator[Tensor]:
    """Numbers of candidates, a choice a tensor: all of them, or those found before."""
    if found is not None:
        yield from (chunk for chunk in found if len(chunk))
        return
    sizes = [len(c) for c in choices]
    for start in range(0, prod(sizes), CHUNK):
        left = torch.arange(start, min(start + CHUNK, prod(sizes)))
        digits = []
        for size in reversed(sizes):
            digits.append(left % size)
            left = left // size
        yield torch.stack(digits[::-1], 1)


def places(tiny: Tiny, graph: ParameterGraph, seed: int) -> tuple[int, ...]:
    """A random member of the derived group, in the same terms as `search` gives."""
    numbered = {}
    start = 0
    state = {k: v for k, v in graph.state_dict().items() if v.is_floating_point()}
    for pool in pools(tiny, state):
        for name in pool:
            numel = state[name].numel()
            numbered[name] = torch.arange(start, start + numel).view(state[name].shape).double()
            start += numel
    rest = {k: v for k, v in graph.state_dict().items() if k not in numbered}
    plain = ParameterGraph.from_state_dict(graph.architecture, {**numbered, **rest})
    generator = torch.Generator().manual_seed(seed)
    moved = plain.permute(graphrep.random_permutation(graph.architecture, generator)).state_dict()
    return tuple(int(v) for pool in pools(tiny, state) for n in pool for v in moved[n].flatten())


@every_tiny
def test_the_derived_group_is_all_that_keeps_the_function(tiny: Tiny) -> None:
    found = search(tiny)
    size = round(10**tiny.symmetry.log10)
    assert len(found) == size  # theory, by the search
    x = draw(*tiny.shape, dtype=torch.float64)
    graph = graphrep.to_graph(tiny.module(0), x)
    derived = {places(tiny, graph, seed) for seed in range(40)}
    assert derived <= found
    derivable = size if tiny.least is None else round(10**tiny.least.log10)
    assert round(10 ** log10_symmetries(graph.architecture)) == derivable, graph.report()


def test_the_search_can_tell() -> None:
    """Its control: without the nonlinearity or the bias that tells units apart, it finds more."""
    linear = Tiny("linear", lambda: nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1)),
                  (5, 1), perms(2))  # fmt: skip
    loose = Tiny("loose", linear.build, linear.shape, perms(2), (("0.weight", "1.weight"),))
    assert len(search(linear)) == 2
    assert len(search(loose)) == 8  # a product of two numbers has no order either
