"""What a family is: a module, what it takes, and the symmetry that theory says it has.

Sizes of groups here are derived by hand, never read off the tracer: they are its oracle.
Counted are relabellings of units, that is reorderings of theta that keep the outputs for
all values of theta. Not counted: parameters without effect (unused ones, a key's bias
under a softmax), which could be reordered any way at all, and signs and scales.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import lgamma, log
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The size of a permutation group, as a product of (n!)^power."""

    factors: tuple[tuple[int, int], ...] = ()  # of n and power, largest n first

    def __mul__(self, other: Size) -> Size:
        powers = Counter(dict(self.factors))
        for n, power in other.factors:
            powers[n] += power
        return Size(tuple(sorted(powers.items(), reverse=True)))

    def __truediv__(self, other: Size) -> Size:
        powers = Counter(dict(self.factors))
        for n, power in other.factors:
            powers[n] -= power
        assert min(powers.values(), default=0) >= 0, f"{self} does not hold {other}"
        left = ((n, power) for n, power in powers.items() if power)
        return Size(tuple(sorted(left, reverse=True)))

    def __pow__(self, times: int) -> Size:
        return Size(tuple((n, power * times) for n, power in self.factors))

    @property
    def log10(self) -> float:
        return sum(power * lgamma(n + 1) for n, power in self.factors) / log(10)

    def __str__(self) -> str:
        shown = [f"{n}!" if power == 1 else f"({n}!)^{power}" for n, power in self.factors]
        return " ".join(shown) or "1"


def perms(*sizes: int) -> Size:
    """`perms(8, 6)`: a group of 8 and a group of 6 interchangeable units, 8! 6!."""
    powers = Counter(size for size in sizes if size > 1)
    return Size(tuple(sorted(powers.items(), reverse=True)))


def heads(num: int, dim: int, value_dim: int | None = None) -> Size:
    """Attention heads: the heads, the dims of each head's q with its k, and of its v with o."""
    return perms(num) * perms(dim) ** num * perms(value_dim or dim) ** num


def grouped_heads(num: int, queries: int, dim: int, rope: bool) -> Size:
    """`num` key-value heads with `queries` query heads each.

    A rotary embedding turns each pair of q/k dims at a rate of its own, and in a direction
    that tells the two of a pair apart: those dims keep their places, those of v do not.
    """
    within = perms(dim) if rope else perms(dim, dim)
    return perms(num) * perms(queries) ** num * within**num


def experts(num: int, hidden: int) -> Size:
    """Experts behind a gate, each with hidden units of its own."""
    return perms(num) * perms(hidden) ** num


@dataclass(frozen=True, kw_only=True)
class Family:
    """One module that the tracer must handle, and what is known of it without the tracer."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.dtype], Inputs]  # example inputs, floats of the given type
    symmetry: Size  # by theory
    least: Size | None = None  # what must be found where the whole is out of reach
    why: str = ""  # the symmetry is what it is, or only `least` is asked for
    opaque: tuple[str, ...] = ()  # tensors that no rule can place
    group: str = ""  # which file it stands in
    dtype: torch.dtype = torch.float32  # as built
    law_dtype: torch.dtype = torch.float64  # in which the laws of the function hold
    no_meta: str = ""  # why it can not be built or run on `meta`
    slow: bool = False
    needs: str = ""  # a package that is not among the dependencies

    @property
    def exact(self) -> bool:
        """Whether the derived group must be all that theory allows."""
        return self.least is None

    @property
    def tolerance(self) -> float:
        """Largest change of outputs, relative to the largest output."""
        return 1e-9 if self.law_dtype == torch.float64 else 1e-4

    def module(self, dtype: torch.dtype | None = None, seed: int = 0) -> nn.Module:
        """The module with random weights and statistics, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.build()
            if dtype is not None:  # complex and whole numbers stay what they are
                module._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
        return randomise(module, seed).eval()


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Random weights at a scale that lets signals through, and random running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.parameters():
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.dim() > 1:
            drawn *= max(1, value.numel() // max(1, value.shape[0])) ** -0.5
        else:
            drawn = 0.8 + 0.3 * drawn
        value.copy_(drawn)
    for name, value in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(drawn if name.endswith("mean") else drawn.abs() + 0.5)
    return module


def floats(*shape: int) -> Callable[[torch.dtype], Tensor]:
    """An input of standard normal numbers."""
    return lambda dtype: draw(*shape, dtype=dtype)


def integers(high: int, *shape: int) -> Callable[[torch.dtype], Tensor]:
    """An input of whole numbers below `high`."""
    return lambda dtype: below(high, *shape)


def draw(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def below(high: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors that a module returns, in order; random draws are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        match inputs:
            case Tensor():
                found = module(inputs)
            case dict():
                found = module(**inputs)
            case _:
                found = module(*inputs)
    return [tensor.detach().clone() for tensor in _leaves(found)]


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest change of any output, relative to that output's largest number."""
    assert len(found) == len(expected) > 0
    worst = 0.0
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape and e.double().isfinite().all()
        largest = max(1e-12, float(e.double().abs().max()))
        worst = max(worst, float((f.double() - e.double()).abs().max()) / largest)
    return worst
