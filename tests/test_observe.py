"""Activations by unit group equal what forward hooks see, whatever module computes them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.architecture.observe import Observer, observe

from .architectures import CASES, IDS, Case
from .symmetry.nested import NESTED, NestedCase


def rows(value: Tensor) -> Tensor:
    """[B, units, ...] as [units, samples in any order]: sorted."""
    return value.movedim(1, 0).flatten(1).sort(1).values


def hooked(module: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What goes into and comes out of every leaf module."""
    into: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, child in module.named_modules():

        def keep(_: nn.Module, args: tuple[Tensor], result: Tensor, name: str = name) -> None:
            into[name], out[name] = args[0].clone(), result.clone()

        child.register_forward_hook(keep)
    with torch.no_grad():
        module(x)
    return into, out


def test_units_are_seen_where_weights_write_and_read_them() -> None:
    case = CASES[IDS.index("cnn-flatten-2x2")]
    module, x = case.module(), case.example()
    graph = graphrep.to_graph(module, x)
    into, out = hooked(copy.deepcopy(module), x)
    written = observe(module, x, graph.architecture, "written")
    read = observe(module, x, graph.architecture, "read")
    assert (rows(out["0"]) - written["0"].sort(1).values).abs().max() < 1e-5
    assert (rows(into["3"]) - read["0"].sort(1).values).abs().max() < 1e-5
    flat = into["7"].unflatten(1, (6, 4))  # each channel owns four columns after the flatten
    assert (rows(flat) - read["3"].sort(1).values).abs().max() < 1e-5
    both = observe(module, x, graph.architecture, "both")
    assert both["0"].shape[1] == written["0"].shape[1] + read["0"].shape[1]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_all_hidden_units_are_seen_and_move_with_their_permutation(case: Case) -> None:
    module, x = case.module(torch.float64), case.example(torch.float64)
    graph = graphrep.to_graph(module, x)
    order = graphrep.random_permutation(graph.architecture, torch.Generator().manual_seed(1))
    hidden = {u.name for u in graph.architecture.units if not u.fixed and u.size > 1}
    before = observe(module, x, graph.architecture, "both")
    assert hidden <= set(before)
    after = observe(graph.permute(order).load_into(module), x, graph.architecture, "both")
    for units in hidden:
        assert (after[units] - before[units][order[units]]).abs().max() < 1e-9
        assert before[units].std() > 0


@pytest.mark.parametrize("case", NESTED, ids=lambda case: case.name)
def test_nested_units_are_seen(case: NestedCase) -> None:
    graph, module, x = case.graph(), case.module(), case.example()
    order = graphrep.random_permutation(graph.architecture, torch.Generator().manual_seed(1))
    before = observe(module, x, graph.architecture, "both")
    after = observe(graph.permute(order).load_into(module), x, graph.architecture, "both")
    leaves = {"attention": {"qk", "v"}, "grouped-queries": {"q", "k", "v"}}
    assert leaves.get(case.name, {"in", "out"}) <= set(before)
    for units in set(before) & set(order):
        assert (after[units] - before[units][order[units]]).abs().max() < 1e-9


def test_a_residual_stream_is_seen_at_all_its_places() -> None:
    case = CASES[IDS.index("resnet-projection")]
    module, x = case.module(), case.example()
    graph = graphrep.to_graph(module, x)
    places = [s for s in Observer(module, x, graph.architecture).sites if s.units == "stem"]
    assert len(places) > 1 and len({s.key for s in places}) == len(places)


def test_steps_of_a_recurrent_network_share_a_place() -> None:
    module = nn.Sequential(nn.RNNCell(3, 4))

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = module[0]

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(len(x), 4)
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state.sum(1)

    steps, x = Steps(), torch.randn(2, 5, 3)
    graph = graphrep.to_graph(steps, x)
    sites = [s for s in Observer(steps, x, graph.architecture).sites if s.weight.endswith("hh")]
    assert len(sites) > 2 and len({s.key for s in sites}) == 1


def test_batches_may_differ_in_size_but_not_in_what_is_computed() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).relu()
            return self.second(y if len(x) < 10 else y.tanh())

    module, x = Branching(), torch.randn(4, 3)
    architecture = graphrep.to_graph(module, x).architecture
    observer = Observer(module, x, architecture)
    assert next(v.shape for _, v in observer.run(module, torch.randn(7, 3))) == (4, 7)
    with pytest.raises(ValueError, match="runs other operations"):
        list(observer.run(module, torch.randn(12, 3)))


def test_the_module_is_left_as_it_was() -> None:
    case = CASES[IDS.index("cnn-batch-norm")]
    module = case.module().train()
    before = copy.deepcopy(module.state_dict())
    observe(module, case.example(), graphrep.to_graph(module, case.example()).architecture)
    assert all(m.training for m in module.modules())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_errors_name_what_is_wrong() -> None:
    case = CASES[0]
    architecture = graphrep.to_graph(case.module(), case.example()).architecture
    with pytest.raises(ValueError, match="other tensors than architecture"):
        observe(CASES[1].module(), case.example(), architecture)
    with pytest.raises(ValueError, match="does not run on these inputs"):
        observe(case.module(), torch.randn(3, 11), architecture)
