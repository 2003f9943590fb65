"""Laws of the order of batches: shuffles of everything, shares of zoos, nothing remembered."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from graphrep.architecture import trace
from graphrep.training import BatchOrder, Networks

from .architectures import CASES


def zoo(name: str, sizes: list[int]) -> list[Networks]:
    """Groups whose networks are told apart by their first number."""
    found = []
    for group, (case, num) in enumerate(zip(CASES[:2], sizes, strict=False)):
        architecture = trace(case.module(), case.example())
        theta = torch.zeros(num, architecture.num_parameters)
        theta[:, 0] = torch.arange(num) + 1000 * group + 10_000 * (name == "large")
        found.append(Networks(architecture, theta, zoo=name))
    return found


def seen(order: BatchOrder, first: int, last: int) -> list[int]:
    """The networks of some batches, one after the other."""
    chosen = [choice for n in range(first, last) for choice in order.choose(n)]
    return [int(row[0]) for choice in chosen for row in order.read(choice).theta]


@pytest.fixture
def zoos() -> list[Networks]:
    return [*zoo("small", [8, 4]), *zoo("large", [70, 30])]


def test_every_epoch_is_another_shuffle_of_all_networks(zoos: list[Networks]) -> None:
    order = BatchOrder(zoos, 4, seed=0)
    assert order.per_epoch == 2 + 1 + 18 + 8
    everything = sorted(int(row[0]) for networks in zoos for row in networks.theta)
    first, second = (seen(order, e * 29, (e + 1) * 29) for e in range(2))
    assert sorted(first) == sorted(second) == everything
    assert first != second
    # the zoos are mixed, not one after the other
    is_large = [n >= 10_000 for n in first]
    assert sum(a != b for a, b in pairwise(is_large)) > 2


def test_architectures_of_few_networks_share_batches() -> None:
    """As in a wild zoo, where batches of one architecture would be a few copies of one network."""
    sizes = [3, 4, 2, 3, 4, 9]
    groups = []
    for number, (case, size) in enumerate(zip(CASES, sizes, strict=False)):
        architecture = trace(case.module(), case.example())
        theta = torch.zeros(size, architecture.num_parameters)
        theta[:, 0] = torch.arange(size) + 1000 * number
        groups.append(Networks(architecture, theta))
    order = BatchOrder(groups, 8, seed=0)
    assert order.per_epoch == 2 + 2  # 16 networks of five architectures, and nine of one
    for epoch in range(3):
        batches = [order.choose(4 * epoch + n) for n in range(4)]
        everything = sorted(n for n in seen(order, 4 * epoch, 4 * epoch + 4))
        assert everything == sorted(int(n) for g in groups for n in g.theta[:, 0])
        shared = [batch for batch in batches if len(batch) > 1]
        assert sorted(map(len, shared)) == [2, 3]
        assert {len(batch[0]) for batch in batches if len(batch) == 1} == {8, 1}
        for batch in shared:
            assert len({choice.group for choice in batch}) == len(batch)
            assert [choice.batch for choice in batch] == [batch[0].number] * len(batch)
    numbers = [choice.number for step in range(6) for choice in order.step(step, 2)]
    assert len(set(numbers)) == len(numbers)  # each draws for itself


def test_a_batch_follows_from_the_seed_and_its_number(zoos: list[Networks]) -> None:
    for balance in (0.0, 0.7):
        forward = [seen(BatchOrder(zoos, 4, 0, balance), n, n + 1) for n in range(70)]
        order = BatchOrder(zoos, 4, 0, balance)
        assert forward == [seen(order, n, n + 1) for n in reversed(range(70))][::-1]
        assert forward != [seen(BatchOrder(zoos, 4, 1, balance), n, n + 1) for n in range(70)]


def test_a_batch_is_of_one_architecture_and_a_step_takes_the_next_ones(
    zoos: list[Networks],
) -> None:
    order = BatchOrder(zoos, 4, seed=0)
    numbers = [choice.number for step in range(5) for choice in order.step(step, 3)]
    assert numbers == list(range(15))
    for choice in order.step(2, 3):
        rows = order.read(choice)
        assert rows.architecture is zoos[choice.group].architecture and len(rows) == len(choice)
        assert order.num_weights(choice) == rows.theta.numel()


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.7, 1.0])
def test_balance_sets_the_shares_of_zoos(zoos: list[Networks], balance: float) -> None:
    order = BatchOrder(zoos, 4, 0, balance)
    found = Counter(n >= 10_000 for n in seen(order, 0, 40 * order.per_epoch))
    wanted = 12 ** (1 - balance), 100 ** (1 - balance)
    assert order.per_epoch == 29  # a step costs as much
    assert found[False] / found[True] == pytest.approx(wanted[0] / wanted[1], rel=0.12)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_within_a_zoo_all_networks_come_equally_often(zoos: list[Networks], balance: float) -> None:
    order = BatchOrder(zoos, 4, 0, balance)
    times = Counter(seen(order, 0, 10 * order.per_epoch))
    for part in (range(10_000), range(10_000, 20_000)):
        own = [num for n, num in times.items() if n in part]
        assert len(own) == (12 if part.start == 0 else 100)
        assert max(own) - min(own) <= 1
    # drawing with replacement would not do that
    drawn = torch.randint(12, (10 * 12,), generator=torch.Generator().manual_seed(0))
    assert torch.bincount(drawn).max() - torch.bincount(drawn).min() > 1


def test_a_tiny_zoo_is_never_left_out() -> None:
    order = BatchOrder([*zoo("small", [1]), *zoo("large", [70, 30])], 4, 0, 0.0)
    assert min(order.shares) == 1 and sum(order.shares) == order.per_epoch
