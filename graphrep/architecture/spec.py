"""What a network is without its values: unit groups, blocks, tensors, operations.

An `Architecture` is derived from a module by `graphrep.architecture.trace` and
never from parameter names or values. It knows where each number of the flat
vector theta stands and what it connects; it knows no numbers.

Letters in shapes: P length of theta, n members of a unit group, s slots.
A *slot* is one of several places that one unit occupies along one tensor axis:
after a flatten each channel owns H*W columns of the next linear layer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, reduce
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

FORMAT = 2

UnitKind = Literal["input", "hidden", "output", "fixed"]
BlockKind = Literal["dense", "diagonal", "lookup", "opaque"]


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The larger units that units sit within: a head of its dims, a group of its channels.

    Member m belongs to parent member `m // every`, or `table[m]` where it follows no such rule.
    """

    units: str
    every: int = 1
    table: tuple[int, ...] | None = None

    def of(self, size: int) -> Tensor:
        """The parent member of each of `size` members, int64 [size]."""
        if self.table is not None:
            return torch.tensor(self.table, dtype=torch.int64)
        return torch.arange(size) // self.every

    @classmethod
    def from_members(cls, units: str, members: Tensor) -> Parent:
        """The parent whose `of` is the given int64 [size]."""
        every = int((members == members[0]).sum()) if len(members) else 1
        if torch.equal(torch.arange(len(members)) // every, members):
            return cls(units=units, every=every)
        return cls(units=units, table=tuple(members.tolist()))


@dataclass(frozen=True, kw_only=True)
class Units:
    """A set of channels or neurons that can be permuted together.

    Only `hidden` units may be reordered. The others have identities: an input
    pixel, a class, a channel that some operation tells from its siblings.
    Units with `parents` move only as these do: the dims of one head stay together,
    and go where their head goes (see `nesting.py`).
    """

    name: str
    size: int
    kind: UnitKind
    activations: tuple[str, ...] = ()  # applied to these units, in order of execution
    parents: tuple[Parent, ...] = ()

    @property
    def fixed(self) -> bool:
        return self.kind != "hidden"


@dataclass(frozen=True, kw_only=True)
class Span:
    """The part of one tensor axis that belongs to one unit group.

    `units` is None for positions, such as a kernel's height, which no
    permutation touches; then there is one member with a slot a position.
    Index of (member m, slot s) is `start + m * stride + s * slot_stride`, or
    `table[m * slots + s]` where the places follow no such line.
    """

    units: str | None
    size: int
    slots: int = 1
    start: int = 0
    stride: int = 1
    slot_stride: int = 1
    table: tuple[int, ...] | None = None

    def index(self) -> Tensor:
        """Places along the axis, int64 [size, slots]."""
        if self.table is not None:
            return torch.tensor(self.table, dtype=torch.int64).view(self.size, self.slots)
        members = torch.arange(self.size).unsqueeze(1) * self.stride
        return self.start + members + torch.arange(self.slots) * self.slot_stride

    @classmethod
    def from_index(cls, units: str | None, index: Tensor) -> Span:
        """The span whose `index()` is the given int64 [size, slots]."""
        size, slots = index.shape
        start = int(index[0, 0])
        stride = int(index[1, 0]) - start if size > 1 else 1
        slot_stride = int(index[0, 1]) - start if slots > 1 else 1
        affine = cls(
            units=units,
            size=size,
            slots=slots,
            start=start,
            stride=stride,
            slot_stride=slot_stride,
        )
        if torch.equal(affine.index(), index):
            return affine
        return cls(units=units, size=size, slots=slots, table=tuple(index.flatten().tolist()))

    def covers(self, axis_size: int) -> bool:
        """Whether reading members then slots walks the whole axis in order."""
        in_order = self.table is None and self.start == 0 and self.size * self.slots == axis_size
        by_member = (self.slots == 1 or self.slot_stride == 1) and (
            self.size == 1 or self.stride == self.slots
        )
        return in_order and by_member


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One entry of the state dict and where its values live.

    `offset` counts into theta. It is None for buffers that ride along
    unchanged and for a tied name, whose values are those of `tied_to`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # as in "float32"
    role: Literal["parameter", "statistic", "buffer"]
    offset: int | None = None
    tied_to: str | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One parameter tensor, or a rectangular part of it, as edges between unit groups.

    `dense` joins `source` to `target`; `diagonal` is a feature of `target`
    alone (bias, norm scale, depthwise kernel); `lookup` gives `target` a row
    for each of a fixed vocabulary; `opaque` could not be placed.

    `axes` are those of the tensor or, where units lie along several of them (a stack of
    experts), of the tensor with the axes of each entry of `layout` merged in that order.
    With `groups` above one, `source` has groups * size members and each target reads those
    of its own group only: targets and sources are both in the order of their groups.
    """

    name: str
    tensor: str
    kind: BlockKind
    role: str  # weight, bias, scale, shift, mean, variance, position, slope, table, opaque
    axes: tuple[Span, ...]  # one for each axis of the tensor
    source: str | None = None
    target: str | None = None
    source_axis: int | None = None
    target_axis: int | None = None
    leader: str = ""  # tensor whose rows this one completes: a bias names its weight
    layout: tuple[tuple[int, ...], ...] = ()  # the tensor's axes in each of `axes`; () is as it is
    groups: int = 1

    @property
    def num_edges(self) -> int:
        """How many numbers of theta this block holds."""
        return prod(span.size * span.slots for span in self.axes)

    @property
    def num_features(self) -> int:
        """Numbers a unit pair (dense) or a unit (diagonal): kernel and flatten positions."""
        ends = [a for a in (self.source_axis, self.target_axis) if a is not None]
        return self.num_edges // prod(self.axes[a].size for a in ends)

    def positions(self) -> Tensor:
        """Where each feature stands, float32 [k, 4] in [-1, 1].

        Columns: slot (place after a flatten), then up to three kernel axes,
        each spread evenly whatever its size, so kernels of any size compare.
        """
        lines, columns, kernel = [], [], 1
        for axis, span in enumerate(self.axes):
            for count in (
                1 if axis in (self.source_axis, self.target_axis) else span.size,
                span.slots,
            ):
                lines.append(torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1))
                columns.append(0 if span.units is not None else min(kernel, 3))
            kernel += span.units is None
        result = torch.zeros(*(len(line) for line in lines), 4)
        for dim, (line, column) in enumerate(zip(lines, columns, strict=True)):
            result[..., column] += line.view(-1, *[1] * (len(lines) - dim - 1))
        return result.view(-1, 4)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A function applied between unit groups, in order of execution."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...] = ()
    module: str = ""


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something the tracer wants a person to know: a symmetry given up, an opaque tensor."""

    subject: str  # units, tensor or operation
    operation: str
    module: str
    reason: str
    line: str = ""  # of the traced code, as file:number
    unsupported: bool = False  # for want of a rule, not by the nature of the network

    def __str__(self) -> str:
        place = f" in {self.module}" if self.module else ""
        return f"{self.subject}: {self.reason} ({self.operation}{place})"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Units, blocks and tensors of one network design.

    `num_parameters` is P, the length of theta: all floating-point parameters
    and normalisation statistics, each once, in the order of the state dict.
    """

    name: str
    units: tuple[Units, ...]  # in order of execution
    blocks: tuple[Block, ...]  # in order of execution; opaque ones last
    tensors: tuple[TensorSpec, ...]  # in state-dict order
    operations: tuple[Operation, ...] = ()
    notes: tuple[Note, ...] = field(default=(), compare=False)
    verified: bool = field(default=False, compare=False)  # symmetries checked numerically
    behaviour: str = field(default="", compare=False)  # digest of the traced run's operations
    # buffers of whole numbers or truth values that the run read, and digests of their values
    constants: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @cached_property
    def num_parameters(self) -> int:
        return sum(t.numel for t in self.tensors if t.offset is not None)

    @cached_property
    def tensor(self) -> dict[str, TensorSpec]:
        """Tensor specifications by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def unit(self) -> dict[str, Units]:
        """Unit groups by name."""
        return {u.name: u for u in self.units}

    @cached_property
    def stored(self) -> tuple[TensorSpec, ...]:
        """The tensors whose values theta holds, in its order."""
        return tuple(t for t in self.tensors if t.offset is not None)

    def other_constants(self, buffers: Mapping[str, Tensor]) -> list[str]:
        """Names of buffers whose values are not those that the design was traced with."""
        return [
            name
            for name, digest in self.constants
            if name in buffers and not buffers[name].is_meta and digest_of(buffers[name]) != digest
        ]

    @property
    def dtype(self) -> torch.dtype:
        """The type of theta: the narrowest that holds every stored tensor exactly."""
        types = [t.torch_dtype for t in self.stored]
        return reduce(torch.promote_types, types) if types else torch.float32

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def blocks_of(self, units: str) -> Iterator[Block]:
        """The blocks with an axis along these units."""
        return (b for b in self.blocks if any(span.units == units for span in b.axes))

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal designs: 16 hex digits over everything but name and notes."""
        content = self._content()
        for key in ("name", "notes", "verified", "behaviour", "constants"):
            del content[key]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _content(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """The whole design as JSON; `from_json` is its inverse."""
        return json.dumps(self._content(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, or of another format.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"an architecture must be JSON, but: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"architecture has format {found!r}, this version reads {FORMAT}")
        missing = {"name", "units", "blocks", "tensors", "behaviour", "constants"} - set(content)
        if missing:
            raise ValueError(f"an architecture needs {', '.join(sorted(missing))}; is it complete?")
        return cls(
            name=content["name"],
            units=tuple(
                Units(
                    **{**_tuples(u), "parents": tuple(Parent(**_tuples(p)) for p in u["parents"])}
                )
                for u in content["units"]
            ),
            blocks=tuple(
                Block(**{**_tuples(b), "axes": tuple(Span(**_tuples(s)) for s in b["axes"])})
                for b in content["blocks"]
            ),
            tensors=tuple(TensorSpec(**_tuples(t)) for t in content["tensors"]),
            operations=tuple(Operation(**_tuples(o)) for o in content["operations"]),
            notes=tuple(Note(**n) for n in content["notes"]),
            verified=content["verified"],
            behaviour=content["behaviour"],
            constants=tuple((name, digest) for name, digest in content["constants"]),
        )

    def __repr__(self) -> str:
        return (
            f"Architecture({self.name!r}, {self.num_parameters:,} parameters, "
            f"{len(self.units)} unit groups, {len(self.blocks)} blocks, {self.fingerprint})"
        )


def digest_of(value: Tensor) -> str:
    """16 hex digits over a tensor's values."""
    numbers = value.detach().cpu().contiguous().flatten()
    return hashlib.sha256(numbers.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    """JSON lists back to the tuples that frozen records hold."""

    def convert(value: Any) -> Any:
        return tuple(convert(v) for v in value) if isinstance(value, list) else value

    return {key: convert(value) for key, value in record.items()}
