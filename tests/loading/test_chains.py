"""Laws of state dicts without a class: chains come out as they were, all else is refused."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphrep import to_graph
from graphrep.loading import load_graph


class Numbered(nn.Module):
    """Layers under names of their own, as most hand-written classes have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.fc1 = nn.Linear(12 * 16, 20)
        self.fc2 = nn.Linear(20, 5)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.fc2(torch.relu(self.fc1(self.pool(torch.relu(x)).flatten(1))))


def chain(*layers: nn.Module) -> nn.Module:
    """Layers with ReLU before every one with a matrix or kernel but the first."""
    steps: list[nn.Module] = []
    for layer in layers:
        if steps and isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            slope = isinstance(steps[-1], nn.PReLU | nn.Flatten)
            steps += [] if slope else [nn.ReLU()]
        if isinstance(layer, nn.AdaptiveAvgPool1d):
            steps.append(nn.ReLU())
        steps.append(layer)
    return nn.Sequential(*steps)


CONVOLUTIONS = (nn.Conv1d(2, 6, 3, padding=1), nn.Conv1d(6, 6, 3, padding=1, groups=6))
CHAINS = {
    "mlp": (chain(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)), (1, 4)),
    "no bias": (chain(nn.Linear(4, 6, bias=False), nn.Linear(6, 2)), (1, 4)),
    "mlp with norms": (
        chain(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2)
        ),
        (2, 4),
    ),
    "cnn": (Numbered(), (1, 3, 8, 8)),
    "conv1d": (
        chain(
            *CONVOLUTIONS,
            nn.Conv1d(6, 5, 1),
            nn.AdaptiveAvgPool1d(3),
            nn.Flatten(),
            nn.Linear(15, 2),
        ),
        (1, 2, 8),
    ),
    "prelu": (
        chain(nn.Conv2d(1, 4, 3, padding=1), nn.PReLU(4), nn.Conv2d(4, 3, 3, padding=1)),
        (1, 1, 8, 8),
    ),
    "twelve alike": (chain(*(nn.Linear(4, 4) for _ in range(12))), (1, 4)),
    "double": (chain(nn.Linear(4, 6), nn.Linear(6, 2)).double(), (1, 4)),
}


def hidden(graph: object) -> list[int]:
    return sorted(u.size for u in graph.architecture.units if not u.fixed)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_chain_is_recognised_by_its_shapes(tmp_path: Path, name: str, kind: str) -> None:
    module, shape = CHAINS[name]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    path = tmp_path / "net.pt"
    torch.save(state, path) if kind == "torch" else save_file(state, path)
    loaded = load_graph(path)
    dtype = next(module.parameters()).dtype
    expected = to_graph(module.eval(), torch.randn(shape, dtype=dtype))
    assert hidden(loaded.graph) == hidden(expected) != []
    found = loaded.graph.state_dict()
    assert set(found) == set(state)
    assert all(found[k].dtype == v.dtype and found[k].equal(v) for k, v in state.items())
    assert loaded.notes[0].startswith("assumed a plain chain without shortcuts")
    assert any(note.startswith("assumed input ") for note in loaded.notes)


@pytest.mark.parametrize("name", ["mlp", "cnn", "conv1d", "prelu"])
def test_the_assumed_module_computes_what_the_real_one_does(tmp_path: Path, name: str) -> None:
    """Where strides and activations are those that are assumed; the control is other padding."""
    module, shape = CHAINS[name]
    torch.save(module.state_dict(), tmp_path / "net.pt")
    loaded = load_graph(tmp_path / "net.pt")
    x = torch.randn(16, *shape[1:])  # a narrow network may be silent on one
    assert loaded.module is not None
    with torch.no_grad():
        expected = module.eval()(x)
        assert (loaded.module(x) - expected).abs().max() < 1e-5
        assert (loaded.module(x * 2) - expected).abs().max() > 1e-3


def test_every_assumption_is_said(tmp_path: Path) -> None:
    torch.save(Numbered().state_dict(), tmp_path / "net.pt")
    text = " ".join(load_graph(tmp_path / "net.pt").notes)
    for said in ("ReLU", "stride 1", "pooling to 4 x 4 positions", "input 1,3,8,8"):
        assert said in text
    text = " ".join(load_graph(tmp_path / "net.pt", input_shape="1,3,16,16").notes)
    assert "assumed input" not in text


def test_layers_are_ordered_by_number_where_the_file_sorts_its_names(tmp_path: Path) -> None:
    sizes = [3, *range(20, 31), 2]
    module = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    loaded = load_graph(tmp_path / "net.safetensors")
    assert hidden(loaded.graph) == list(range(20, 31))
    assert "assumed layers follow each other by name" in loaded.notes


def test_an_image_for_a_chain_of_linear_layers_is_flattened(tmp_path: Path) -> None:
    torch.save(CHAINS["mlp"][0].state_dict(), tmp_path / "net.pt")
    loaded = load_graph(tmp_path / "net.pt", input_shape=(1, 1, 2, 2))
    assert "assumed a flatten before the first layer" in loaded.notes


class Residual(nn.Module):
    """Blocks whose shortcuts no weight shows: by its shapes alone it would be a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(*(self.block() for _ in range(2)))
        self.fc = nn.Linear(8, 2)

    def block(self) -> nn.Module:
        block = nn.Module()
        block.conv1, block.bn1 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        block.conv2, block.bn2 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        return block


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Residual(), "as residual blocks do"),
        (Heads(), "'other' (weight [3, 6], bias [3]) takes 6 channels, but 'one' before it"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), "takes 5 channels"),
        (nn.TransformerEncoderLayer(8, 2, 16), "self_attn"),
        (nn.LSTM(3, 4), "is no tensor of a linear, convolutional or norm layer"),
        (nn.Sequential(OrderedDict(embedding=nn.Embedding(9, 4), out=nn.Linear(4, 2))), "'embed'"),
        (nn.Sequential(nn.Linear(4, 6), nn.Flatten(), nn.Conv1d(6, 2, 1)), "behind the linear"),
        (nn.Sequential(nn.BatchNorm1d(4)), "no weight matrix or kernel"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_what_may_be_no_chain_is_refused(tmp_path: Path, module: nn.Module, says: str) -> None:
    torch.save(module.state_dict(), tmp_path / "net.pt")
    with pytest.raises(
        ValueError, match=r"net\.pt: .*Pass --model package\.module:factory"
    ) as error:
        load_graph(tmp_path / "net.pt")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_tensors_without_values_are_read_but_are_no_chain(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(0, 4), "0.bias": torch.zeros(0)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"has no values \(shape \[0, 4\]\)"):
        load_graph(tmp_path / "net.pt")
