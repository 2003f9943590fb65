"""Message passing on dense blocks: matrix products instead of gathered edges.

A block's numbers are a dense [B, t, s, k] tensor. What an edge says is a handful of
functions of its numbers (channels), some linear, some bent by the units at both ends; a
message is a channel times a value of the neighbour, summed over neighbours, and that is a
matrix product. No edge carries a state from round to round, so none is kept: channels are
made where they are used, in chunks of rows, and made again in the backward pass where they
would be large.
Equal to message passing along the explicit edges of the parameter graph
(tests/references.py). Groups of a block are folded into the batch. Units that sit within
others, such as the dims of heads, hear of these and these of them, since moving a dim to
another head makes another network.

Letters in shapes: B batch, N units, n units of a group, C unit channels, E edge channels,
V values a unit says along each channel, t/s target and source units, k numbers of an edge,
H parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..architecture import Architecture

CHUNK = 2**19  # numbers of channels at once: they stay near the cache
KEEP = 2**24  # numbers of one block's channels beyond which a backward pass makes them anew


@dataclass(frozen=True, eq=False)
class Kin:
    """One unit group within another: means over children, parents spread to their children."""

    child: str
    parent: str
    every: int  # children a parent, one parent after the other; 0 where only `member` says
    member: Tensor  # int64 [n], the parent of each child
    count: Tensor  # int64 [H], children of each parent

    def mean(self, children: Tensor) -> Tensor:
        """[B, n, C] -> [B, H, C]; zero for a parent without children."""
        if self.every:
            return children.unflatten(1, (len(self.count), self.every)).mean(2)
        total = children.new_zeros(len(children), len(self.count), children.shape[2])
        total = total.index_add(1, self.member.to(children.device), children)
        return total / self.count.to(children.device).clamp(min=1).unsqueeze(1)

    def spread(self, parents: Tensor) -> Tensor:
        """[B, H, C] -> [B, n, C]"""
        if self.every:
            return parents.repeat_interleave(self.every, 1)
        return parents[:, self.member.to(parents.device)]


def kin(architecture: Architecture) -> list[Kin]:
    """All pairs of unit groups of which one sits within the other."""
    found = []
    for units in architecture.units:
        for parent in units.parents:
            member = parent.of(units.size)
            count = torch.bincount(member, minlength=architecture.unit[parent.units].size)
            regular = parent.table is None and bool((count == parent.every).all())
            every = parent.every if regular else 0
            found.append(Kin(units.name, parent.units, every, member, count))
    return found


def fold(x: Tensor, groups: int) -> Tensor:
    """Groups into the batch: [B, groups * n, ...] -> [B * groups, n, ...]."""
    return x if groups == 1 else x.reshape(len(x) * groups, x.shape[1] // groups, *x.shape[2:])


def unfold(x: Tensor, groups: int) -> Tensor:
    """The inverse of `fold`."""
    return x if groups == 1 else x.reshape(len(x) // groups, x.shape[1] * groups, *x.shape[2:])


class Said(NamedTuple):
    """What the units at one end of a block's edges say."""

    values: Tensor  # [B, n, V], multiplied by each channel
    bend: Tensor  # [B, n, curved], added within the channels that are not linear

    def split(self, sizes: Sequence[int]) -> list[Said]:
        """What groups of units say that stand one after the other."""
        parts = zip(self.values.split(sizes, 1), self.bend.split(sizes, 1), strict=True)
        return [Said(values, bend) for values, bend in parts]

    def fold(self, groups: int) -> Said:
        return Said(fold(self.values, groups), fold(self.bend, groups))


@dataclass(frozen=True, eq=False)
class Functions:
    """How the channels of a round read the numbers of one block's edges."""

    kernel: Tensor  # [k, E]
    hidden: Tensor  # [E], added to an edge that is not seen
    num_linear: int


