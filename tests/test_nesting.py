"""Orders of units within units: heads move with their dims, and nothing tears them apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.architecture import Architecture, trace
from graphrep.architecture.nesting import complete, draw, log10_symmetries


class Masked(nn.Module):
    """Attention of three heads of two dims, with a mask that comes as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (3, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        weights = (q @ k.mT + mask).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


INPUTS = (torch.randn(2, 4, 5), torch.randn(4, 4))


@pytest.fixture(scope="module")
def heads() -> Architecture:
    return trace(Masked(), INPUTS)


def test_a_float_mask_leaves_heads_and_dims_free(heads: Architecture) -> None:
    sizes = {u.name: (u.size, tuple(p.units for p in u.parents)) for u in heads.units}
    assert sizes["heads"] == (3, ()) and sizes["q"] == sizes["v"] == (6, ("heads",))
    assert 10 ** log10_symmetries(heads) == pytest.approx(6 * 2**3 * 2**3)
    assert graphrep.to_graph(Masked(), INPUTS).architecture.fingerprint == heads.fingerprint


def test_dims_follow_their_heads(heads: Architecture) -> None:
    orders = complete(heads, {"heads": torch.tensor([2, 0, 1])})
    assert orders["q"].tolist() == orders["v"].tolist() == [4, 5, 0, 1, 2, 3]
    turned = complete(heads, {"q": torch.tensor([1, 0, 2, 3, 4, 5])})
    assert set(turned) == {"q"}  # within a head, nothing else moves


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ({"q": [2, 1, 0, 3, 4, 5]}, "units 'q' move with 'heads'"),
        ({"heads": [1, 0, 2], "v": [0, 1, 2, 3, 4, 5]}, "units 'v' move with 'heads'"),
        ({"heads": [0, 0, 2]}, "each of 0..2 once"),
        ({"out": [0, 1, 2, 3]}, "kind 'output' and cannot be reordered"),
        ({"head": [0]}, "no units 'head'; hidden units: .*'heads'"),
    ],
)
def test_what_is_no_order_is_refused(
    heads: Architecture, orders: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        graphrep.Permutation(heads, {name: torch.tensor(o) for name, o in orders.items()})


def test_nested_permutations_form_a_group(heads: Architecture) -> None:
    generator = torch.Generator().manual_seed(0)
    graph = graphrep.to_graph(Masked(), INPUTS)
    for _ in range(5):
        g, h = (graphrep.random_permutation(heads, generator) for _ in range(2))
        assert torch.equal(graph.permute(h).permute(g).theta, graph.permute(g.compose(h)).theta)
        assert torch.equal(graph.permute(g).permute(g.inverse()).theta, graph.theta)


def test_every_order_is_drawn_equally_often(heads: Architecture) -> None:
    generator = torch.Generator().manual_seed(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(2400):
        order = tuple(draw(heads, generator)["q"].tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 * 2**3  # 3! orders of heads, 2! of the dims of each
    assert max(counts.values()) < 2 * 2400 / 48 < 4 * min(counts.values())
    shifted = draw(heads, shift=True)
    assert all(not bool((o == torch.arange(len(o))).any()) for o in shifted.values())
