"""Laws of graphs and symmetries, over every family of architectures; laws 1, 2, 3, 9."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import graphrep
from graphrep.architecture import Architecture, trace
from graphrep.interchange import topology
from graphrep.tokens import token_grid

from .architectures import CASES, IDS, Case

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_case
def test_the_state_dict_comes_back_bit_for_bit(case: Case) -> None:
    module = case.module()
    found = graphrep.to_graph(module, case.example()).state_dict()
    expected = module.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@every_case
def test_pyg_and_token_views_come_back_bit_for_bit(case: Case) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    data = graph.to_pyg()
    shuffled = torch.randperm(data.edge_index.shape[1], generator=generator())
    for key in ("edge_attr", "edge_parameter"):
        data[key] = data[key][shuffled]
    again = graphrep.ParameterGraph.from_pyg(data, graph.architecture)
    assert torch.equal(again.theta, graph.theta)
    for size in (1, 5, 64):
        grid = token_grid(graph.architecture, size)
        assert torch.equal(grid.join(grid.cut(graph.theta[None]))[0], graph.theta)


def test_special_numbers_types_and_buffers_survive() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).half().float())
    with torch.no_grad():
        module[0].weight[0] = torch.tensor([float("nan"), float("inf"), -0.0])
    module[1].num_batches_tracked += 7
    graph = graphrep.to_graph(module, torch.randn(2, 3))
    for name, value in module.state_dict().items():
        found = graph.state_dict()[name]
        assert torch.equal(found.view(torch.uint8) if found.dim() else found,
                           value.view(torch.uint8) if value.dim() else value)  # fmt: skip
    half = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).half()
    graph = graphrep.to_graph(half, torch.randn(2, 3).half())
    assert graph.theta.dtype == torch.float16
    assert torch.equal(graph.state_dict()["0.weight"], half[0].weight)


@every_case
def test_every_parameter_has_exactly_one_place(case: Case) -> None:
    architecture = trace(case.module(), case.example())
    everywhere = torch.arange(architecture.num_parameters)
    assert torch.equal(topology(architecture).edge_parameter.sort().values, everywhere)
    grid = token_grid(architecture, 5)
    assert torch.equal(grid.index[grid.mask].sort().values, everywhere)
    expected = sum(p.numel() for p in case.module().parameters())
    statistics = sum(b.numel() for n, b in case.module().named_buffers() if "running" in n)
    assert architecture.num_parameters == expected + statistics


@every_case
def test_topology_does_not_change_with_values(case: Case) -> None:
    module = case.module()
    expected = trace(module, case.example())
    for value in (0.0, float("nan")):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(value)
        assert trace(module, case.example()).fingerprint == expected.fingerprint


def test_another_design_has_another_fingerprint() -> None:
    designs = [
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)),
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
    ]
    assert len({trace(d, torch.randn(1, 4)).fingerprint for d in designs}) == 3
    assert trace(designs[0], torch.randn(7, 4)).fingerprint == (
        trace(designs[0], torch.randn(1, 4)).fingerprint
    )


@every_case
def test_groups_are_as_large_as_known(case: Case) -> None:
    architecture = trace(case.module(), case.example())
    assert tuple(u.size for u in architecture.units if not u.fixed) == case.hidden
    assert not [b for b in architecture.blocks if b.kind == "opaque"]


@every_case
def test_a_permuted_network_computes_the_same(case: Case) -> None:
    module, x = case.module(torch.float64), case.example(torch.float64)
    graph = graphrep.to_graph(module, x)
    assert graph.architecture.verified
    with torch.no_grad():
        expected = module(x)
        for seed in range(3):
            permutation = graphrep.random_permutation(graph.architecture, generator(seed))
            permuted = graph.permute(permutation)
            found = permuted.load_into(case.module(torch.float64))(x)
            assert (found - expected).abs().max() < 1e-9
            if max(case.hidden) > 1:
                assert not torch.equal(permuted.theta, graph.theta)


@pytest.mark.parametrize("case", [c for c in CASES if max(c.hidden) > 1], ids=lambda c: c.name)
def test_permuting_one_side_alone_changes_the_function(case: Case) -> None:
    module, x = case.module(torch.float64), case.example(torch.float64)
    architecture = trace(module, x)
    units = max((u for u in architecture.units if not u.fixed), key=lambda u: u.size)
    block = next(b for b in architecture.blocks_of(units.name) if b.kind == "dense")
    with torch.no_grad():
        expected = module(x)
        axis = next(i for i, s in enumerate(block.axes) if s.units == units.name)
        weight = dict(module.named_parameters())[block.tensor]
        weight.copy_(weight.roll(block.axes[axis].slots, axis))
        assert (module(x) - expected).abs().max() > 1e-6


@every_case
def test_permutations_form_a_group(case: Case) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    g = graphrep.random_permutation(graph.architecture, generator(1))
    h = graphrep.random_permutation(graph.architecture, generator(2))
    assert torch.equal(graph.permute(h).permute(g).theta, graph.permute(g.compose(h)).theta)
    assert torch.equal(graph.permute(g).permute(g.inverse()).theta, graph.theta)


@every_case
def test_alignment_recovers_a_planted_permutation(case: Case) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    planted = graph.permute(graphrep.random_permutation(graph.architecture, generator(5)))
    assert torch.equal(graphrep.align(planted, graph).theta, graph.theta)


@every_case
def test_alignment_never_increases_the_distance(case: Case) -> None:
    reference = graphrep.to_graph(case.module(), case.example())
    gained = 0.0
    for seed in range(1, 4):
        other = graphrep.to_graph(case.module(seed=seed), case.example())
        before = (other.theta - reference.theta).norm()
        after = (graphrep.align(other, reference).theta - reference.theta).norm()
        assert after <= before
        gained += float(before - after)
    if max(case.hidden) > 3:
        assert gained > 0  # an alignment that never moves would pass otherwise


@every_case
def test_an_architecture_comes_back_from_json(case: Case) -> None:
    architecture = trace(case.module(), case.example())
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture and again.fingerprint == architecture.fingerprint
    assert again != replace(architecture, units=architecture.units[1:])


@every_case
def test_networkx_has_the_same_nodes_and_weights(case: Case) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    drawn = graph.to_networkx()
    assert drawn.number_of_edges() == len(graph.theta)
    theta = torch.empty_like(graph.theta)
    for _, _, place, weight in drawn.edges(keys=True, data="weight"):
        theta[place] = weight
    assert torch.equal(theta, graph.theta)


@every_case
def test_tracing_on_meta_gives_the_same_architecture(case: Case) -> None:
    module = case.module()
    expected = trace(module, case.example())
    with torch.device("meta"):
        empty = case.build()
    assert next(empty.parameters()).is_meta
    assert trace(empty, case.example()).fingerprint == expected.fingerprint


@every_case
def test_tracing_leaves_the_module_as_it_was(case: Case) -> None:
    module = case.module().train()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(3)
    graphrep.to_graph(module, case.example())
    assert torch.rand(()) == torch.rand((), generator=generator(3))
    assert all(m.training for m in module.modules())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.backends.mha.get_fastpath_enabled() and torch._C._get_mkldnn_enabled()
