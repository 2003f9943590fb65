"""Laws between networks: lines, barriers, means, statistics made anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphrep
from graphrep import ParameterGraph
from graphrep.symmetry import align_many, interpolate, loss_barrier, merge, reset_statistics
from tests.architectures import CASES, IDS

from .test_alignment import population, shuffled


def example_graph(name: str = "cnn-batch-norm", seed: int = 0) -> ParameterGraph:
    case = CASES[IDS.index(name)]
    return graphrep.to_graph(case.module(seed=seed), case.example())


def test_the_ends_of_a_line_are_the_networks() -> None:
    a, b = example_graph(), example_graph(seed=1)
    assert torch.equal(interpolate(a, b, 0).theta, a.theta)
    assert torch.equal(interpolate(a, b, 1).theta, b.theta)
    middle = interpolate(a, b, 0.5)
    assert (middle.theta - (a.theta + b.theta) / 2).abs().max() < 1e-6
    assert middle.theta.dtype == a.theta.dtype
    counter = {"1.num_batches_tracked": torch.tensor(7)}
    assert interpolate(a, replace(b, buffers=counter), 0.9).buffers == counter
    middle.load_into(CASES[IDS.index("cnn-batch-norm")].module())


def test_a_barrier_is_the_excess_over_the_line_between_the_ends() -> None:
    a, b = example_graph(), example_graph(seed=1)
    span = float((b.theta - a.theta).norm())

    def evaluate(graph: ParameterGraph) -> dict[str, float]:
        t = float((graph.theta - a.theta).norm()) / span
        return {"loss": 1 + 2 * t + t * (1 - t), "accuracy": 0.9 - 0.1 * t - t * (1 - t)}

    found = loss_barrier(evaluate, a, b, num_points=5)
    assert abs(found.height("loss") - 0.25) < 1e-5  # a slope is no barrier
    assert abs(found.height("accuracy") - 0.25) < 1e-5
    assert abs(found.middle("loss") - 2.25) < 1e-5
    assert loss_barrier(lambda graph: 3.0, a, b).height() == 0
    valley = loss_barrier(lambda g: -evaluate(g)["loss"], a, b)
    assert abs(valley.height()) < 1e-6  # the ends are on the line: a barrier is never negative


def data(num: int = 512) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 8, generator=generator)
    labels = (x[:, :4].square().sum(1) > x[:, 4:].square().sum(1)).long()
    return x, labels


def small_network(seed: int, norm: bool) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.BatchNorm1d(48)] if norm else []
    module = nn.Sequential(nn.Linear(8, 48), *layers, nn.ReLU(), nn.Linear(48, 2))
    x, labels = data()
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(module(x), labels).backward()
        optimiser.step()
    return module.eval()


def losses(module: nn.Module, reset: bool = False):
    x, labels = data()

    @torch.no_grad()
    def evaluate(graph: ParameterGraph) -> dict[str, float]:
        graph.load_into(module)
        if reset:
            reset_statistics(module, x.split(128))
        logits = module(x)
        return {
            "loss": float(F.cross_entropy(logits, labels)),
            "accuracy": float((logits.argmax(1) == labels).float().mean()),
        }

    return evaluate


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_the_barrier_between_trained_networks_falls(method: str) -> None:
    first, second = small_network(0, False), small_network(1, False)
    x, _ = data()
    a, b = graphrep.to_graph(first, x[:2]), graphrep.to_graph(second, x[:2])
    given = {"model": first, "inputs": x} if method == "activations" else {}
    before = loss_barrier(losses(first), a, b).height()
    after = loss_barrier(losses(first), a, graphrep.align(b, a, method, **given)).height()
    assert before > 0.05
    assert after < 0.6 * before
    # control: a permuted copy is across a barrier that alignment removes whole
    copy = shuffled(a, 3)
    assert loss_barrier(losses(first), a, copy).height() > 0.05
    assert loss_barrier(losses(first), a, graphrep.align(copy, a)).height() < 1e-6


def test_statistics_made_anew_lower_the_barrier_of_batch_norm() -> None:
    first, second = small_network(0, True), small_network(1, True)
    x, _ = data()
    a, b = graphrep.to_graph(first, x[:2]), graphrep.to_graph(second, x[:2])
    b = graphrep.align(b, a)
    kept = loss_barrier(losses(first), a, b).height()
    assert loss_barrier(losses(first, reset=True), a, b).height() < kept


def test_reset_statistics_are_those_of_the_batches() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 2))
    module.eval()
    module[1].train()
    module[1].momentum = 0.3
    batches = [torch.randn(16, 3), torch.randn(16, 3) + 1]
    assert reset_statistics(module, batches) is module
    with torch.no_grad():
        inner = [module[0](x) for x in batches]
    expected_mean = torch.stack([y.mean(0) for y in inner]).mean(0)
    expected_var = torch.stack([y.var(0) for y in inner]).mean(0)
    assert (module[1].running_mean - expected_mean).abs().max() < 1e-6
    assert (module[1].running_var - expected_var).abs().max() < 1e-5
    assert int(module[1].num_batches_tracked) == 2
    assert module[1].momentum == 0.3 and module[1].training and not module[2].training
    plain = nn.Linear(2, 2)
    assert reset_statistics(plain, []) is plain


def test_a_failed_reset_leaves_modes_and_statistics() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4)).train()
    module[0].running_mean += 5
    with pytest.raises(ValueError, match="at least one batch"):
        reset_statistics(module, [])
    assert module[0].training and module[0].momentum == 0.1
    assert (module[0].running_mean == 5).all()


def test_merging_copies_gives_the_copy() -> None:
    graph = example_graph()
    merged = merge([graph, shuffled(graph, 1), shuffled(graph, 2)])
    assert (merged.theta - graph.theta).abs().max() < 1e-6
    assert merged.theta.dtype == graph.theta.dtype
    naive = (graph.theta + shuffled(graph, 1).theta) / 2
    assert (naive - graph.theta).abs().max() > 0.1  # a mean without alignment is another


def test_a_merged_network_is_the_mean_of_the_aligned() -> None:
    graphs = population(CASES[0])
    expected = torch.stack([g.theta for g in align_many(graphs)]).mean(0)
    assert (merge(graphs).theta - expected).abs().max() < 1e-12


def test_errors_name_what_is_wrong() -> None:
    a, b = example_graph(), example_graph("mlp")
    with pytest.raises(ValueError, match="architectures differ"):
        interpolate(a, b, 0.5)
    with pytest.raises(ValueError, match="at least 3 points"):
        loss_barrier(lambda graph: 0.0, a, a, num_points=2)
    with pytest.raises(ValueError, match="no metric 'accuracy'; there are loss"):
        loss_barrier(lambda graph: 0.0, a, a).height("accuracy")
    with pytest.raises(ValueError, match="at least one graph"):
        merge([])
