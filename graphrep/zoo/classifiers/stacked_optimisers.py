"""torch's four optimisers as one formula over a stack of networks, settings a network.

torch's own take one learning rate for a whole tensor, hence this: in a stack each network
has its own optimiser, learning rate, weight decay, momentum and count of steps. All four are

    first  <- keep1 first + take1 g        g: gradient, plus weight decay unless decoupled
    second <- keep2 second + take2 g^2
    theta  <- theta - rate first / (root sqrt(second) + floor)

with constants of each (Adam: Kingma and Ba 2015, arXiv:1412.6980; decoupled weight decay:
Loshchilov and Hutter 2019, arXiv:1711.05101), those of torch's defaults.

Letters in shapes: S networks, P parameters of one network, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..recipe import check_choice
from .config import Member
from .optimisers import OPTIMISERS


@dataclass(frozen=True, kw_only=True)
class _Constants:
    """What sets an optimiser apart; see the formula above."""

    keep1: float
    take1: float
    keep2: float
    take2: float
    floor: float = 1e-8
    root: float = 1.0
    corrects_bias: bool = False  # divides the moments by what they still lack of their sum


def _constants(member: Member) -> _Constants:
    check_choice("optimiser", member.optimiser, OPTIMISERS)
    match member.optimiser:
        case "adam" | "adamw":
            return _Constants(
                keep1=0.9, take1=1 - 0.9, keep2=0.999, take2=1 - 0.999, corrects_bias=True
            )
        case "rmsprop":
            return _Constants(keep1=0.0, take1=1.0, keep2=0.99, take2=1 - 0.99)
        case "sgd":  # the divisor is 1
            return _Constants(
                keep1=member.momentum, take1=1.0, keep2=0.0, take2=0.0, floor=1.0, root=0.0
            )
        case name:
            raise AssertionError(name)


class StackedOptimiser:
    """Steps of S networks at once; a step may be that of the first so many alone."""

    def __init__(self, members: Sequence[Member], theta: Tensor) -> None:
        """
        Args:
            theta: [S, P], a network of `members` a row; nothing of it is kept.
        """
        self._constants = [_constants(member) for member in members]
        self._rates = torch.tensor([m.learning_rate for m in members], dtype=torch.float64)
        decoupled = [member.optimiser == "adamw" for member in members]
        decays = [member.weight_decay for member in members]

        def column(values: Sequence[float] | Tensor) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64).unsqueeze(1).to(theta)

        self._keep1 = column([c.keep1 for c in self._constants])
        self._take1 = column([c.take1 for c in self._constants])
        self._keep2 = column([c.keep2 for c in self._constants])
        self._take2 = column([c.take2 for c in self._constants])
        self._floor = column([c.floor for c in self._constants])
        self._decay = column([0.0 if d else w for d, w in zip(decoupled, decays, strict=True)])
        shrinking = [w if d else 0.0 for d, w in zip(decoupled, decays, strict=True)]
        self._shrink = column(1 - self._rates * torch.tensor(shrinking, dtype=torch.float64))
        self._first, self._second = torch.zeros_like(theta), torch.zeros_like(theta)
        self._schedule = theta.new_empty(0)  # [2, T, S, 1]: rates and roots of the steps ahead

    def plan(self, num_done: Sequence[int], num_steps: int) -> None:
        """Work out the next `num_steps` steps' bias corrections, before they are taken.

        Args:
            num_done: Steps that each network has behind it.
        """
        step = torch.arange(1, num_steps + 1, dtype=torch.float64).unsqueeze(1)
        step = step + torch.tensor(num_done, dtype=torch.float64)  # [T, S]
        keep1 = torch.tensor([c.keep1 for c in self._constants], dtype=torch.float64)
        keep2 = torch.tensor([c.keep2 for c in self._constants], dtype=torch.float64)
        corrects = torch.tensor([c.corrects_bias for c in self._constants])
        root = torch.tensor([c.root for c in self._constants], dtype=torch.float64)
        rates = torch.where(corrects, self._rates / (1 - keep1**step), self._rates)
        roots = torch.where(corrects, (1 - keep2**step).rsqrt(), root)
        self._schedule = torch.stack([rates, roots]).unsqueeze(-1).to(self._first)

    def step(self, theta: Tensor, gradient: Tensor, place: int) -> None:
        """Change `theta` [K, P], the first K networks, in place; `gradient` is used up.

        Args:
            place: Which of the planned steps this is, from 0.
        """
        num = len(theta)
        rate, root = self._schedule[:, place, :num]
        first, second = self._first[:num], self._second[:num]
        gradient.addcmul_(theta, self._decay[:num])
        theta.mul_(self._shrink[:num])
        first.mul_(self._keep1[:num]).addcmul_(gradient, self._take1[:num])
        # In this order, sgd's second moment stays 0 even where a square would overflow.
        second.mul_(self._keep2[:num]).addcmul_(gradient * self._take2[:num], gradient)
        divisor = second.sqrt().mul_(root).add_(self._floor[:num])
        theta.sub_(torch.div(first, divisor, out=divisor).mul_(rate))
