"""Check derived symmetries numerically: a rule is a claim, this is what holds it.

Runs a float64 copy of the module with random weights, reorders units and
compares outputs. Groups that fail become fixed and are noted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .nesting import above, draw
from .recorder import output_tensors
from .reorder import Reordering, tensor_of
from .spec import Architecture, Note, TensorSpec
from .trace import Inputs, as_arguments, undisturbed

TOLERANCE = {  # of the outputs' largest magnitude, by the coarsest type that the run computes in
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}

MASKED = 1e8  # numbers that stand for minus infinity
TINY = 1e-30
LARGE = 10_000_000  # parameters, beyond which one draw in float32 has to do

_verified: dict[tuple[str, str], Architecture] = {}  # by fingerprint and the run's operations


def verify(architecture: Architecture, module: nn.Module, example_inputs: Inputs) -> Architecture:
    """The architecture with every unit group that fails the check made fixed.

    A module on `meta` cannot run: it comes back with `verified` False. A module that
    cannot be checked otherwise has all its groups fixed. Results are kept by the
    fingerprint and the operations of the run, so a process checks a design once.
    """
    key = architecture.fingerprint, architecture.behaviour
    known = _verified.get(key)
    if known is not None:
        return replace(known, name=architecture.name, constants=architecture.constants)
    if any(t.is_meta for t in module.state_dict().values()):
        return architecture
    checked = _check(architecture, module, example_inputs)
    _verified[key] = checked
    return checked


def _check(architecture: Architecture, module: nn.Module, example_inputs: Inputs) -> Architecture:
    generator = torch.Generator().manual_seed(0)
    reason = ""
    types = (torch.float64, torch.float32)
    for dtype in types[architecture.num_parameters > LARGE :]:
        try:
            trial = _Trial(architecture, module, example_inputs, dtype, generator)
            break
        except Exception as error:  # a module that cannot be copied or fixes its own dtype
            reason = f"{type(error).__name__}: {error}"
    else:
        return _fix(architecture, {u.name for u in architecture.units}, f"not checked ({reason})")
    free = {u.name for u in architecture.units if not u.fixed and u.size > 1}
    failed: set[str] = set()
    while free - failed and not trial.holds(free - failed):
        left = free - failed
        worst = {name for name in left if not trial.holds({name})}
        failed = above(architecture, failed | (worst or left))
    why = "reordering its units changed the outputs, so they keep their places"
    if not trial.holds(set()):
        why = "two runs with the same weights differ, so nothing can be checked"
        failed = {u.name for u in architecture.units}
    return replace(_fix(architecture, failed, why), verified=True)


class _Trial:
    """A copy of the module with two sets of random weights and the outputs they give."""

    def __init__(
        self,
        architecture: Architecture,
        module: nn.Module,
        example_inputs: Inputs,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        self.architecture, self.dtype, self.generator = architecture, dtype, generator
        arguments = as_arguments(example_inputs, module)
        # other numbers than the example's: zeros and ones hide much
        self.arguments = tree_map(lambda v: _other_numbers(v, dtype, generator), arguments)
        self.twin, self.live = twin_of(architecture, module, dtype, generator)
        self.seeds = (0, 1) if architecture.num_parameters <= LARGE else (0,)
        with _Precision() as seen:  # some modules compute in float32 whatever their weights are
            self.expected = [self._outputs(seed, {}) for seed in self.seeds]
        self.tolerance = max(TOLERANCE[t] for t in (dtype, *seen.types) if t in TOLERANCE)
        found = [e for outputs in self.expected for e in outputs if e.is_floating_point()]
        if not any(bool(torch.isfinite(e.double()).any()) for e in found):
            raise ValueError("outputs of random weights are empty or not finite")

    def holds(self, names: set[str]) -> bool:
        """Whether reordering these groups keeps all outputs: a shift and two random orders."""
        for seed, expected in zip(self.seeds, self.expected, strict=True):
            for number in range(3):
                orders = draw(self.architecture, self.generator, names, shift=number == 0)
                found = self._outputs(seed, orders)
                if not all(self._equal(f, e) for f, e in zip(found, expected, strict=True)):
                    return False
        return True

    def _equal(self, found: Tensor, expected: Tensor) -> bool:
        if found.shape != expected.shape:
            return False
        if not expected.is_floating_point():
            return torch.equal(found, expected)
        finite = torch.isfinite(expected) & (expected.abs() < MASKED)
        if not torch.equal(finite, torch.isfinite(found) & (found.abs() < MASKED)):
            return False
        f, e = found[finite].double(), expected[finite].double()
        if not len(e):
            return True
        return bool((f - e).abs().max() <= self.tolerance * max(float(e.abs().max()), TINY))

    @torch.no_grad()
    def _outputs(self, seed: int, orders: Mapping[str, Tensor]) -> list[Tensor]:
        """What the twin gives with random weights that are drawn anew, so that none are kept."""
        reordering = Reordering(self.architecture, orders)
        generator = torch.Generator().manual_seed(seed)
        for spec, value in random_tensors(self.architecture, generator, self.dtype):
            self.live[spec.name].data.copy_(reordering.apply(spec, value))
        args, kwargs = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, self.arguments)
        with undisturbed(self.twin):
            return [t.clone() for t in output_tensors(self.twin(*args, **kwargs))]


class _Precision(TorchDispatchMode):
    """Notes the floating types that a run computes in."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that hides a mode from torch.compile imports it, which takes 2 s."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1:
                self.types.add(value.dtype)
        return out


