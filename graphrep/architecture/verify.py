"""Check derived symmetries numerically: a rule is a claim, this is what holds it.

Runs a float64 copy of the module with random weights, reorders units and
compares outputs. Groups that fail become fixed and are noted.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .reorder import reorder_theta, tensor_of
from .spec import Architecture, Note
from .trace import Inputs, as_arguments, undisturbed

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the outputs' largest magnitude

_verified: dict[str, Architecture] = {}  # by fingerprint of the derived architecture


def verify(architecture: Architecture, module: nn.Module, example_inputs: Inputs) -> Architecture:
    """The architecture with every unit group that fails the check made fixed.

    A module on `meta` cannot run: it comes back with `verified` False. Results
    are kept by fingerprint, so one check an architecture is made in a process.
    """
    known = _verified.get(architecture.fingerprint)
    if known is not None:
        return replace(known, name=architecture.name)
    if any(t.is_meta for t in module.state_dict().values()):
        return architecture
    checked = _check(architecture, module, example_inputs)
    _verified[architecture.fingerprint] = checked
    return checked


def _check(architecture: Architecture, module: nn.Module, example_inputs: Inputs) -> Architecture:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32):
        try:
            twin = copy.deepcopy(module).to(dtype)
            arguments = as_arguments(example_inputs, module)
            arguments = tree_map(lambda v, dtype=dtype: _cast(v, dtype), arguments)
            theta = random_theta(architecture, generator).to(dtype)
            expected = _outputs(twin, architecture, theta, arguments)
            break
        except Exception as error:  # a module that cannot be copied or fixes its own dtype
            reason = f"{type(error).__name__}: {error}"
    else:
        note = Note(
            subject="symmetry", operation="verify", module="", reason=f"not checked: {reason}"
        )
        return replace(architecture, notes=(*architecture.notes, note))

    def holds(orders: dict[str, Tensor]) -> bool:
        found = _outputs(twin, architecture, reorder_theta(architecture, theta, orders), arguments)
        return all(
            torch.allclose(f, e, rtol=0, atol=TOLERANCE[dtype] * max(1.0, float(e.abs().max())))
            for f, e in zip(found, expected, strict=True)
            if e.numel()
        )

    orders = {
        u.name: torch.randperm(u.size, generator=generator)
        for u in architecture.units
        if not u.fixed and u.size > 1
    }
    if not all(bool(torch.isfinite(e).all()) for e in expected):
        note = Note(
            subject="symmetry",
            operation="verify",
            module="",
            reason="not checked: outputs overflow",
        )
        return replace(architecture, notes=(*architecture.notes, note))
    if holds(orders):
        return replace(architecture, verified=True)
    failed = {name for name, order in orders.items() if not holds({name: order})}
    units = tuple(replace(u, kind="fixed") if u.name in failed else u for u in architecture.units)
    notes = [
        Note(
            subject=name,
            operation="verify",
            module="",
            reason="reordering its units changed the outputs, so they keep their places",
        )
        for name in sorted(failed)
    ]
    return replace(architecture, units=units, notes=(*architecture.notes, *notes), verified=True)


def random_theta(architecture: Architecture, generator: torch.Generator) -> Tensor:
    """Weights at a scale that lets signals through: float64 [P]."""
    theta = torch.empty(architecture.num_parameters, dtype=torch.float64)
    roles = {b.tensor: b.role for b in architecture.blocks}
    for spec in architecture.stored:
        value = torch.randn(spec.shape, generator=generator, dtype=torch.float64)
        if roles.get(spec.name) == "variance":
            value = value.abs() + 0.5
        elif len(spec.shape) > 1:
            value /= max(1, spec.numel // max(1, spec.shape[0])) ** 0.5
        elif roles.get(spec.name) in ("scale", "mean"):
            value = 1 + 0.5 * value
        tensor_of(spec, theta).copy_(value)
    return theta


def _outputs(
    module: nn.Module, architecture: Architecture, theta: Tensor, arguments: Any
) -> list[Tensor]:
    live = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    with undisturbed(module):
        for spec in architecture.stored:
            live[spec.name].data.copy_(tensor_of(spec, theta))
        args, kwargs = arguments
        output = module(*args, **kwargs)
    return [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
