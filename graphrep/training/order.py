"""Which networks are trained on when: one endless sequence of batches.

A batch is of one architecture, or of several that have fewer networks than a batch holds,
so that a zoo where every network is a design of its own trains on as many a step.
Batch n follows from (seed, n) alone. Every zoo is shuffled anew each time that all of it
was seen, whatever its share; the zoos' batches are shuffled among each other. Knows
neither models nor losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .draws import generator_of
from .networks import Networks, Rows

PART = 10**9  # beyond any number of batches
Parts = list[tuple[int, Tensor]]  # of a batch: a group and its rows


@dataclass(frozen=True, eq=False)
class Choice:
    """Networks of one architecture in a batch: rows `index` int64 [B] of a group."""

    batch: int
    part: int  # of the batch, which has one unless its architectures have few networks
    group: int
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def number(self) -> int:
        """One for each part of each batch; the batch's own for the first."""
        return self.batch + PART * self.part


class BatchOrder:
    """Batches of `batch_size` networks, or of the rest of an architecture, from groups of one
    architecture each. Groups of fewer networks share batches, about `batch_size` in each.

    Groups of one `Networks.zoo` are a zoo. In an epoch, which has as many batches as
    there are without balance, zoo z has a share of the networks in proportion to its size
    to the power of 1 - balance: with 0 every network comes once, with 1 all zoos come equally
    often. Source of the exponent: Lample, Conneau 2019, arXiv:1901.07291, section 3.1.
    """

    def __init__(
        self, groups: Sequence[Networks], batch_size: int, seed: int, balance: float = 0.0
    ) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        zoos: dict[str, list[int]] = {}
        for number, networks in enumerate(groups):
            if len(networks):
                zoos.setdefault(networks.zoo, []).append(number)
        self.zoos = list(zoos.values())
        self.batches = [self._count(zoo) for zoo in self.zoos]
        self.per_epoch = sum(self.batches)
        sizes = [sum(len(groups[g]) for g in zoo) for zoo in self.zoos]
        wanted = [num / size**balance for num, size in zip(self.batches, sizes, strict=True)]
        self.shares = _round([w * self.per_epoch / sum(wanted) for w in wanted])
        self._epoch: tuple[int, list[Parts]] = (-1, [])

    def choose(self, number: int) -> list[Choice]:
        """Which networks batch `number` holds, by architecture; reads nothing."""
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._mix(epoch))
        return [Choice(number, i, *part) for i, part in enumerate(self._epoch[1][place])]

    def step(self, step: int, num: int) -> list[Choice]:
        """What the batches of a step hold that takes `num`."""
        return [c for number in range(step * num, (step + 1) * num) for c in self.choose(number)]

    def read(self, choice: Choice) -> Rows:
        """The networks themselves."""
        return self.groups[choice.group].take(choice.index)

    def num_weights(self, choice: Choice) -> int:
        """Numbers in all networks of a choice."""
        return len(choice) * self.groups[choice.group].architecture.num_parameters

    def _count(self, zoo: Sequence[int]) -> int:
        """Batches that hold all networks of a zoo once."""
        sizes = [len(self.groups[group]) for group in zoo]
        few = sum(size for size in sizes if size < self.batch_size)
        whole = [size for size in sizes if size >= self.batch_size]
        return sum(-(-size // self.batch_size) for size in (few, *whole))

    def _mix(self, epoch: int) -> list[Parts]:
        """Batches of an epoch: each zoo's next ones, all shuffled."""
        found = []
        for zoo, (share, num) in enumerate(zip(self.shares, self.batches, strict=True)):
            first, last = epoch * share, (epoch + 1) * share
            own = [b for e in range(first // num, -(-last // num)) for b in self._shuffle(zoo, e)]
            skipped = first // num * num
            found += own[first - skipped : last - skipped]
        if len(self.zoos) == 1:
            return found
        generator = generator_of(self.seed, -(10**15) - epoch)
        return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]

    def _shuffle(self, zoo: int, epoch: int) -> list[Parts]:
        """All networks of one zoo, once."""
        generator = generator_of(self.seed, -1 - epoch - 10**12 * zoo)
        batches: list[Parts] = []
        few: Parts = []
        for group in self.zoos[zoo]:
            rows = torch.randperm(len(self.groups[group]), generator=generator)
            if len(rows) < self.batch_size:
                few.append((group, rows))
            else:
                batches += [[(group, part)] for part in rows.split(self.batch_size)]
        if len(few) > 1:
            few = [few[i] for i in torch.randperm(len(few), generator=generator).tolist()]
        num = self.batches[zoo] - len(batches)
        ends = [len(few) * i // num for i in range(num + 1)] if num else []
        batches += [few[start:end] for start, end in pairwise(ends)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _round(shares: Sequence[float]) -> list[int]:
    """Whole numbers of the same sum, each at least 1; the largest remainders are rounded up."""
    found = [max(1, int(share)) for share in shares]
    order = sorted(range(len(shares)), key=lambda i: found[i] - shares[i])
    while sum(found) < round(sum(shares)):
        place = order.pop(0)
        found[place] += 1
        order.append(place)
    while sum(found) > round(sum(shares)) and max(found) > 1:
        found[found.index(max(found))] -= 1
    return found
