"""Laws of copies of units: a wider network computes the same, and merging gives the first back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.graph import ParameterGraph
from graphrep.symmetry import merge_copies, split_units
from graphrep.symmetry.copies import can_merge, first_copies
from graphrep.symmetry.duplicates import merge_rows

from ..architectures import CASES, Case, mlp
from ..encoding import architecture_of, networks
from .rescaling_cases import Recurrent

every_case = pytest.mark.parametrize(
    "case", [c for c in CASES if can_merge(architecture_of(c))], ids=lambda c: c.name
)


class Residual(nn.Module):
    """A stream of some width that two branches read and add to, the second with a batch norm."""

    def __init__(self, stream: int, inner: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, stream, 3, padding=1), nn.Linear(stream * 4, 3)
        self.first, self.back = nn.Conv2d(stream, inner, 1), nn.Conv2d(inner, stream, 1)
        self.second, self.norm = nn.Conv2d(stream, stream, 3, padding=1), nn.BatchNorm2d(stream)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.back(self.first(x).tanh())
        x = (x + self.norm(self.second(x))).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def chain(first: int, second: int) -> nn.Module:
    """Flattened channels feed a linear layer; a depthwise convolution stands between."""
    return nn.Sequential(
        *(nn.Conv2d(2, first, 3), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, first, 2, groups=first), nn.SiLU(), nn.Flatten()),
        *(nn.Linear(first, second), nn.GELU(), nn.Linear(second, 3)),
    )


WIDER: list[tuple[str, Callable[..., nn.Module], tuple[int, ...], tuple[int, ...]]] = [
    ("mlp", lambda a, b: mlp(4, a, b, 3), (5, 4), (6, 7)),
    ("chain", chain, (2, 2, 6, 6), (6, 5)),
    ("residual", Residual, (2, 2, 5, 5), (6, 4)),
    ("recurrent", lambda n: Resized(n), (2, 4, 3), (5,)),
]


class Resized(Recurrent):
    """Units that hear of themselves."""

    def __init__(self, num: int) -> None:
        super().__init__(torch.tanh)
        self.num = num
        self.read, self.step, self.head = nn.Linear(3, num), nn.Linear(num, num), nn.Linear(num, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(self.num, dtype=x.dtype, device=x.device).expand(len(x), self.num)
        for t in range(x.shape[1]):
            h = self.activation(self.read(x[:, t]) + self.step(h))
        return self.head(h)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graph_of(case: Case) -> ParameterGraph:
    architecture = architecture_of(case)
    return ParameterGraph(architecture, networks(architecture, 1)[0])


def widened(graph: ParameterGraph) -> ParameterGraph:
    """Some units of every group copied, some more than once."""
    a, drawn = graph.architecture, generator()
    copies = {n: torch.randint(a.unit[n].size, (3,), generator=drawn) for n in can_merge(a)}
    return split_units(graph, copies, drawn)


def reordered(graph: ParameterGraph) -> ParameterGraph:
    return graph.permute(graphrep.random_permutation(graph.architecture, generator(2)))


@every_case
def test_merging_gives_the_network_that_was_split(case: Case) -> None:
    graph = graph_of(case)
    wider = widened(graph)
    assert wider.architecture.num_parameters > graph.architecture.num_parameters
    found = merge_copies(wider)
    assert found.architecture.fingerprint == graph.architecture.fingerprint
    assert (found.theta - graph.theta).abs().max() < 1e-9
    assert merge_copies(found) is found
    found = merge_copies(reordered(wider))  # where others stay, and an axis may be laid out anew
    assert found.architecture.units == graph.architecture.units
    assert (found.theta.sort().values - graph.theta.sort().values).abs().max() < 1e-9


@pytest.mark.parametrize(("name", "build", "shape", "sizes"), WIDER, ids=[w[0] for w in WIDER])
@torch.no_grad()
def test_a_split_network_computes_the_same_in_a_wider_module(
    name: str, build: Callable[..., nn.Module], shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    module = Case(name, lambda: build(*sizes), shape, ()).module(torch.float64)
    x = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    graph = graphrep.to_graph(module, x)
    assert len(can_merge(graph.architecture)) == len(sizes)
    wider = reordered(widened(graph))
    room = build(*(size + 3 for size in sizes)).double().eval()
    assert (wider.load_into(room)(x) - module(x)).abs().max() < 1e-9
    traced = graphrep.to_graph(room, x).architecture
    for part in ("units", "blocks", "tensors"):
        assert getattr(traced, part) == getattr(wider.architecture, part)
    again = merge_copies(wider)
    assert again.architecture.fingerprint == graph.architecture.fingerprint
    assert (again.load_into(build(*sizes).double().eval())(x) - module(x)).abs().max() < 1e-9


@every_case
def test_distinct_units_stay_apart(case: Case) -> None:
    graph = graph_of(case)
    assert merge_copies(graph) is graph
    assert all(
        torch.equal(found[0], torch.arange(found.shape[1]))
        for found in first_copies(graph.theta.unsqueeze(0), graph.architecture).values()
    )
    wider = widened(graph)
    noise = 1 + 1e-4 * torch.randn(wider.theta.shape, generator=generator(), dtype=torch.float64)
    assert merge_copies(replace(wider, theta=wider.theta * noise)).theta.shape == wider.theta.shape


def test_copies_are_found_in_single_precision() -> None:
    graph = graph_of(CASES[5])
    wider = widened(graph)
    found = merge_copies(replace(wider, theta=wider.theta.float()))
    assert found.architecture.fingerprint == graph.architecture.fingerprint


def test_rows_with_other_copies_become_other_architectures() -> None:
    graph = graph_of(CASES[0])
    a = graph.architecture
    name = can_merge(a)[0]
    wider = split_units(graph, {name: torch.tensor([1, 1, 4])}, generator())
    theta = wider.theta.repeat(4, 1)
    theta[1] = torch.randn(len(theta[1]), generator=generator(), dtype=torch.float64)
    theta[2, 0] += 1  # a weight of the first unit, which is no copy
    theta[3, -wider.architecture.tensor["5.bias"].numel] += 1
    one = tensor_row(wider, theta[0], f"{name}.weight")
    one[1] += 1  # the first of three copies
    rows = {len(part.rows): part for part in merge_rows(theta, wider.architecture)}
    assert rows[2].rows.tolist() == [2, 3] and rows[1].rows.tolist() == [0]
    assert rows[2].architecture.unit[name].size == a.unit[name].size
    assert rows[1].architecture.unit[name].size == a.unit[name].size + 1


def tensor_row(graph: ParameterGraph, theta: Tensor, name: str) -> Tensor:
    spec = graph.architecture.tensor[name]
    assert spec.offset is not None
    return theta[spec.offset : spec.offset + spec.numel].view(spec.shape)


def test_units_that_an_operation_mixes_are_not_split() -> None:
    case = next(c for c in CASES if c.name == "layer-norm-residual")
    graph = graph_of(case)
    with pytest.raises(ValueError, match=r"'0' of '.*' cannot be split; can be: none"):
        split_units(graph, {"0": torch.tensor([1])})
    theta = graph.theta.clone()
    tensor_row(graph, theta, "0.weight")[:] = 0.5
    tensor_row(graph, theta, "0.bias")[:] = 0.5
    same = replace(graph, theta=theta)
    assert merge_copies(same) is same
    with pytest.raises(ValueError, match=r"must lie in \[0, 9\)"):
        split_units(graph_of(CASES[0]), {"1": torch.tensor([9])})
