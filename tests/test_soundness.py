"""Modules that once fooled the rules or the numeric check: what rules derive alone must hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphrep
from graphrep.architecture import trace
from graphrep.architecture.verify import verify

from .test_tracing import hidden, keeps_its_function


class Net(nn.Module):
    """A hidden layer of six units, and what is done to them before the next."""

    def __init__(self, between: Callable[[Net, Tensor, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.between = between
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(width, 3)
        self.table = nn.Parameter(torch.randn(5, 6))
        self.square = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.between(self, self.inner(x), x))


def halves(*parts: Callable[[Tensor], Tensor]) -> Callable[[Net, Tensor, Tensor], Tensor]:
    return lambda net, h, x: torch.cat(
        [part(own) for part, own in zip(parts, h.chunk(len(parts), -1), strict=True)], -1
    )


def same(h: Tensor) -> Tensor:
    return h


CASES: dict[str, tuple[Callable[[Net, Tensor, Tensor], Tensor], list[int]]] = {
    "two activations": (halves(torch.relu, torch.tanh), [3, 3]),
    "one half doubled": (halves(lambda h: 2 * h, same), [3, 3]),
    "one half shifted": (halves(same, lambda h: h + 1), [3, 3]),
    "another order of the same": (
        halves(lambda h: h.relu().sin(), lambda h: h.sin().relu()), [3, 3]),
    "other constants": (
        halves(lambda h: h * torch.ones(1, 1), lambda h: h * torch.full((1, 1), 3.0)), [3, 3]),
    "alike": (halves(torch.tanh, torch.tanh), [6]),
    "one half rolled": (halves(same, lambda h: h.roll(1, 0)), [3, 3]),
    "mean with inputs": (
        lambda net, h, x: torch.cat([torch.stack([x, h[:, :4]]).mean(0), h[:, 4:]], 1), [2]),
    "index by units": (lambda net, h, x: net.table[(h * 2).long().clamp(0, 4)].sum(1), [6]),
    "mask by units": (
        lambda net, h, x: torch.zeros_like(h).masked_fill(h > 0, 1.0).index_put(
            (h > 0,), torch.tensor(2.0)), []),
    "numbers that point": (lambda net, h, x: net.table[h[:, :5].argmax(-1)] + h, [6]),
    "members counted twice": (
        lambda net, h, x: torch.cat([h, h[:, :1]], 1).sum(1, keepdim=True) * h, [5]),
    "pairs with a side": (
        lambda net, h, x: h * torch.tensor([1.0, 2, 1, 2, 1, 2]) + h.flip(-1), []),
    "a turned weight": (lambda net, h, x: F.embedding(torch.tensor([1, 2, 0]), net.square.t()) + h,
                        []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_rules_derive_alone_keeps_the_function(name: str) -> None:
    between, expected = CASES[name]
    module, x = Net(between), torch.randn(3, 4)
    assert keeps_its_function(module, x)
    if name not in ("index by units", "numbers that point"):
        assert hidden(module, x) == expected


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inner(x)
        return self.outer(h), h.argmax(-1)


def test_numbers_that_are_returned_fix_the_units_they_point_to() -> None:
    assert hidden(TwoOutputs(), torch.randn(3, 4)) == []


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 1), nn.Conv2d(2, 6, 1)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, places = F.max_pool2d(self.first(x), 2, return_indices=True)
        return self.last(F.max_unpool2d(F.max_pool2d(self.second(x), 2), places, 2))


def test_places_of_the_largest_belong_to_their_units() -> None:
    assert keeps_its_function(Unpooled(), torch.randn(1, 2, 4, 4))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)
        self.place = nn.Parameter(torch.randn(1, 7, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer((self.inner(x) + self.place[:, : x.shape[1]]).tanh())


def test_a_shorter_example_derives_what_a_longer_one_needs() -> None:
    module = Positions().double()
    for length in (1, 3):
        graph = graphrep.to_graph(module, torch.randn(2, length, 4).double())
        permutation = graphrep.random_permutation(graph.architecture)
        x = torch.randn(2, 5, 4).double()
        expected = module(x)
        twin = graph.permute(permutation).load_into(Positions().double())
        assert torch.allclose(twin(x), expected) and len(permutation) == 1


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.stack([x, self.inner(x).tanh()]).mean(0))


@pytest.mark.parametrize("x", [torch.zeros(1, 4), torch.ones(1, 4), torch.randn(2, 4)])
def test_an_example_of_zeros_hides_nothing(x: Tensor) -> None:
    assert not [u for u in graphrep.to_graph(Mean(), x).architecture.units if not u.fixed]


class Small(nn.Module):
    """Outputs far below one, beside numbers that stand for minus infinity."""

    def __init__(self, masked: float) -> None:
        super().__init__()
        self.inner, self.outer, self.masked = nn.Linear(4, 6), nn.Linear(6, 3), masked

    def forward(self, x: Tensor) -> Tensor:
        y = self.outer(self.inner(x).tanh() * torch.arange(6)) * 1e-10
        return torch.cat([y, torch.full_like(y, self.masked)], -1)


@pytest.mark.parametrize("masked", [float("-inf"), torch.finfo(torch.float32).min, -1e9, 0.0])
def test_masked_and_small_outputs_do_not_blind_the_check(masked: float) -> None:
    module, x = Small(masked), torch.randn(3, 4)
    derived = trace(module, x)
    claimed = [replace(u, kind="hidden") if u.kind == "fixed" else u for u in derived.units]
    wrong = replace(derived, units=tuple(claimed))
    assert [u.size for u in wrong.units if not u.fixed] == [6]
    assert not [u for u in verify(wrong, module, x).units if not u.fixed]


class Chosen(nn.Module):
    """A mask of units and an order of units, kept as buffers."""

    def __init__(self, mask: list[bool], order: list[int]) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.tensor(mask))
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).tanh().where(self.mask, 0.0)[:, self.order])


def test_another_mask_is_another_design() -> None:
    one = Chosen([True] * 6, list(range(6)))
    graph = graphrep.to_graph(one, torch.randn(2, 4))
    assert [u.size for u in graph.architecture.units if not u.fixed] == [6]
    later = {**one.state_dict(), "steps": torch.tensor(9)}  # not read, so free to change
    assert graphrep.ParameterGraph.from_state_dict(graph.architecture, later).buffers["steps"] == 9
    again = graphrep.Architecture.from_json(graph.architecture.to_json())
    for other in (
        Chosen([True] * 5 + [False], list(range(6))),
        Chosen([True] * 6, [1, 0, 2, 3, 4, 5]),
    ):
        with pytest.raises(ValueError, match=r"(mask|order): other values than the design was"):
            graphrep.ParameterGraph.from_state_dict(again, other.state_dict())


class Restless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).tanh()) * random.random()


def test_a_module_that_never_answers_alike_is_reported() -> None:
    graph = graphrep.to_graph(Restless(), torch.randn(2, 4))
    assert not [u for u in graph.architecture.units if not u.fixed]
    assert "two runs with the same weights differ" in graph.report()


def test_weights_that_the_forward_writes_into_are_put_back() -> None:
    module = nn.Sequential(nn.Embedding(5, 4, max_norm=0.1), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graphrep.to_graph(module, torch.tensor([[1, 2, 3]]))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Turned(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, turned: one memory, two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 6), nn.Linear(6, 4)
        self.decoder.weight = nn.Parameter(self.encoder.weight.detach().t())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x).tanh())


def test_parameters_that_share_memory_keep_their_places() -> None:
    graph = graphrep.to_graph(Turned(), torch.randn(2, 4))
    assert not [u for u in graph.architecture.units if not u.fixed]
    assert "shares memory with" in graph.report()
