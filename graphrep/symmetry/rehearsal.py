"""A copy of a module on which rescalings are tried, and a watch over what each operation gives.

Knows how to run scaled weights beside unscaled ones and where the two part; it does not know
which rescalings to try.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..architecture import Architecture
from ..architecture.recorder import output_tensors
from ..architecture.reorder import tensor_of
from ..architecture.trace import Inputs, as_arguments, undisturbed
from ..architecture.verify import TOLERANCE, random_theta, twin_of
from .rescaling import Kind, Rescaling, admissible, multiply, parts_of, random_rescaling

SEARCHES = 4  # sets of random weights that a search runs on
CHECKS = 4  # further ones that what was found is checked on
LARGEST_POWER = 64  # of two, by which a result may be multiplied
LARGEST_SCALE = 10  # as a power of two
# Large ones too: a unit that is only clipped from above, such as ReLU6, must be seen to be.
SCALES: dict[Kind, tuple[float, ...]] = {"positive": (1024, 0.5, 2, 4), "sign": (-1, 1)}


class Parting(NamedTuple):
    """The first operation whose result is not the old one with its numbers multiplied.

    The number of operations stands for the module's outputs, which must be equal. A later
    parting is greater, and so is one that leaves more numbers as they should be.
    """

    operation: int
    broken: int  # minus the count of numbers that are not multiples
    squared: bool  # some number was multiplied by more than any scale


class Rehearsal:
    """A copy of the module with sets of random weights and every result that they lead to."""

    def __init__(
        self,
        architecture: Architecture,
        module: nn.Module,
        example_inputs: Inputs,
        dtype: torch.dtype,
    ) -> None:
        self.architecture, self.tolerance = architecture, TOLERANCE[dtype]
        self.generator = torch.Generator().manual_seed(0)
        arguments = as_arguments(example_inputs, module)
        self.arguments = tree_map(lambda v: _cast(v, dtype), arguments)
        self.twin, self.live = twin_of(architecture, module, dtype, self.generator)
        self.thetas = [_weights(architecture, self.generator) for _ in range(SEARCHES + CHECKS)]
        self._loaded: tuple[int, set[str]] = (-1, set())  # which theta, and what differs from it
        self._scales: dict[tuple[str, Kind], list[Tensor]] = {}
        self.first_use: dict[str, int] = {}  # the operation that first reads each stored tensor
        self.results = [self._record(number) for number in range(SEARCHES)]
        self.expected = [self._outputs(theta, n) for n, theta in enumerate(self.thetas)]
        if not all(bool(torch.isfinite(e).all()) for found in self.expected for e in found):
            raise ValueError("outputs of random weights are not finite")

    def parting(self, factor: Rescaling) -> Parting | None:
        """Where results part from those of unscaled weights; None if outputs are equal."""
        for number in range(SEARCHES):
            watch = _Watch(self._sources(), self.results[number], factor.kind, self.tolerance)
            scale = self._scale(factor)[number]
            with self._scaled(number, {factor: scale}) as theta:
                try:
                    found = self._outputs(theta, number, watch)
                except _PartedError as parted:
                    return parted.where
            if not self._equal(found, self.expected[number]):
                return Parting(len(self.results[number]), 0, watch.squared)
        return None

    def holds(self, factors: Sequence[Rescaling]) -> bool:
        """Whether random scales keep the outputs of weights that no search has seen."""
        for number in range(SEARCHES, SEARCHES + CHECKS):
            first = random_rescaling(factors, self.generator, spread=2.0)
            for scales in (first, {f: _other(f, s) for f, s in first.items()}):
                with self._scaled(number, scales) as theta:
                    found = self._outputs(theta, number)
                if not self._equal(found, self.expected[number]):
                    return False
        return True

    def eps_of(self, units: str) -> list[float]:
        """What batch norms of these units add to a variance: as recorded, or its module has."""
        found: dict[float, None] = {}
        for operation in self.architecture.operations:
            if "batch_norm" in operation.name and units in operation.outputs:
                eps = dict(operation.settings).get("eps")
                if eps is None:
                    eps = getattr(self.twin.get_submodule(operation.module), "eps", 0.0)
                found[float(eps or 0.0)] = None
        return list(found) or [0.0]

    def _scale(self, factor: Rescaling) -> list[Tensor]:
        """Scales [n] for each set of weights: powers of two, or signs; the same in all tries."""
        key = factor.units, factor.kind
        if key not in self._scales:
            choices = SCALES[factor.kind]
            pattern = torch.tensor(choices * factor.size, dtype=torch.float64)
            self._scales[key] = [
                pattern.roll(number if factor.size > 1 or factor.kind == "positive" else 0)[
                    torch.randperm(factor.size, generator=self.generator)
                ]
                for number in range(SEARCHES)
            ]
        return self._scales[key]

    @contextmanager
    def _scaled(self, number: int, scales: dict[Rescaling, Tensor]) -> Iterator[Tensor]:
        """The weights with these scales; what they touch is loaded, and restored afterwards."""
        theta = self.thetas[number]
        touched = [part for factor in scales for part in parts_of(self.architecture, factor)]
        tensors = {block.tensor for _, block, _, _ in touched}
        kept = [(index, theta[index]) for _, _, index, _ in touched]
        loaded, different = self._loaded
        self._loaded = loaded, different | tensors
        try:
            for factor, scale in scales.items():
                fitting = admissible(self.architecture, theta, factor, scale)
                multiply(self.architecture, theta, factor, fitting)
            yield theta
        finally:
            for index, values in kept:
                theta[index] = values
            loaded, different = self._loaded
            self._loaded = loaded, different | tensors

    def _record(self, number: int) -> list[list[Tensor]]:
        watch = _Watch(self._sources())
        self._outputs(self.thetas[number], number, watch)
        for name, first in watch.first_use.items():
            self.first_use.setdefault(name, first)
        return watch.results

    def _sources(self) -> dict[int, str]:
        """Names of stored tensors by their memory."""
        return {
            self.live[spec.name].untyped_storage()._cdata: spec.name
            for spec in self.architecture.stored
        }

    @torch.no_grad()
    def _outputs(
        self, theta: Tensor, number: int, watch: TorchDispatchMode | None = None
    ) -> list[Tensor]:
        loaded, different = self._loaded
        for spec in self.architecture.stored:
            if loaded != number or spec.name in different:
                self.live[spec.name].data.copy_(tensor_of(spec, theta))
        self._loaded = number, set()
        args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, self.arguments)
        with undisturbed(self.twin), watch or nullcontext():
            output = self.twin(*args, **kwargs)
        return [t.clone() for t in output_tensors(output)]

    def _equal(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
        for f, e in zip(found, expected, strict=True):
            if f.shape != e.shape:
                return False
            if not e.is_floating_point() and not e.is_complex():
                if not torch.equal(f, e):
                    return False
            elif e.numel() and not bool((f - e).abs().max() <= self.tolerance * e.abs().max()):
                return False
        return True


class _PartedError(Exception):
    """A result that is not the old one with its numbers multiplied."""

    def __init__(self, where: Parting) -> None:
        super().__init__(where)
        self.where = where


class _Watch(TorchDispatchMode):
    """Records the results of all operations, or compares them with those of another run."""

    def __init__(
        self,
        sources: dict[int, str],
        results: list[list[Tensor]] | None = None,
        kind: Kind = "positive",
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        self.sources, self.known, self.kind, self.tolerance = sources, results, kind, tolerance
        self.results: list[list[Tensor]] = []
        self.first_use: dict[str, int] = {}
        self.number = 0
        self.squared = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        number, self.number = self.number, self.number + 1
        computed = [t for t in tree_leaves(out) if self._counts(t)]
        if self.known is None:
            self.results.append([_real(t).clone() for t in computed])
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, Tensor):
                    name = self.sources.get(value.untyped_storage()._cdata)
                    if name is not None:
                        self.first_use.setdefault(name, number)
        elif number >= len(self.known) or len(computed) != len(self.known[number]):
            raise _PartedError(Parting(number, 0, self.squared))
        else:
            for found, base in zip(computed, self.known[number], strict=True):
                broken = self._broken(_real(found), base)
                if broken:
                    raise _PartedError(Parting(number, -broken, self.squared))
        return out

    def _broken(self, found: Tensor, base: Tensor) -> int:
        """How many numbers are not the others times a power of two (or, for signs, -1 or 1)."""
        if found.shape != base.shape:
            return base.numel()
        same = (found == base) | (found.isnan() & base.isnan())
        if bool(same.all()):
            return 0
        size = base.abs()
        finite = size[size.isfinite()]
        least = self.tolerance * 1e-3 * finite.amax() if len(finite) else 0.0
        power = torch.zeros_like(base)
        if self.kind == "sign":
            goal = torch.where(found * base < 0, -base, base)
        else:
            ratio = torch.where(found * base > 0, found / base, 1.0)
            power = torch.log2(ratio).round().clamp(-LARGEST_POWER, LARGEST_POWER)
            goal = base * torch.exp2(power)
        close = (found - goal).abs() <= self.tolerance * goal.abs() + least
        broken = int((~(same | close)).sum())
        if not broken:
            self.squared |= bool(((power.abs() > LARGEST_SCALE) & (size > least)).any())
        return broken

    def _counts(self, value: Any) -> bool:
        """Whole numbers and views of stored tensors tell nothing."""
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return False
        return value.numel() > 0 and value.untyped_storage()._cdata not in self.sources


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _weights(architecture: Architecture, generator: torch.Generator) -> Tensor:
    """Random weights [P] whose running means lie around zero, so that few units are dead."""
    theta = random_theta(architecture, generator)
    for name in {b.tensor for b in architecture.blocks if b.role == "mean"}:
        tensor_of(architecture.tensor[name], theta).sub_(1)
    return theta


def _other(factor: Rescaling, scale: Tensor) -> Tensor:
    """The opposite scales, so that of two tries each moves every unit."""
    return -scale if factor.kind == "sign" else 1 / scale


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
