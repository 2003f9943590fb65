"""Rescalings: numbers that multiply a unit's parameters and leave the function as it is.

A ReLU unit's incoming weights times s > 0 and its outgoing ones over s compute the same;
so do those of a tanh unit with s = -1. A `Rescaling` says which blocks are multiplied by
which power of s, one free s for each member of a unit group. This module knows how to
apply them; which ones a network has is derived in `rescaling_derivation.py`.

Letters in shapes: P length of theta, n members of a unit group, t targets, s sources, k features;
... is nothing for one network, or B for networks in rows.
Sources: Neyshabur et al. 2015, arXiv:1506.02617 (ReLU); Kalogeropoulos et al. 2024,
arXiv:2406.10685, proposition 4.1 (which activations allow which scales).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ..architecture import Architecture
from ..architecture.reorder import read_block
from ..architecture.spec import Block, Note
from ..graph import ParameterGraph

FORMAT = 1

Kind = Literal["positive", "sign"]
End = Literal["target", "source"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a rescaling does to one block: numbers x become `s**exponent * (x + offset) - offset`.

    `end` says whose scale it is: that of the block's target units (its rows) or of its source
    units (its columns). The offset is a norm's eps beside a running variance, else 0. A slot is
    one of several rows that a unit has, such as those of q and of k in a fused projection.
    """

    block: str
    end: End
    exponent: int
    offset: float = 0.0
    slot: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rescaling:
    """A free scale for each member of a unit group, and the powers in which blocks take it.

    `positive` scales are any s > 0, `sign` scales are -1 or 1. Blocks along units that sit
    within `units` take the scale of what these sit within.
    """

    units: str
    size: int
    kind: Kind
    parts: tuple[Part, ...]  # in order of execution

    def __str__(self) -> str:
        powers = ", ".join(
            f"{p.block}{'' if p.slot is None else f' slot {p.slot}'} ^{p.exponent:+d}"
            for p in self.parts
        )
        return f"{self.units} ({self.size}), {self.kind}: {powers}"


@dataclass(frozen=True)
class Rescalings(Sequence[Rescaling]):
    """All rescalings of one architecture, in order of execution, and what was given up."""

    fingerprint: str  # of the architecture
    factors: tuple[Rescaling, ...]
    notes: tuple[Note, ...] = ()

    def __getitem__(self, index: Any) -> Any:
        return self.factors[index]

    def __len__(self) -> int:
        return len(self.factors)

    def of_kind(self, kind: Kind) -> list[Rescaling]:
        """The rescalings by positive numbers, or by signs."""
        return [f for f in self.factors if f.kind == kind]

    def check(self, architecture: Architecture) -> None:
        """Raise ValueError unless these are the rescalings of this architecture."""
        if architecture.fingerprint != self.fingerprint:
            raise ValueError(
                f"these rescalings were derived for architecture {self.fingerprint}, but "
                f"'{architecture.name}' is {architecture.fingerprint}; derive them anew"
            )

    def resized(self, architecture: Architecture) -> Rescalings:
        """The same for a design that differs in the sizes of its unit groups alone."""
        factors = tuple(replace(f, size=architecture.unit[f.units].size) for f in self.factors)
        return replace(self, fingerprint=architecture.fingerprint, factors=factors)

    def to_json(self) -> str:
        """All of it as JSON; `from_json` is its inverse."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Rescalings:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, of another format, or incomplete.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}, this version reads {FORMAT}")
            factors = tuple(
                Rescaling(**{**f, "parts": tuple(Part(**p) for p in f["parts"])})
                for f in content["factors"]
            )
            notes = tuple(Note(**n) for n in content["notes"])
            return cls(content["fingerprint"], factors, notes)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"not rescalings as `to_json` writes them: {type(error).__name__}: {error}"
            ) from error


def rescale(graph: ParameterGraph, scales: Mapping[Rescaling, Tensor]) -> ParameterGraph:
    """Multiply units' parameters by what cancels; the function computed stays the same.

    Args:
        graph: Of the architecture that the rescalings were derived for.
        scales: A number for each member [n] of each rescaling that is named. One that would
            turn a running variance negative is raised to the least that does not.

    Raises:
        ValueError: a rescaling of another architecture, a wrong number of scales, or scales
            that are not positive numbers (for kind `sign`: -1 or 1).
    """
    graph.require_values("rescale")
    theta = graph.theta.double().clone()
    for factor, scale in scales.items():
        given = torch.as_tensor(scale, dtype=torch.float64)
        _check_scale(graph.architecture, factor, given)
        multiply(
            graph.architecture, theta, factor, admissible(graph.architecture, theta, factor, given)
        )
    return replace(graph, theta=theta.to(graph.theta.dtype))


def random_rescaling(
    rescalings: Sequence[Rescaling], generator: torch.Generator | None = None, spread: float = 1.0
) -> dict[Rescaling, Tensor]:
    """Random scales for all rescalings: log-normal of this spread, or fair signs."""
    scales = {}
    for factor in rescalings:
        drawn = torch.randn(factor.size, generator=generator, dtype=torch.float64)
        positive = factor.kind == "positive"
        scales[factor] = torch.exp(spread * drawn) if positive else torch.sign(drawn + 1e-300)
    return scales


# How scales meet numbers ------------------------------------------------------


@lru_cache(maxsize=256)
def places(architecture: Architecture) -> dict[str, tuple[Block, Tensor]]:
    """Blocks by name, and where their numbers stand in theta, shaped as `read_block` without B."""
    everything = torch.arange(architecture.num_parameters)
    return {b.name: (b, read_block(architecture, b, everything)) for b in architecture.blocks}


def members_of(architecture: Architecture, units: str, above: str) -> Tensor | None:
    """The member of `above` that each member of `units` sits within, int64 [n]; None if none."""
    own = architecture.unit[units]
    if units == above:
        return torch.arange(own.size)
    for parent in own.parents:
        further = members_of(architecture, parent.units, above)
        if further is not None:
            return further[parent.of(own.size)]
    return None


def spread_along(block: Block, end: End, values: Tensor) -> Tensor:
    """A number a unit [..., n], to meet the block's numbers as `read_block` gives them."""
    if end == "target":
        return values[(..., *[None] * (1 if block.source is None else 2))]
    assert block.target_axis is not None
    grouped = values.unflatten(-1, (block.groups, -1))
    if block.groups > 1:
        rows = block.axes[block.target_axis].size // block.groups
        grouped = grouped.repeat_interleave(rows, -2)
    return grouped.unsqueeze(-1)


