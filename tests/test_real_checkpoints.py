"""Laws on networks that others trained, and on real images; see `real_checkpoints.py`.

Skipped where `$GRAPHREP_CHECKPOINTS` (and, for accuracies, `$GRAPHREP_DATA`) is not set.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep import ParameterGraph
from graphrep.checkpoint import read_checkpoint
from graphrep.tokens import token_grid

from .real_checkpoints import (
    CASES,
    CHECKPOINTS,
    CNN_A,
    DATA,
    Known,
    RealCase,
    real_images,
)

pytestmark = pytest.mark.skipif(not CHECKPOINTS, reason="GRAPHREP_CHECKPOINTS is not set")
needs_data = pytest.mark.skipif(not DATA, reason="GRAPHREP_DATA is not set")
every_file = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
every_figure = pytest.mark.parametrize(
    ("case", "known"),
    [pytest.param(c, known, id=f"{c.name}-{known.images}") for c in CASES for known in c.known],
)


def permuted(graph: ParameterGraph, seed: int = 0) -> ParameterGraph:
    generator = torch.Generator().manual_seed(seed)
    return graph.permute(graphrep.random_permutation(graph.architecture, generator))


def one_sided(module: nn.Module, graph: ParameterGraph) -> nn.Module:
    """The module with its largest group of units moved in one of its tensors alone."""
    architecture = graph.architecture
    units = max((u for u in architecture.units if not u.fixed), key=lambda u: u.size)
    block = next(b for b in architecture.blocks_of(units.name) if b.kind == "dense")
    axis = next(i for i, s in enumerate(block.axes) if s.units == units.name)
    broken = copy.deepcopy(module)
    weight = dict(broken.named_parameters())[block.tensor]
    with torch.no_grad():
        weight.copy_(weight.roll(block.axes[axis].slots, axis))
    return broken


def bits(value: Tensor) -> Tensor:
    return value.contiguous().view(torch.uint8)


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    """All that a network returns, a row an input."""
    with torch.inference_mode():
        parts = [module(part) for part in x.split(500)]
    return torch.cat(
        [torch.cat([v.flatten(1) for v in p], 1) if isinstance(p, tuple) else p for p in parts]
    )


def accuracy(module: nn.Module, case: RealCase, images: str) -> float:
    """Share of images whose class the network tells."""
    pixels, labels = real_images(images)
    return float((outputs(module, case.inputs(pixels)).argmax(1) == labels).double().mean())


@cache
def original_accuracy(case: RealCase, images: str) -> float:
    return accuracy(case.module(), case, images)


@every_file
def test_a_real_checkpoint_comes_back_bit_for_bit(case: RealCase) -> None:
    module, stored = case.module(), case.checkpoint().state_dict
    graph = graphrep.to_graph(module, case.example())
    found = graph.state_dict()
    assert list(found) == list(module.state_dict())
    for name, value in stored.items():
        assert found[name].dtype == value.dtype
        assert bits(found[name]).equal(bits(value))
    # Batch norm's counters, which torch itself adds, are all that the file does not have.
    assert all(n.endswith("num_batches_tracked") for n in found if n not in stored)
    grid = token_grid(graph.architecture, 64)
    assert grid.join(grid.cut(graph.theta[None]))[0].equal(graph.theta)


@pytest.mark.parametrize("case", [CASES[7], CASES[11]], ids=lambda c: c.name)
def test_the_pyg_view_of_a_real_checkpoint_comes_back_bit_for_bit(case: RealCase) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    again = ParameterGraph.from_pyg(graph.to_pyg(), graph.architecture)
    assert again.theta.equal(graph.theta)


@every_file
def test_every_tensor_is_placed_and_groups_are_as_large_as_known(case: RealCase) -> None:
    architecture = graphrep.to_graph(case.module(), case.example()).architecture
    assert tuple(u.size for u in architecture.units if not u.fixed) == case.hidden
    assert not [b.tensor for b in architecture.blocks if b.kind == "opaque"]
    assert architecture.num_parameters == sum(
        v.numel() for v in case.checkpoint().state_dict.values()
    )


@every_file
def test_a_file_is_taken_without_its_module(case: RealCase) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    stored = case.checkpoint().state_dict
    assert ParameterGraph.from_state_dict(graph.architecture, stored).theta.equal(graph.theta)


@needs_data
@every_file
def test_a_permuted_real_network_computes_the_same_on_real_images(case: RealCase) -> None:
    module = case.module(torch.float64)
    graph = graphrep.to_graph(module, case.example(torch.float64))
    x = case.inputs(real_images("mnist" if case.shape[0] == 1 else "cifar10_test1k")[0][:16])
    x = x.double()
    expected = outputs(module, x)
    for seed in range(2):
        other = permuted(graph, seed)
        assert (other.theta != graph.theta).double().mean() > 0.5
        found = outputs(other.load_into(case.build().double().eval()), x)
        assert (found - expected).abs().max() < 1e-9
    assert (outputs(one_sided(module, graph), x) - expected).abs().max() > 1e-3


@needs_data
@every_figure
def test_known_accuracies_are_reproduced(case: RealCase, known: Known) -> None:
    num_images = len(real_images(known.images)[1])
    found = original_accuracy(case, known.images)
    assert abs(found - known.accuracy) <= known.tolerance(num_images)


@needs_data
@every_figure
def test_permuting_a_real_network_keeps_its_accuracy(case: RealCase, known: Known) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    module = permuted(graph, seed=3).load_into(case.build().eval())
    assert accuracy(module, case, known.images) == original_accuracy(case, known.images)


@needs_data
@pytest.mark.parametrize("case", [c for c in CASES if c.known], ids=lambda c: c.name)
def test_permuting_one_side_alone_costs_accuracy(case: RealCase) -> None:
    images = case.known[-1].images
    module = case.module()
    broken = one_sided(module, graphrep.to_graph(module, case.example()))
    assert accuracy(broken, case, images) < original_accuracy(case, images) - 0.1


def test_six_files_are_of_one_architecture_and_others_are_not() -> None:
    fingerprints = {
        case.name: graphrep.to_graph(case.module(), case.example()).architecture.fingerprint
        for case in CASES
    }
    same = {fingerprints[case.name] for case in CNN_A}
    assert len(same) == 1
    assert len(set(fingerprints.values())) == 1 + len(CASES) - len(CNN_A)


@needs_data
def test_aligning_real_networks_brings_them_closer_and_keeps_what_they_compute() -> None:
    one, other = CNN_A[:2]
    reference = graphrep.to_graph(one.module(), one.example())
    graph = graphrep.to_graph(other.module(), other.example())
    aligned = graphrep.align(graph, reference)
    before = (graph.theta - reference.theta).norm()
    assert (aligned.theta - reference.theta).norm() < 0.95 * before
    assert (permuted(aligned).theta - reference.theta).norm() > 0.95 * before
    module = aligned.load_into(other.build().eval())
    assert accuracy(module, other, "cifar10_test1k") == original_accuracy(other, "cifar10_test1k")


@pytest.mark.parametrize("case", [CNN_A[0], CASES[10]], ids=lambda c: c.name)
def test_alignment_recovers_a_permutation_of_a_real_network(case: RealCase) -> None:
    graph = graphrep.to_graph(case.module(), case.example())
    assert graphrep.align(permuted(graph, seed=5), graph).theta.equal(graph.theta)


@pytest.mark.parametrize(
    ("file", "num_tensors", "name", "shape"),
    [
        ("llama/stories260K.safetensors", 47, "tok_embeddings.weight", (512, 64)),
        ("pykan/0.0_state", 22, "act_fun.0.coef", (2, 1, 6)),
    ],
)
def test_files_of_other_families_are_read(
    file: str, num_tensors: int, name: str, shape: tuple[int, ...]
) -> None:
    checkpoint = read_checkpoint(Path(CHECKPOINTS) / file)
    assert len(checkpoint.state_dict) == num_tensors
    assert checkpoint.state_dict[name].shape == shape
    assert checkpoint.unwrapped == ()
