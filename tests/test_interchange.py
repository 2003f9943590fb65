"""Views for others: named columns, typed attributes, GraphML that other programs read."""

from __future__ import annotations

from pathlib import Path

import networkx
import pytest
import torch
from torch import nn

import graphrep
from graphrep import interchange
from graphrep.graph import ParameterGraph
from graphrep.interchange import EDGE_FEATURES, NODE_FEATURES, architecture_to_networkx
from tests.figures.designs import UnusedTensor, grouped_convolutions, transformer


def small() -> ParameterGraph:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    return graphrep.to_graph(net, torch.randn(1, 1, 4, 4))


def nested() -> ParameterGraph:
    architecture = transformer(1)
    return ParameterGraph(architecture, torch.arange(float(architecture.num_parameters)))


def test_columns_of_a_pyg_graph_are_what_their_names_say() -> None:
    graph = small()
    data = graph.to_pyg()
    assert data.x.shape[1] == len(NODE_FEATURES) and data.edge_attr.shape[1] == len(EDGE_FEATURES)
    x = dict(zip(NODE_FEATURES, data.x.T, strict=True))
    kinds = [graph.architecture.units[i].kind for i in data.node_units.tolist()]
    assert x["is_hidden"].tolist() == [kind == "hidden" for kind in kinds]
    assert x["is_output"].sum() == 3 and x["is_opaque"].sum() == 0
    assert x["group_place"][0] == 0 and x["group_place"][-1] == 1
    edge = dict(zip(EDGE_FEATURES, data.edge_attr.T, strict=True))
    assert torch.equal(edge["value"], graph.theta[data.edge_parameter])
    conv = data.edge_block == 0
    assert graph.architecture.blocks[0].tensor == "0.weight"
    assert edge["kernel_1"][conv].unique().tolist() == [-1, 0, 1]
    assert edge["slot"][conv].unique().tolist() == [0]
    flat = next(i for i, b in enumerate(graph.architecture.blocks) if b.tensor == "4.weight")
    assert len(edge["slot"][data.edge_block == flat].unique()) == 4  # 2×2 places a channel
    odd = graphrep.to_graph(UnusedTensor(), torch.randn(1, 2)).to_pyg()
    assert odd.x[:, list(NODE_FEATURES).index("is_opaque")].sum() == 1  # control


@pytest.mark.parametrize(
    "make", [small, nested, lambda: graphrep.to_graph(UnusedTensor(), torch.ones(1, 2))]
)
def test_networkx_has_every_number_with_typed_attributes(make) -> None:
    graph = make()
    view = graph.to_networkx()
    numbers = {key: data for _, _, key, data in view.edges(keys=True, data=True)}
    assert sorted(numbers) == list(range(graph.architecture.num_parameters))
    assert [numbers[i]["weight"] for i in sorted(numbers)] == graph.theta.tolist()
    for records in ([d for _, d in view.nodes(data=True)], list(numbers.values())):
        columns = {frozenset(record) for record in records}
        assert len(columns) == 1  # each has all attributes
        for name in next(iter(columns)):
            types = {type(record[name]) for record in records}
            assert len(types) == 1 and types <= {str, int, float, bool}, name
    pyg = graph.to_pyg()
    assert view.number_of_nodes() == pyg.num_nodes


def test_units_within_units_are_named_on_their_nodes() -> None:
    view = nested().to_networkx()
    queries = "model.layers.0.self_attn.q_proj"
    heads, keys = "model.layers.0.self_attn.heads", "model.layers.0.self_attn.k_proj"
    assert view.nodes[queries, 5]["within"] == f"{heads}[1], {keys}[5]"
    assert view.nodes["stream", 5]["within"] == ""
    level = nested().to_networkx("architecture")
    assert level.nodes[queries]["within"] == f"3 × 4 in {heads}, 12 × 1 in {keys}"


@pytest.mark.parametrize(
    "make", [small, nested, lambda: graphrep.to_graph(UnusedTensor(), torch.ones(1, 2))]
)
@pytest.mark.parametrize("level", ["neurons", "architecture"])
def test_graphml_comes_back_as_it_was_written(make, level: str, tmp_path: Path) -> None:
    graph = make()
    graph.to_graphml(tmp_path / "net.graphml", level)
    back = networkx.read_graphml(tmp_path / "net.graphml", force_multigraph=True)
    view = graph.to_networkx(level)

    def name(node) -> str:
        return node if level == "architecture" else f"{node[0]}[{node[1]}]"

    assert dict(back.nodes(data=True)) == {name(n): d for n, d in view.nodes(data=True)}
    written = sorted((name(a), name(b), sorted(d.items())) for a, b, d in view.edges(data=True))
    assert sorted((a, b, sorted(d.items())) for a, b, d in back.edges(data=True)) == written
    assert back.is_directed() and back.graph["name"] == graph.architecture.name
    assert [p.name for p in tmp_path.iterdir()] == ["net.graphml"]


def test_the_architecture_level_has_a_node_a_unit_group_and_an_edge_a_block() -> None:
    architecture = grouped_convolutions(2)
    view = architecture_to_networkx(architecture)
    assert list(view) == [u.name for u in architecture.units]
    edges = {key: (a, b, d) for a, b, key, d in view.edges(keys=True, data=True)}
    assert set(edges) == {b.name for b in architecture.blocks}
    a, b, conv = edges["blocks.0.conv2.weight"]
    assert (a, b, conv["shape"]) == ("blocks.0.conv1", "blocks.0.conv2", "8×8×3×3")
    assert conv["num_parameters"] == 8 * 8 * 9
    a, b, _ = edges["stem.bias"]
    assert a == b == "stem"
    odd = graphrep.to_graph(UnusedTensor(), torch.ones(1, 2)).to_networkx("architecture")
    assert odd.nodes["unused"]["kind"] == "opaque" and odd.has_edge("unused", "unused")


def test_a_graph_on_meta_has_the_architecture_level_only(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = nn.Linear(2, 2)
    graph = graphrep.to_graph(net, torch.randn(1, 2), verify=False)
    assert graph.to_networkx("architecture").number_of_nodes() == 2
    with pytest.raises(ValueError, match="needs values"):
        graph.to_graphml(tmp_path / "net.graphml")


def test_what_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = small()
    with pytest.raises(ValueError, match="level must be 'neurons' or 'architecture', got 'layers'"):
        graph.to_networkx("layers")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\.graphml or \.xml"):
        graph.to_graphml(tmp_path / "net.json")
    monkeypatch.setattr(interchange, "MAX_GRAPHML_EDGES", 10)
    with pytest.raises(ValueError, match="level='architecture'") as error:
        graph.to_graphml(tmp_path / "net.graphml")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    graph.to_graphml(str(tmp_path / "net.xml"), "architecture")  # control
