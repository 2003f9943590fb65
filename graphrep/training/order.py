"""Which networks are trained on when: one endless sequence of batches, each of one architecture.

Batch n follows from (seed, n) alone. Every zoo is shuffled anew each time that all of it
was seen, whatever its share; the zoos' batches are shuffled among each other. Knows
neither models nor losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import generator_of
from .networks import Networks, Rows


@dataclass(frozen=True, eq=False)
class Choice:
    """Networks of batch `number`: rows `index` int64 [B] of a group."""

    number: int
    group: int
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


class BatchOrder:
    """Batches of at most `batch_size` networks, from groups of one architecture each.

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
        self.batches = [sum(-(-len(groups[g]) // batch_size) for g in zoo) for zoo in self.zoos]
        self.per_epoch = sum(self.batches)
        sizes = [sum(len(groups[g]) for g in zoo) for zoo in self.zoos]
        wanted = [num / size**balance for num, size in zip(self.batches, sizes, strict=True)]
        self.shares = _round([w * self.per_epoch / sum(wanted) for w in wanted])
        self._epoch: tuple[int, list[tuple[int, Tensor]]] = (-1, [])

    def choose(self, number: int) -> Choice:
        """Which networks batch `number` holds; reads nothing."""
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._mix(epoch))
        return Choice(number, *self._epoch[1][place])

    def step(self, step: int, num: int) -> list[Choice]:
        """The batches of a step that takes `num`."""
        return [self.choose(number) for number in range(step * num, (step + 1) * num)]

    def read(self, choice: Choice) -> Rows:
        """The networks themselves."""
        return self.groups[choice.group].take(choice.index)

    def num_weights(self, choice: Choice) -> int:
        """Numbers in all networks of a batch."""
        return len(choice) * self.groups[choice.group].architecture.num_parameters

    def _mix(self, epoch: int) -> list[tuple[int, Tensor]]:
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

    def _shuffle(self, zoo: int, epoch: int) -> list[tuple[int, Tensor]]:
        """All networks of one zoo, once."""
        generator = generator_of(self.seed, -1 - epoch - 10**12 * zoo)
        batches = [
            (group, rows)
            for group in self.zoos[zoo]
            for rows in torch.randperm(len(self.groups[group]), generator=generator).split(
                self.batch_size
            )
        ]
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