def channels(
    numbers: Tensor, seen: Tensor | None, functions: Functions, target: Tensor, source: Tensor
) -> Tensor:
    """What edges say: numbers [B, t, s, k] -> [B, t, E, s].

    Args:
        seen: [B, t, s], the share of an edge's numbers that is visible; None when all is.
        target: Bends of the targets, [B, t, curved]. source: of the sources, [B, s, curved].
    """
    if numbers.shape[3] == 1:
        mixed = numbers.transpose(2, 3) * functions.kernel.T
        mixed = mixed.contiguous()  # a factor read across leaves its strides
    else:
        mixed = functions.kernel.T @ numbers.transpose(2, 3)
    if seen is not None:
        mixed = mixed + (1 - seen).unsqueeze(2) * functions.hidden.unsqueeze(1)
    target, source = target.unsqueeze(3), source.transpose(1, 2).contiguous().unsqueeze(1)
    straight, bent = mixed.split([functions.num_linear, target.shape[2]], 2)
    asked = any(part.requires_grad for part in (mixed, target, source))
    if not (asked and torch.is_grad_enabled()):  # in place: no second copy of all channels
        bent.add_(target).add_(source)
        torch.ops.aten.gelu.out(bent, out=bent)
        return mixed
    return torch.cat([straight, F.gelu((bent + target).add_(source))], 2)


