"""Laws of the behaviour loss: what computes the same costs nothing, what does not costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graphrep.graph import ParameterGraph
from graphrep.running import Behaviour, run_networks, runs_together
from graphrep.settings import Settings
from graphrep.symmetry import random_permutation
from graphrep.training import SelfSupervisedConfig, ViewConfig, build_objective
from graphrep.training.objectives import BehaviourConfig, BehaviourReconstruction
from graphrep.training.queries import behaviours_of
from graphrep.training.targets import context_of, networks_of
from graphrep.zoo import Zoo

from .shared import check_resumed_equals_unbroken, model, pair

CONFIG = BehaviourConfig(num_queries=32)


def doubled(behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, module=behaviour.module.double(), queries=behaviour.queries.double())


@pytest.fixture
def objective(zoo: Zoo) -> BehaviourReconstruction:
    """In float64, for laws."""
    found = build_objective(CONFIG, model(), context_of(zoo, CONFIG))
    assert isinstance(found, BehaviourReconstruction)
    found.behaviours = {name: doubled(b) for name, b in found.behaviours.items()}
    return found


def test_what_computes_the_same_costs_nothing(objective: BehaviourReconstruction, zoo: Zoo) -> None:
    generator = torch.Generator().manual_seed(0)
    for networks in networks_of(zoo, "train", CONFIG):
        a, theta = networks.architecture, networks.take(torch.arange(6)).theta.double()
        order = random_permutation(a, generator)
        permuted = torch.stack([ParameterGraph(a, row).permute(order).theta for row in theta])
        assert not torch.equal(permuted, theta)
        for same in (theta, permuted):
            mismatch, agreement = objective.compare(same, theta, a)
            assert mismatch < 1e-9 and agreement == 1
        noised = theta * (1 + 0.3 * torch.randn(theta.shape, generator=generator))
        shuffled = theta[:, torch.randperm(theta.shape[1], generator=generator)].abs()
        slight, agreement = objective.compare(noised, theta, a)
        large, less = objective.compare(shuffled, theta, a)
        assert 1e-3 < slight < large and less < agreement < 1


def test_networks_run_as_in_their_own_module(objective: BehaviourReconstruction, zoo: Zoo) -> None:
    """Together or one by one; batch norm uses each network's own statistics."""
    part = zoo.split("train")
    for group in part.groups():
        a = group.architecture
        behaviour = objective.behaviours[a.fingerprint]
        theta = group.theta[torch.arange(4)].double()
        expected = []
        for i in range(4):
            row = int(group.rows[i])
            module = part.graphs[row].load_into(part.network(row)).double().eval()
            expected.append(module(behaviour.queries).detach())
        for together in (True, False):
            found = run_networks(replace(behaviour, together=together), a, theta, chunk=3)
            assert torch.allclose(found, torch.stack(expected), atol=1e-9)
        assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_gradients_reach_decoder_and_encoder_through_the_networks(zoo: Zoo) -> None:
    config = replace(CONFIG, beta=0.0)  # behaviour alone
    weights, objective = pair(zoo, config)
    for networks in networks_of(zoo, "train", config):
        rows = networks.take(torch.arange(3))
        weights.zero_grad()
        losses = objective.losses(weights, rows, torch.Generator().manual_seed(0))
        losses["loss"].backward()
        for part in (weights.encoder, weights.decoder):
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert not list(objective.parameters()) and not objective.state_dict()


def test_the_gradient_of_the_behaviour_is_that_of_finite_differences(
    objective: BehaviourReconstruction, zoo: Zoo
) -> None:
    """Also for the statistics of batch norm."""
    for networks in networks_of(zoo, "train", CONFIG):
        a, theta = networks.architecture, networks.take(torch.arange(2)).theta.double()
        generator = torch.Generator().manual_seed(0)
        found = theta * (1 + 0.1 * torch.rand(theta.shape, generator=generator))
        found.requires_grad_()
        for together in (True, False):
            behaviour = replace(objective.behaviours[a.fingerprint], together=together)
            objective.behaviours[a.fingerprint] = behaviour
            (slope,) = torch.autograd.grad(objective.compare(found, theta, a)[0], found)
            direction = torch.randn(theta.shape, generator=generator).double() * 1e-6
            ends = [objective.compare(found.detach() + s * direction, theta, a)[0] for s in (1, -1)]
            expected = float(ends[0] - ends[1]) / 2
            assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4)
        moved = {s.name: slope[:, s.offset : s.offset + s.numel].abs().max() for s in a.stored}
        assert min(moved.values()) > 0