def sum_along(block: Block, end: End, numbers: Tensor) -> Tensor:
    """The block's numbers, [..., t, s, k] or [..., t, k], summed for each unit of one end."""
    if end == "target":
        return numbers.sum(-1) if block.source is None else numbers.sum((-2, -1))
    return numbers.unflatten(-3, (block.groups, -1)).sum((-3, -1)).flatten(-2)


def end_units(block: Block, end: End) -> str:
    """The unit group at one end of a block."""
    units = block.target if end == "target" else block.source
    assert units is not None
    return units


def ends_of(architecture: Architecture, block: Block, units: str) -> list[End]:
    """The ends of a block that take scales of these units.

    One of two where each number meets the same scale at both, as do groups of channels.
    """
    ends: list[tuple[End, str | None]] = [("target", block.target), ("source", block.source)]
    found = {}
    for end, named in ends:
        members = None if named is None else members_of(architecture, named, units)
        if members is not None:
            found[end] = spread_along(block, end, members)
    if len(found) == 2:
        rows, columns = torch.broadcast_tensors(*found.values())
        if torch.equal(rows, columns):
            return ["target"]
    return list(found)


def chosen(block: Block, part: Part) -> Tensor:
    """Which of a block's features [k] a part means: all, or those of its slot."""
    if part.slot is None:
        return torch.ones(block.num_features, dtype=torch.bool)
    wanted = block.target_axis if part.end == "target" else block.source_axis
    ends = (block.target_axis, block.source_axis)
    shape = [s.slots if a in ends else s.size * s.slots for a, s in enumerate(block.axes)]
    assert wanted is not None
    along = [1] * len(shape)
    along[wanted] = -1
    slots = torch.arange(shape[wanted]).view(along).expand(shape)
    return slots.flatten() == part.slot


def parts_of(
    architecture: Architecture, factor: Rescaling
) -> Iterator[tuple[Part, Block, Tensor, Tensor]]:
    """Each part with its block, its numbers' places in theta, and whose scale each unit takes."""
    known = places(architecture)
    for part in factor.parts:
        block, index = known[part.block]
        members = members_of(architecture, end_units(block, part.end), factor.units)
        assert members is not None
        yield part, block, index if part.slot is None else index[..., chosen(block, part)], members


def multiply(architecture: Architecture, theta: Tensor, factor: Rescaling, scale: Tensor) -> None:
    """Apply one rescaling in place: theta float64 [..., P], scale [..., n]."""
    for part, block, index, members in parts_of(architecture, factor):
        power = spread_along(block, part.end, scale[..., members] ** part.exponent)
        old = theta[..., index]
        if part.offset == 0:
            theta[..., index] = old * power
            continue
        new = (old + part.offset) * power - part.offset
        # a scale of one leaves the very same number; rounding makes no variance negative
        new = torch.where(old >= 0, new.clamp_min(0), new)
        theta[..., index] = torch.where(power == 1, old, new)


def admissible(
    architecture: Architecture, theta: Tensor, factor: Rescaling, scale: Tensor
) -> Tensor:
    """Scales [n] raised to where no running variance of theta falls below zero."""
    if factor.kind == "sign":
        return scale
    for part, _, index, members in parts_of(architecture, factor):
        if part.offset > 0:
            variance = theta[index].flatten(1)
            least = (part.offset / (variance + part.offset)) ** (1 / part.exponent)
            least = torch.where(variance >= 0, least, 0).amax(1)  # also of NaN
            scale = scale.scatter_reduce(0, members, least, "amax")
    return scale


def _check_scale(architecture: Architecture, factor: Rescaling, scale: Tensor) -> None:
    blocks = places(architecture)
    units = architecture.unit.get(factor.units)
    if (
        units is None
        or units.size != factor.size
        or any(p.block not in blocks for p in factor.parts)
    ):
        raise ValueError(
            f"'{factor}' is no rescaling of architecture '{architecture.name}'; derive them anew"
        )
    if tuple(scale.shape) != (factor.size,):
        raise ValueError(
            f"rescaling of '{factor.units}' takes {factor.size} scales, got shape "
            f"{tuple(scale.shape)}"
        )
    allowed = (scale > 0) & torch.isfinite(scale) if factor.kind == "positive" else scale.abs() == 1
    if not bool(allowed.all()):
        wanted = "finite and above 0" if factor.kind == "positive" else "-1 or 1"
        raise ValueError(
            f"scales of '{factor.units}' must be {wanted}, got {scale[~allowed].tolist()[:4]}"
        )
