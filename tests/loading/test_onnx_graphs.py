"""Laws of ONNX files: the graph is the one that the exported module has."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.graph import ParameterGraph, log10_symmetries
from graphrep.loading import load_graph

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.back = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.back(torch.relu(self.inner(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.head = kind(3, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    """Tokens, a class token, positions, heads: what exporters write of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(11, 12), nn.Parameter(torch.randn(7, 12))
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.places[: ids.shape[1]]
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-1, -2) / 6**0.5, -1) @ v
        x = self.norm(x + self.out(a.transpose(1, 2).flatten(2)))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x[:, 0])


MODULES: dict[str, tuple[nn.Module, Tensor]] = {
    "mlp": (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(1, 4)),
    "resnet": (Block(), torch.randn(1, 3, 8, 8)),
    "depthwise": (
        nn.Sequential(*[nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6)], nn.Conv2d(6, 2, 1)),
        torch.randn(1, 3, 8, 8),
    ),
    "lstm": (Recurrent(nn.LSTM), torch.randn(1, 4, 3)),
    "gru": (Recurrent(nn.GRU), torch.randn(1, 4, 3)),
    "transformer": (Attention(), torch.tensor([[1, 2, 3, 4, 5]])),
}  # fmt: skip


def export(module: nn.Module, inputs: Tensor, path: Path, **settings: Any) -> Path:
    """Random values first: equal ones, such as biases of zeros, would be merged."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (inputs,), str(path), **settings)
    return path


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("opset", [13, 17])
def test_an_exported_module_has_its_own_graph(tmp_path: Path, name: str, opset: int) -> None:
    module, inputs = copy.deepcopy(MODULES[name])
    path = export(module, inputs, tmp_path / "net.onnx", dynamo=False, opset_version=opset)
    loaded, expected = load_graph(path), graphrep.to_graph(module, inputs)
    assert isinstance(loaded.module, nn.Module)
    with torch.no_grad():
        assert (loaded.module(inputs) - module(inputs)).abs().max() < 1e-5
    same = log10_symmetries(loaded.graph.architecture)
    assert same == pytest.approx(log10_symmetries(expected.architecture)) != 0
    assert loaded.graph.architecture.verified
    own = module.state_dict()
    kept = [n for n in loaded.graph.state_dict() if n in own]
    assert kept and all(loaded.graph.state_dict()[n].equal(own[n]) for n in kept)


@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_a_permuted_onnx_graph_computes_the_same(tmp_path: Path, name: str) -> None:
    module, inputs = copy.deepcopy(MODULES[name])
    path = export(module, inputs, tmp_path / "net.onnx", dynamo=False, opset_version=17)
    loaded = load_graph(path)
    net = copy.deepcopy(loaded.module)
    assert net is not None
    g = graphrep.random_permutation(loaded.graph.architecture, torch.Generator().manual_seed(1))
    twin = loaded.graph.permute(g)
    with torch.no_grad():
        expected = net(inputs)
        assert (twin.theta != loaded.graph.theta).double().mean() > 0.5
        assert (twin.load_into(net)(inputs) - expected).abs().max() < 1e-5
        broken = dict(loaded.graph.state_dict())
        weight = {"resnet": "inner.weight", "transformer": "up.bias"}[name]
        broken[weight] = broken[weight].roll(1, 0)
        net.load_state_dict(broken)
        assert (net(inputs) - expected).abs().max() > 1e-4  # one side alone changes it


@pytest.mark.slow
def test_the_newer_exporter_gives_the_same_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    module, inputs = copy.deepcopy(MODULES["transformer"])
    path = export(module, inputs, tmp_path / "net.onnx", dynamo=True, verbose=False)
    loaded = load_graph(path)
    expected = graphrep.to_graph(module, inputs)
    assert log10_symmetries(loaded.graph.architecture) == pytest.approx(
        log10_symmetries(expected.architecture)
    )
    assert (tmp_path / "net.onnx.data").exists()  # weights beside the file are read
    with torch.no_grad():
        assert loaded.module is not None
        assert (loaded.module(inputs) - module(inputs)).abs().max() < 1e-5


def test_free_sizes_are_chosen_small_or_as_asked(tmp_path: Path) -> None:
    module, inputs = copy.deepcopy(MODULES["resnet"])
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    settings: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": axes, "opset_version": 17}
    net = nn.Sequential(module.stem, nn.ReLU(), module.inner)
    path = export(net, inputs, tmp_path / "net.onnx", dynamo=False, **settings)
    (note,) = [n for n in load_graph(path).notes if n.startswith("assumed input")]
    assert (
        note == "assumed input 'x' 1,3,32,32 (free sizes set: batch = 1, height = 32, width = 32)"
    )
    asked = load_graph(path, input_shape="2,3,8,6")
    assert not any("assumed" in n for n in asked.notes)
    with torch.no_grad():
        assert asked.module is not None
        for size in (5, 9):  # one module, inputs of any size
            x = torch.randn(2, 3, size, size)
            assert (asked.module(x) - net(x)).abs().max() < 1e-5


def test_an_onnx_file_is_also_a_checkpoint_for_a_model(tmp_path: Path) -> None:
    module, inputs = copy.deepcopy(MODULES["mlp"])
    path = export(module, inputs, tmp_path / "net.onnx", dynamo=False)
    loaded = load_graph(path, model=copy.deepcopy(MODULES["mlp"][0]), input_shape=(1, 4))
    found = loaded.graph.state_dict()
    assert all(found[n].equal(v) for n, v in module.state_dict().items())


def test_equal_tensors_that_an_exporter_merged_are_apart_again(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    x = torch.randn(1, 4)
    export(module, x, tmp_path / "net.onnx", dynamo=False)
    expected = log10_symmetries(graphrep.to_graph(module, x).architecture)
    with torch.no_grad():
        for layer in (module[0], module[2], module[4]):
            layer.bias.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(tmp_path / "net.onnx"), dynamo=False)
    loaded = load_graph(tmp_path / "net.onnx")
    biases = [v for v in loaded.graph.state_dict().values() if v.dim() == 1]
    assert len(biases) == 3
    assert log10_symmetries(loaded.graph.architecture) == pytest.approx(expected) != 0
    assert any("apart again" in n for n in loaded.notes)


def test_the_graph_of_an_onnx_file_goes_through_its_json(tmp_path: Path) -> None:
    module, inputs = copy.deepcopy(MODULES["resnet"])
    loaded = load_graph(export(module, inputs, tmp_path / "net.onnx", dynamo=False))
    text = loaded.graph.architecture.to_json()
    again = graphrep.Architecture.from_json(text)
    state = loaded.graph.state_dict()
    assert ParameterGraph.from_state_dict(again, state).theta.equal(loaded.graph.theta)
