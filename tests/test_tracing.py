"""The mechanism of tracing: what it sees, what it gives up, and the check that holds the rules."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphrep
from graphrep.architecture import trace, verify
from graphrep.architecture.reorder import reorder_theta
from graphrep.architecture.rules import RULES
from graphrep.architecture.rules.call import Rule
from graphrep.architecture.verify import random_theta


def hidden(module: nn.Module, x: object) -> list[int]:
    return [u.size for u in trace(module, x).units if not u.fixed]  # type: ignore[arg-type]


def keeps_its_function(module: nn.Module, x: Tensor) -> bool:
    """Whether every derived permutation keeps the outputs, without the numeric check's help."""
    module = copy.deepcopy(module).double().eval()
    architecture = trace(module, x.double())
    theta = random_theta(architecture, torch.Generator().manual_seed(0))
    graph = graphrep.ParameterGraph(
        architecture,
        theta,
        graphrep.ParameterGraph.from_state_dict(architecture, module.state_dict()).buffers,
    )
    permutation = graphrep.random_permutation(architecture, torch.Generator().manual_seed(1))
    moved = graph.permute(permutation)
    with torch.no_grad():
        expected = _first(graph.load_into(module)(x.double()))
        found = _first(moved.load_into(module)(x.double()))
    return bool((found - expected).abs().max() < 1e-9 * max(1.0, float(expected.abs().max())))


def _first(output: object) -> Tensor:
    return output[0] if isinstance(output, tuple) else output  # type: ignore[return-value]


class Net(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, between, width: int = 6) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, width), nn.Linear(width, 3)
        self.between = between
        self.register_buffer("colours", torch.tensor([1.0, 1, 2, 2, 2, 3]), persistent=False)
        self.register_buffer("state", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.between(self, torch.tanh(self.inner(x))))


def double_a_part(_: Net, h: Tensor) -> Tensor:
    h[:, :3].mul_(2)
    return h


def fill_fresh_memory(_: Net, h: Tensor) -> Tensor:
    fresh = torch.empty_like(h)
    fresh[:, ::2] = h[:, :3]
    fresh[:, 1::2] = 2 * h[:, 3:]
    return fresh


def overwrite_half(_: Net, h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :3] = h[:, 3:] * 2
    return h


BETWEEN = {  # sizes of the groups that may still be permuted
    "nothing": (lambda net, h: h, [6]),
    "in place": (lambda net, h: h.mul_(2).relu_(), [6]),
    "softmax": (lambda net, h: h.softmax(-1), [6]),
    "a mean beside it": (lambda net, h: h - h.mean(-1, keepdim=True), [6]),
    "softmax over halves": (
        lambda net, h: torch.cat([p.softmax(-1) for p in h.chunk(2, -1)], -1), [3, 3]
    ),
    "sum of a slice": (lambda net, h: h * h[:, :2].sum(-1, keepdim=True), [2, 4]),
    "constants": (lambda net, h: h * net.colours, [2, 3]),
    "values of a checkpoint": (lambda net, h: h * net.state, []),
    "equal constants": (lambda net, h: h * torch.full((6,), 2.0), [6]),
    "flip tied to itself": (lambda net, h: h + h.flip(-1), [3]),
    "gate": (lambda net, h: torch.cat([h[:, :3] * h[:, 3:].sigmoid()] * 2, -1), [3]),
    "cumulative sum": (lambda net, h: h.cumsum(-1), []),
    "sort": (lambda net, h: h.sort(-1).values, []),
    "a part in place": (double_a_part, []),
    "fresh memory": (fill_fresh_memory, []),
    "padding of its own values": (lambda net, h: h + F.pad(h[:, :4], (1, 1)), [1, 1]),
    # columns that only ever read padding keep their places
    "windows": (lambda net, h: F.pad(h.unfold(1, 3, 1).sum(-1), (1, 1)), [1]),
    "limits that differ": (lambda net, h: h.clamp(min=torch.arange(6) / 5 - 0.5), []),
    "overwritten view": (overwrite_half, []),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_decides_what_may_be_permuted(name: str) -> None:
    between, expected = BETWEEN[name]
    module, x = Net(between), torch.randn(3, 4)
    assert hidden(module, x) == expected
    assert keeps_its_function(module, x)
    graph = graphrep.to_graph(module, x)
    assert all(torch.equal(v, graph.state_dict()[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True),
        nn.GRU(4, 5, 2, batch_first=True),
        nn.RNN(4, 5, 2, batch_first=True),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.Sequential(nn.Conv1d(6, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv1d(8, 3, 1)),
        nn.Sequential(
            nn.Conv1d(6, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=2), nn.Conv1d(8, 2, 1)
        ),
    ],
    ids=["lstm", "gru", "rnn", "transformer", "group-norm", "grouped"],
)  # fmt: skip
def test_later_families_are_sound_already(module: nn.Module) -> None:
    x = torch.randn(2, 6, 4)
    assert keeps_its_function(module, x)
    graph = graphrep.to_graph(module, x)
    assert all(torch.equal(v, graph.state_dict()[k]) for k, v in module.state_dict().items())
    assert len(graph.to_pyg().edge_parameter) == len(graph.theta)


def test_recurrence_and_attention_keep_symmetries() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    assert hidden(Last(), torch.randn(2, 3, 4)) == [5]
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    # two heads, the dims of queries with keys and of values within them, and the feed-forward
    assert hidden(layer, torch.randn(2, 3, 8)) == [2, 8, 8, 16]


def test_an_unplaced_parameter_is_opaque_lossless_and_reported() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))
            self.unused = nn.Parameter(torch.randn(3))
            self.outer = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(F.linear(x, torch.cumsum(self.weight, 0)))

    module = Odd()
    graph = graphrep.to_graph(module, torch.randn(2, 4))
    opaque = {b.tensor for b in graph.architecture.blocks if b.kind == "opaque"}
    assert opaque == {"weight", "unused"}
    assert all(torch.equal(v, graph.state_dict()[k]) for k, v in module.state_dict().items())
    report = graph.report()
    assert "weight: no rule for this operation (cumsum)" in report
    assert "unused: not used in the traced run" in report
    assert len(graph.to_pyg().edge_parameter) == len(graph.theta)