def _fix(architecture: Architecture, names: set[str], reason: str) -> Architecture:
    """The architecture with these groups fixed, and why."""
    chosen = {u.name for u in architecture.units if u.name in names and not u.fixed}
    units = tuple(replace(u, kind="fixed") if u.name in chosen else u for u in architecture.units)
    notes = [
        Note(subject=name, operation="verify", module="", reason=reason) for name in sorted(chosen)
    ]
    return replace(architecture, units=units, notes=(*architecture.notes, *notes))


def twin_of(
    architecture: Architecture, module: nn.Module, dtype: torch.dtype, generator: torch.Generator
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of a module to put weights into, and its tensors by name.

    Float buffers that ride along may hold anything in another checkpoint, so they are random.
    """
    twin = copy.deepcopy(module).to(dtype)
    for name, buffer in twin.named_buffers():
        spec = architecture.tensor.get(name)
        if spec is not None and spec.role == "buffer" and buffer.is_floating_point():
            drawn = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
            buffer.data.copy_(drawn + 0.5)
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    return twin, {**parameters, **dict(twin.named_buffers())}


def random_tensors(
    architecture: Architecture, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[TensorSpec, Tensor]]:
    """Weights at a scale that lets signals through, one tensor after the other."""
    roles = {b.tensor: b.role for b in architecture.blocks}
    for spec in architecture.stored:
        value = torch.randn(spec.shape, generator=generator, dtype=dtype)
        role = roles.get(spec.name)
        if role == "variance":
            value = value.abs() + 0.5
        elif len(spec.shape) > 1:
            value /= max(1, spec.numel // max(1, spec.shape[0])) ** 0.5
        elif role == "scale":
            value = 1 + 0.5 * value
        yield spec, value


def random_theta(architecture: Architecture, generator: torch.Generator) -> Tensor:
    """`random_tensors` as one vector: float64 [P]."""
    theta = torch.empty(architecture.num_parameters, dtype=torch.float64)
    for spec, value in random_tensors(architecture, generator):
        tensor_of(spec, theta).copy_(value)
    return theta


def _other_numbers(value: Any, dtype: torch.dtype, generator: torch.Generator) -> Any:
    """A float input of other values where its own are few, such as zeros or ones; else its own."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if len(torch.unique(value)) > min(16, value.numel() // 2):
        return value.to(dtype)
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return (value.double() + 0.5 * drawn.abs()).to(dtype)
