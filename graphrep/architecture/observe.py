"""Activations by unit group: what each unit of any module computes on given inputs.

One run under the tracer's `Recorder` says which tensors of the forward carry which units, and
where; later runs need no labels and only pick these tensors up. Knows labels; knows no use
that is made of activations.

Letters in shapes: n members of a unit group, D samples (all else: batch, positions, slots).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .labels import Activation, Ledger, Reference, varying_dims
from .recorder import Recorder
from .rules import tensors_in
from .spec import Architecture
from .trace import Inputs, as_arguments, describe_tensors, undisturbed

Want = Literal["written", "read", "both"]
SOURCES = ("weight", "table")  # roles of parameters that compute one unit group from another


@dataclass(frozen=True)
class Site:
    """Where units can be seen: one tensor of one operation of the forward.

    `written` is what comes out of a weight, before any non-linearity, `read` what the next
    weight takes in; `other` any tensor of units that have neither.
    """

    units: str
    kind: Literal["written", "read", "other"]
    weight: str  # the parameter it comes out of or goes into
    operation: int  # number in the forward
    tensor: int  # among the operation's operands and results
    dims: tuple[int, ...]  # of the tensor, along which units lie
    sizes: tuple[int, ...]
    index: Tensor  # places along `dims`, flattened: int64 [n, slots]

    @property
    def key(self) -> tuple[str, str]:
        """Units and weight: steps of a recurrent network share it, layers do not."""
        return self.units, f"{self.kind} {self.weight}".strip()

    def read(self, value: Tensor) -> Tensor:
        """The units' values in a tensor: [n, D].

        Raises:
            ValueError: the tensor has other sizes than in the run that found the site.
        """
        if tuple(value.shape[d] for d in self.dims) != self.sizes:
            raise ValueError(
                f"units '{self.units}' lie along sizes {self.sizes} in the first batch, but the "
                f"tensor is {tuple(value.shape)} now; give batches of one form"
            )
        lines = value.detach().movedim(self.dims, tuple(range(len(self.dims))))
        lines = lines.reshape(prod(self.sizes), -1)
        return lines[self.index.flatten()].view(len(self.index), -1)


class Observer:
    """Reads the activations of one module, or of others with its forward.

    Raises:
        ValueError: the module does not run on the inputs, or is of another architecture.
    """

    def __init__(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        architecture: Architecture,
        want: Want = "read",
    ) -> None:
        shapes = {name: tuple(t.shape) for name, t in module.state_dict().items()}
        if shapes != {t.name: t.shape for t in architecture.tensors}:
            raise ValueError(
                f"{type(module).__name__} has other tensors than architecture "
                f"'{architecture.name}'; observe a module of that design"
            )
        tensors, sources = describe_tensors(module)
        ledger = Ledger()
        finder = _Finder(ledger, sources, {t.name for t in tensors if t.role == "buffer"})
        args, kwargs = as_arguments(example_inputs, module)
        finder.label_inputs((args, kwargs))
        with undisturbed(module), _clear(type(module).__name__), finder:
            module(*args, **kwargs)
        self.operations = tuple(finder.operations)
        self.sites = tuple(_choose(_locate(finder, ledger, architecture), want))

    @property
    def units(self) -> set[str]:
        """The unit groups that can be seen."""
        return {site.units for site in self.sites}

    def run(self, module: nn.Module, inputs: Inputs) -> Iterator[tuple[Site, Tensor]]:
        """What the units compute on some inputs: each site with [n, D].

        Raises:
            ValueError: the module does not run on them, or runs other operations.
        """
        found: list[tuple[Site, Tensor]] = []
        watch = _Watch(self.operations, self.sites, lambda s, v: found.append((s, s.read(v))))
        args, kwargs = as_arguments(inputs, module)
        with undisturbed(module), _clear(type(module).__name__), watch:
            module(*args, **kwargs)
        watch.finish()
        yield from found


def observe(
    module: nn.Module, inputs: Inputs, architecture: Architecture, want: Want = "read"
) -> dict[str, Tensor]:
    """Activations by unit group: [n, D], D over all places where the units can be seen.

    Args:
        inputs: What the module takes; real ones, since values count here.
        want: `written` is what comes out of weights, before any non-linearity; `read` what
            weights take in. Groups that have none of the kind come with what they have.

    Raises:
        ValueError: the module does not run on the inputs, or is of another architecture.
    """
    found: dict[str, list[Tensor]] = {}
    for site, value in Observer(module, inputs, architecture, want).run(module, inputs):
        found.setdefault(site.units, []).append(value)
    return {units: torch.cat(values, 1) for units, values in found.items()}


class _Finder(Recorder):
    """A tracer's run that also remembers the labels that went into and out of weights."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.operations: list[str] = []
        self.seen: list[tuple[Site, Tensor]] = []  # sites without units and index, labels along it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operands = tensors_in([*args, *(kwargs or {}).values()])
        before = [self.tracked.get(t) for t in operands]
        out = super().__torch_dispatch__(func, types, args, kwargs)
        names = [t.name for t in before if isinstance(t, Reference)]
        uses = self.ledger.uses
        weight = next((n for n in names if n in uses and uses[n].role in SOURCES), "")
        results = tensors_in(out)
        after = [self.tracked.get(t) for t in results]
        for place, (value, tracked) in enumerate(
            zip([*operands, *results], [*before, *after], strict=True)
        ):
            if isinstance(tracked, Activation) and value.is_floating_point():
                result = place >= len(operands)
                if weight or result:
                    kind = ("written" if result else "read") if weight else "other"
                    self._note(kind, weight, place, tracked.labels.expand(value.shape))
        self.operations.append(str(func))
        return out

    def _note(self, kind: Any, weight: str, place: int, labels: Tensor) -> None:
        dims = tuple(sorted(varying_dims(labels)))
        if not dims:
            return
        for dim in set(range(labels.dim())) - set(dims):
            labels = labels.narrow(dim, 0, 1)
        sizes = tuple(labels.shape[d] for d in dims)
        number = len(self.operations)
        site = Site("", kind, weight, number, place, dims, sizes, torch.empty(0))
        self.seen.append((site, labels.flatten()))