def exchange(
    numbers: Tensor, seen: Tensor | None, functions: Functions, target: Said, source: Said
) -> tuple[Tensor, Tensor]:
    """Sums over neighbours of channel times value, both ways.

    Args:
        numbers: [B, t, s, k]; `seen` as in `channels`.

    Returns:
        Incoming [B, t, E, V], over sources; outgoing [B, s, E, V], over targets.
    """
    B, t, s, _ = numbers.shape
    E = functions.kernel.shape[1]
    if s > t:  # sums of the shorter side are kept while the longer one passes by
        turned = None if seen is None else seen.transpose(1, 2)
        went, came = exchange(numbers.transpose(1, 2), turned, functions, source, target)
        return came, went
    rows = max(1, CHUNK // max(1, B * s * E))
    large = torch.is_grad_enabled() and B * t * s * E > KEEP
    parts = [slice(start, start + rows) for start in range(0, max(1, t), rows)]
    if len(parts) == 1:
        came, went = _exchange_rows(numbers, seen, functions, target, source)
        return came.permute(0, 2, 3, 1), went.permute(0, 3, 2, 1)
    incoming, outgoing = [], None
    kept = None if torch.is_grad_enabled() else numbers.new_empty(B, target.values.shape[-1], t, E)
    for part in parts:
        chosen = None if seen is None else seen[:, part]
        inputs = (numbers[:, part], chosen, functions, Said(*(x[:, part] for x in target)), source)
        if large:
            came, went = checkpoint(_exchange_rows, *inputs, use_reentrant=False)
        else:
            came, went = _exchange_rows(*inputs)
        if kept is None:
            incoming.append(came)
            outgoing = went if outgoing is None else outgoing + went
        else:  # in place: small results between large temporaries would tear up the heap
            kept[:, :, part] = came
            outgoing = went if outgoing is None else outgoing.add_(went)
    assert outgoing is not None
    found = torch.cat(incoming, 2) if kept is None else kept
    return found.permute(0, 2, 3, 1), outgoing.permute(0, 3, 2, 1)


def _exchange_rows(
    numbers: Tensor, seen: Tensor | None, functions: Functions, target: Said, source: Said
) -> tuple[Tensor, Tensor]:
    """As `exchange`, all rows at once: incoming [B, V, t, E], outgoing [B, V, E, s].

    Values stand left in both products: with few columns they take up to four times as long.
    """
    said = channels(numbers, seen, functions, target.bend, source.bend)
    B, t, E, s = said.shape
    came = source.values.transpose(1, 2) @ said.view(B, t * E, s).transpose(1, 2)
    went = target.values.transpose(1, 2) @ said.view(B, t, E * s)
    return came.view(B, -1, t, E), went.view(B, -1, E, s)


@lru_cache(maxsize=4096)
def _scale(
    linear: int, width: int, num: int, blocks: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What sums over `num` neighbours are multiplied by, [width]."""
    scale = torch.full((width,), 1 / num, dtype=torch.float64)
    scale[:linear] = num**-0.5
    return (scale / blocks).to(device, dtype)


class Round(nn.Module):
    """One round: units say values along their edges, both ways, and read what they hear."""

    def __init__(self, unit_dim: int, num_linear: int, num_curved: int, value_dim: int) -> None:
        super().__init__()
        self.num_linear, self.num_curved = num_linear, num_curved
        self.value_dim = value_dim
        heard = (num_linear + num_curved) * value_dim
        self.norm = nn.LayerNorm(unit_dim)
        # one value is the constant 1, so that plain means of the channels are heard as well
        self.say_forward = nn.Linear(unit_dim, value_dim - 1 + num_curved)
        self.say_backward = nn.Linear(unit_dim, value_dim - 1 + num_curved)
        self.read = nn.Linear(unit_dim + 2 * heard, unit_dim)
        self.write = nn.Linear(unit_dim, unit_dim)
        # more inputs of `read`; identities draw no random numbers, so that a seed gives every
        # other weight the same value with kin and without
        same = torch.eye(unit_dim)
        self.kin = nn.Parameter(torch.cat([same, same.roll(1, 0)], 1))

    def say(self, normal: Tensor) -> tuple[Said, Said]:
        """What units [B, N, C] say to those that they feed, and to those that feed them."""
        zero, one = normal.new_zeros(1, normal.shape[-1]), normal.new_ones(1)
        weights, biases = [], []
        for layer in (self.say_forward, self.say_backward):
            sizes = [self.value_dim - 1, self.num_curved]
            value, bend = layer.weight.split(sizes)
            weights += [value, zero, bend]
            value, bend = layer.bias.split(sizes)
            biases += [value, one, bend]
        found = F.linear(normal, torch.cat(weights), torch.cat(biases))
        parts = found.split(2 * [self.value_dim, self.num_curved], -1)
        return Said(*parts[:2]), Said(*parts[2:])

    def mean(self, total: Tensor, num: int, blocks: int = 1) -> Tensor:
        """Sums over `num` neighbours [..., E, V] -> [..., E * V], a share of those of `blocks`.

        Over the root for linear channels, which have either sign and add up as noise does.
        """
        linear = self.num_linear * self.value_dim
        width = total.shape[-2] * total.shape[-1]
        scale = _scale(linear, width, max(1, num), blocks, total.dtype, total.device)
        return total.flatten(-2) * scale

    def hear_kin(self, normal: Mapping[str, Tensor], found: Sequence[Kin]) -> dict[str, Tensor]:
        """What units read from their children's mean and their parents, [B, n, C] a group."""
        from_children, from_parents = self.kin.chunk(2, dim=1)
        up: dict[str, list[Tensor]] = {}
        down: dict[str, list[Tensor]] = {}
        for k in found:
            heard = F.linear(k.mean(normal[k.child]), from_children)
            up.setdefault(k.parent, []).append(heard)
            heard = k.spread(F.linear(normal[k.parent], from_parents))
            down.setdefault(k.child, []).append(heard)
        result = {name: torch.stack(parts).mean(0) for name, parts in up.items()}
        for name, parts in down.items():
            heard = torch.stack(parts).mean(0)
            result[name] = result[name] + heard if name in result else heard
        return result

    def update(
        self,
        state: Tensor,
        normal: Tensor,
        incoming: Tensor,
        outgoing: Tensor,
        heard: Tensor | None = None,
    ) -> Tensor:
        """state [B, N, C] reads incoming and outgoing [B, N, E * V] and kin [B, N, C]."""
        inner = self.read(torch.cat([normal, incoming, outgoing], -1))
        if heard is not None:
            inner = inner + heard
        return state + self.write(F.gelu(inner))
