"""Architectures built by hand describe the functions that come with them; law 3."""

from __future__ import annotations

import pytest
import torch

import graphrep
from graphrep.architecture import Architecture
from graphrep.architecture.reorder import reorder_theta

from .nested import DESIGNS, Design, without_parents

every_design = pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)


def theta_of(architecture: Architecture) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(architecture.num_parameters, generator=generator, dtype=torch.float64)


@every_design
def test_a_reordered_network_computes_the_same(design: Design) -> None:
    architecture = design.architecture()
    theta = theta_of(architecture)
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        permutation = graphrep.random_permutation(architecture, generator)
        moved = reorder_theta(architecture, theta, permutation)
        assert (design.compute(moved) - design.compute(theta)).abs().max() < 1e-9
        assert not torch.equal(moved, theta) or all(
            torch.equal(order, torch.arange(len(order))) for order in permutation.values()
        )


@every_design
def test_what_leaves_its_parents_computes_something_else(design: Design) -> None:
    architecture = design.architecture()
    theta = theta_of(architecture)
    flat = without_parents(architecture)
    for broken in design.broken:
        orders = {name: torch.tensor(order) for name, order in broken.items()}
        moved = reorder_theta(flat, theta, orders)
        assert (design.compute(moved) - design.compute(theta)).abs().max() > 1e-2


@every_design
def test_designs_come_back_from_json(design: Design) -> None:
    architecture = design.architecture()
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.fingerprint != without_parents(architecture).fingerprint
