"""The picture of a network's neurons: a dot a unit, a line a weight, by sign and size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import nn

import graphrep
from graphrep.figures import neuron_picture, save_picture
from graphrep.figures.neurons import MAX_LINES, MAX_UNITS, NEGATIVE, POSITIVE
from graphrep.graph import ParameterGraph
from tests.figures.designs import UnusedTensor


def mlp(*sizes: int) -> ParameterGraph:
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return graphrep.to_graph(nn.Sequential(*layers), torch.randn(1, sizes[0]))


def lines(figure: Figure) -> tuple[list, list, list]:
    """Ends, colours and widths of all lines."""
    found = [c for c in figure.findobj(LineCollection) if c.get_gid() == "weights"]
    ends = [tuple(map(tuple, s.round(3))) for c in found for s in c.get_segments()]
    colours = [tuple(c) for f in found for c in f.get_colors()]
    return ends, colours, [w for f in found for w in f.get_linewidths()]


def dots(figure: Figure) -> dict[str, torch.Tensor]:
    found = [c for c in figure.findobj(PathCollection) if c.get_gid()]
    return {c.get_gid(): torch.as_tensor(c.get_offsets().data) for c in found}


def test_every_unit_is_a_dot_and_every_weight_a_line_of_its_own() -> None:
    figure = neuron_picture(mlp(3, 5, 2))
    places = dots(figure)
    assert {name: len(at) for name, at in places.items()} == {"input": 3, "0": 5, "1": 2}
    everywhere = torch.cat(list(places.values()))
    assert len(torch.unique(everywhere, dim=0)) == 10
    ends, _, _ = lines(figure)
    assert len(set(ends)) == 3 * 5 + 5 * 2
    assert len(lines(neuron_picture(mlp(3, 4, 2)))[0]) == 3 * 4 + 4 * 2  # control


def test_colour_is_the_sign_and_strength_the_magnitude_of_a_weight() -> None:
    graph = mlp(2, 1)
    weights = graph.theta.clone()
    weights[:2] = torch.tensor([2.0, -0.5])
    _, colours, widths = lines(neuron_picture(ParameterGraph(graph.architecture, weights)))
    weak, strong = sorted(zip(widths, colours, strict=True))
    assert strong[1][:3] == pytest.approx(to_rgb(POSITIVE))
    assert weak[1][:3] == pytest.approx(to_rgb(NEGATIVE))
    assert strong[1][3] > 2 * weak[1][3]
    _, swapped, _ = lines(neuron_picture(ParameterGraph(graph.architecture, -weights)))
    assert {c[:3] for c in swapped} == {c[:3] for c in colours}
    assert sorted(swapped) != sorted(colours)


def test_a_kernel_is_one_line_with_its_strongest_entry() -> None:
    net = nn.Conv2d(1, 1, 3, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.1)
        net.weight[0, 0, 1, 2] = -3.0
    ends, colours, _ = lines(neuron_picture(graphrep.to_graph(net, torch.randn(1, 1, 4, 4))))
    assert len(ends) == 1
    assert colours[0][:3] == pytest.approx(to_rgb(NEGATIVE))


def test_permuting_units_moves_lines_and_changes_no_strength() -> None:
    graph = mlp(3, 6, 2)
    g = graphrep.random_permutation(graph.architecture, torch.Generator().manual_seed(0))
    before, after = lines(neuron_picture(graph)), lines(neuron_picture(graph.permute(g)))
    assert sorted(before[2]) == pytest.approx(sorted(after[2]))
    assert dict(zip(before[0], before[2], strict=True)) != dict(zip(*after[::2], strict=True))


def test_what_is_too_large_is_sent_to_the_architecture_picture() -> None:
    with pytest.raises(ValueError, match="architecture_picture") as units:
        neuron_picture(mlp(MAX_UNITS, 1))
    assert f"{MAX_UNITS + 1} units" in str(units.value)
    with pytest.raises(ValueError, match="architecture_picture") as weights:
        neuron_picture(mlp(150, 150))
    assert f"{MAX_LINES:,}" in str(weights.value) and "22,500" in str(weights.value)
    with torch.device("meta"):
        net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="has no values"):
        neuron_picture(graphrep.to_graph(net, torch.randn(1, 2), verify=False))
    assert neuron_picture(mlp(MAX_UNITS - 1, 1)).axes  # control: at the limit


def test_strange_values_and_opaque_tensors_do_no_harm(tmp_path: Path) -> None:
    graph = mlp(2, 3, 2)
    values = graph.theta.clone()
    values[0], values[1] = float("nan"), float("inf")
    save_picture(neuron_picture(ParameterGraph(graph.architecture, values)), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<text" in text and ">input</text>" in text and "nan" not in text
    assert len(lines(neuron_picture(graphrep.to_graph(UnusedTensor(), torch.randn(1, 2))))[0]) == 4