def test_beta_weighs_the_two_terms(zoo: Zoo) -> None:
    rows = networks_of(zoo, "train", CONFIG)[0].take(torch.arange(3))
    for beta in (0.0, 0.25, 1.0):
        weights, objective = pair(zoo, replace(CONFIG, beta=beta))
        found = objective.losses(weights, rows, torch.Generator().manual_seed(0))
        expected = beta * found["weights"] + (1 - beta) * found["behaviour"]
        assert float(found["loss"].detach()) == pytest.approx(float(expected.detach()))


def test_both_terms_begin_near_1(zoo: Zoo) -> None:
    """So neither needs to be divided by its first value, as the paper does."""
    weights, objective = pair(zoo, CONFIG)
    groups = networks_of(zoo, "train", CONFIG)
    weights.scaling.fit((n.architecture, n.theta) for n in groups)
    for networks in groups:
        rows = networks.take(torch.arange(len(networks)))
        found = objective.losses(weights, rows, torch.Generator().manual_seed(0))
        first = [float(found[name].detach()) for name in ("weights", "behaviour")]
        assert all(0.2 < value < 3 for value in first), first


def test_outputs_that_are_not_finite_count_in_nothing(
    objective: BehaviourReconstruction, zoo: Zoo
) -> None:
    networks = networks_of(zoo, "train", CONFIG)[0]
    theta = networks.take(torch.arange(4)).theta.double()
    broken = theta.clone()
    broken[0] = float("nan")
    other = theta.roll(1, 0).requires_grad_()
    mismatch, _ = objective.compare(other, broken, networks.architecture)
    mismatch.backward()
    assert mismatch.isfinite() and other.grad is not None
    assert (other.grad.abs().sum(1) > 0).tolist() == [False, True, True, True]


def test_two_zoos_of_one_architecture_share_the_queries(zoo: Zoo) -> None:
    (one, *_), (both, *_) = (list(behaviours_of(zoos, 10).values()) for zoos in ([zoo], [zoo, zoo]))
    assert len(one.queries) == len(both.queries) == 10
    assert torch.equal(both.queries[:5], both.queries[5:])
    assert not torch.equal(one.queries[:5], one.queries[5:])
    again = next(iter(behaviours_of([zoo], 10).values()))
    assert torch.equal(again.queries, one.queries) and again.spread == one.spread > 0


def test_networks_that_vmap_cannot_batch_run_one_by_one() -> None:
    from graphrep import to_graph

    class Gated(nn.Module):
        """A branch on a value, which many networks at once cannot take."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return y if y.sum() > 0 else y * 2

    for module, expected in ((nn.Linear(3, 2), True), (Gated(), False)):
        graph = to_graph(nn.Linear(3, 2), torch.randn(1, 3))
        names = {"weight", "bias"} if expected else {"layer.weight", "layer.bias"}
        assert set(module.state_dict()) == names
        architecture = graph.architecture
        if not expected:
            graph = to_graph(module, torch.randn(1, 3), verify=False)
            architecture = graph.architecture
        theta = torch.stack([graph.theta, -graph.theta]).detach()
        behaviour = Behaviour(module.eval(), torch.randn(5, 3))
        with torch.no_grad():
            outputs = run_networks(behaviour, architecture, theta)
        assert runs_together(behaviour, architecture, theta, outputs) is expected


def test_a_resumed_run_equals_an_unbroken_one(zoo: Zoo, tmp_path: Path) -> None:
    config = replace(CONFIG, views=ViewConfig(noise=0.1, mask_ratio=0.2))
    check_resumed_equals_unbroken(zoo, config, tmp_path)


def test_an_architecture_without_a_module_is_named(zoo: Zoo) -> None:
    weights = model()
    rows = networks_of(zoo, "train", SelfSupervisedConfig())[0].take(torch.arange(2))
    with pytest.raises(ValueError, match=r"no module of architecture '.*context_of"):
        build_objective(CONFIG, weights).losses(weights, rows, torch.Generator())


def test_settings_out_of_range_are_refused() -> None:
    assert Settings.load(["objective=behaviour"]).objective == BehaviourConfig()
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
        Settings.load(["objective=behaviour", "objective.beta=2"])
    with pytest.raises(ValueError, match="num_queries"):
        BehaviourConfig(num_queries=0)