class _Watch(TorchDispatchMode):
    """Picks known tensors up as the forward makes them, before anything writes into them."""

    def __init__(
        self, operations: tuple[str, ...], sites: tuple[Site, ...], see: Callable[..., object]
    ) -> None:
        super().__init__()
        self.expected, self.see, self.number = operations, see, 0
        self.sites: dict[int, list[Site]] = {}
        for site in sites:
            self.sites.setdefault(site.operation, []).append(site)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.number >= len(self.expected) or self.expected[self.number] != str(func):
            raise _Changed
        out = func(*args, **kwargs)
        if self.number in self.sites:
            values = [*tensors_in([*args, *kwargs.values()]), *tensors_in(out)]
            for site in self.sites[self.number]:
                self.see(site, values[site.tensor])
        self.number += 1
        return out

    def finish(self) -> None:
        if self.number != len(self.expected):
            raise ValueError(str(_Changed()))


class _Changed(ValueError):
    def __init__(self) -> None:
        super().__init__(
            "the module runs other operations on these inputs than on the first batch, so its "
            "units cannot be followed; give batches of one form"
        )


class _clear:
    """Turn whatever a module raises into a ValueError that says so."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, _Changed):
            raise ValueError(
                f"{self.name} does not run on these inputs: {type(error).__name__}: {error}"
            ) from error


def _locate(finder: _Finder, ledger: Ledger, architecture: Architecture) -> Iterator[Site]:
    """The places of every unit group in the tensors seen, where each member has equally many."""
    names = [u.name for u in architecture.units]
    group = torch.full((ledger.num_atoms + 1,), -1)  # the last one for labels that are none
    member = torch.full((ledger.num_atoms + 1,), -1)
    for block in architecture.blocks:
        for axis, span in enumerate(block.axes):
            atoms = ledger.axes.get((block.tensor, block.layout[axis] if block.layout else (axis,)))
            if span.units is not None and atoms is not None:
                own = atoms[span.index()]
                group[own] = names.index(span.units)
                member[own] = torch.arange(span.size).unsqueeze(1).expand(own.shape)
    for site, labels in finder.seen:
        groups, of_place = group[labels.clamp(min=-1)], member[labels.clamp(min=-1)]
        for number in torch.unique(groups[groups >= 0]).tolist():
            size = architecture.units[number].size
            places = torch.nonzero(groups == number).flatten()
            members = of_place[places]
            counts = torch.bincount(members, minlength=size)
            even = bool((counts == counts[0]).all())
            if size > 1 and even and architecture.units[number].kind != "input":
                order = torch.argsort(members, stable=True)
                yield replace(site, units=names[number], index=places[order].view(size, -1))


def _choose(sites: Iterator[Site], want: Want) -> Iterator[Site]:
    """The sites of the kind wanted; of each group some."""
    by_units: dict[str, list[Site]] = {}
    for site in sites:
        by_units.setdefault(site.units, []).append(site)
    kinds = ("written", "read") if want == "both" else (want,)
    for found in by_units.values():
        chosen = [s for s in found if s.kind in kinds]
        chosen = chosen or [s for s in found if s.kind != "other"] or found[-1:]
        yield from chosen