def test_a_false_rule_is_caught_by_the_numeric_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of verification: call a cumulative sum harmless, as a unary function."""
    module, x = Net(lambda net, h: h.cumsum(-1)), torch.randn(3, 4)
    monkeypatch.setitem(RULES, "cumsum", Rule("cumsum", RULES["relu"].apply, "false"))
    monkeypatch.setattr(verify, "_verified", {})
    assert hidden(module, x) == [6]
    assert not keeps_its_function(module, x)
    graph = graphrep.to_graph(module.float(), x)
    assert all(u.fixed for u in graph.architecture.units)
    assert "reordering its units changed the outputs" in graph.report()


def test_a_check_by_hand_agrees_with_the_gather() -> None:
    module = Net(lambda net, h: h)
    architecture = trace(module, torch.randn(1, 4))
    theta = torch.arange(architecture.num_parameters, dtype=torch.float32)
    order = torch.tensor([2, 0, 1, 5, 4, 3])
    moved = graphrep.ParameterGraph(
        architecture, reorder_theta(architecture, theta, {"inner": order})
    )
    before = graphrep.ParameterGraph(architecture, theta).state_dict()
    after = moved.state_dict()
    assert torch.equal(after["inner.weight"], before["inner.weight"][order])
    assert torch.equal(after["inner.bias"], before["inner.bias"][order])
    assert torch.equal(after["outer.weight"], before["outer.weight"][:, order])
    assert torch.equal(after["outer.bias"], before["outer.bias"])


def test_control_flow_that_reads_values_is_followed_and_said() -> None:
    def branch(net: Net, h: Tensor) -> Tensor:
        return h * 2 if bool(h.sum() > 0) else h

    module = Net(branch)
    graph = graphrep.to_graph(module, torch.randn(3, 4))
    assert "the path it took" in graph.report()


def test_tied_weights_are_one_place_and_come_back_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 6)
            self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
            self.outer.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.relu(self.inner(self.table(x))))

    module, x = Tied(), torch.randint(9, (2, 3))
    graph = graphrep.to_graph(module, x)
    assert graph.architecture.num_parameters == 9 * 6 + 6 * 6 + 6
    state = graph.state_dict()
    assert state["outer.weight"] is state["table.weight"]
    assert list(state) == list(module.state_dict())
    graph.load_into(Tied())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(2, 5), r"Net does not run on example inputs of shapes \[\(2, 5\)\]"),
        ("image", "example_inputs must be a tensor|does not run"),
        (7, "example_inputs must be a tensor, a tuple or a dict, got int"),
    ],
)
def test_inputs_that_do_not_fit_are_explained(inputs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graphrep.to_graph(Net(lambda net, h: h), inputs)  # type: ignore[arg-type]


def test_a_state_dict_that_does_not_fit_is_listed_side_by_side() -> None:
    graph = graphrep.to_graph(Net(lambda net, h: h), torch.randn(1, 4))
    state = {**graph.state_dict(), "outer.weight": torch.zeros(3, 7), "extra": torch.zeros(1)}
    del state["inner.bias"]
    with pytest.raises(ValueError, match="3 differences") as error:
        graphrep.ParameterGraph.from_state_dict(graph.architecture, state)
    for part in ("inner.bias: missing", "found [3, 7], expected [3, 6]", "extra: found [1]"):
        assert part in str(error.value)


def test_a_permutation_of_fixed_or_unknown_units_is_refused() -> None:
    graph = graphrep.to_graph(Net(lambda net, h: h), torch.randn(1, 4))
    for units, order, message in (
        ("outer", torch.arange(3), "cannot be reordered"),
        ("middle", torch.arange(3), "no units 'middle'; hidden units: \\['inner'\\]"),
        ("inner", torch.zeros(6, dtype=torch.int64), "each of 0..5 once"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.permute({units: order})
