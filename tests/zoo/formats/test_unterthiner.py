"""The small CNN zoo: TensorFlow's axis orders become torch's, so the networks compute the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from graphrep.graph import ParameterGraph
from graphrep.zoo.formats.unterthiner import Unterthiner, build
from graphrep.zoo.record import Record, Skipped

CONFIG = {
    "config.activation": "relu",
    "config.b_init": "zeros",
    "config.dataset": "mnist",
    "config.dnn_architecture": "cnn",
    "config.dropout": 0.25,
    "config.epochs": 86,
    "config.epochs_between_checkpoints": 20,
    "config.init_std": 0.05,
    "config.l2reg": 1e-6,
    "config.learning_rate": 0.003,
    "config.num_layers": 3,
    "config.num_units": 16,
    "config.optimizer": "adam",
    "config.random_seed": 42,
    "config.train_fraction": 0.5,
    "config.w_init": "he_normal",
}


def published_network(
    activation: type[nn.Module] = nn.ReLU, width: int = 16, inputs: int = 1
) -> nn.Sequential:
    """Three convolutions with stride 2 and no padding, an average, a dense layer."""
    return nn.Sequential(
        *(nn.Conv2d(inputs, width, 3, stride=2), activation()),
        *(nn.Conv2d(width, width, 3, stride=2), activation()),
        *(nn.Conv2d(width, width, 3, stride=2), activation()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)),
    )


def dense_network(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 7), activation(), nn.Linear(7, 3))


def keras_variables(module: nn.Sequential) -> list[tuple[str, np.ndarray]]:
    """Names and values as TensorFlow stores them: each bias before its kernel, HWIO and IO."""
    variables, counts = [], {"conv2d": 0, "dense": 0}
    for layer in module:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        kind = "conv2d" if isinstance(layer, nn.Conv2d) else "dense"
        name = f"sequential/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
        counts[kind] += 1
        kernel = layer.weight.detach().numpy()
        kernel = np.einsum("oihw->hwio" if kind == "conv2d" else "oi->io", kernel)
        variables.append((f"{name}/bias:0", layer.bias.detach().numpy()))
        variables.append((f"{name}/kernel:0", kernel))
    return variables


def write_zoo(
    folder: Path,
    modules: Sequence[nn.Sequential],
    lines: Sequence[dict[str, Any]],
    changes: dict[int, np.ndarray] | None = None,
) -> None:
    """The three files; `changes` replaces rows of the matrix."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate([v.ravel() for _, v in keras_variables(m)]) for m in modules]
    weights = np.stack(rows)
    for row, values in (changes or {}).items():
        weights[row] = values
    np.save(folder / "weights.npy", weights)
    layout, start = ["varname,start_idx,end_idx,shape"], 0
    for name, value in keras_variables(modules[0]):
        layout.append(f'{name},{start},{start + value.size},"{value.shape}"')
        start += value.size
    (folder / "layout.csv").write_text("\n".join(layout) + "\n")
    table = pd.DataFrame([{**CONFIG, **line} for line in lines])
    with gzip.open(folder / "metrics.csv.gz", "wt") as file:
        table.to_csv(file)


def line(model: str, step: int, **changes: Any) -> dict[str, Any]:
    metrics = {
        "test_accuracy": 0.3 + step / 200,
        "test_loss": 2.0,
        "train_accuracy": 0.4 + step / 200,
        "train_loss": 1.9,
    }
    return {"modeldir": f"/cns/zoo/mnist/{model}", "step": step, **metrics, **changes}


def make_modules(num: int, factory: Any = published_network, **settings: Any) -> list[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        modules = [factory(**settings) for _ in range(num)]
        for module in modules:
            for parameter in module.parameters():
                parameter.data.normal_(0, 0.4)
    return modules


def take(zoo: Unterthiner, name: str) -> tuple[Record, list[Skipped]]:
    found = list(zoo.read(name))
    (record,) = [f for f in found if isinstance(f, Record)]
    return record, [f for f in found if isinstance(f, Skipped)]


def rebuilt(record: Record, i: int) -> nn.Module:
    assert record.design is not None
    module = build(json.loads(json.dumps(record.design)))
    return ParameterGraph(record.architecture, record.theta[i]).load_into(module).eval()


def distance(left: nn.Module, right: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float((left(inputs) - right(inputs)).abs().max())


def images(*shape: int) -> Tensor:
    return torch.randn(16, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_rebuilt_network_computes_the_same(tmp_path: Path, activation: str, side: int) -> None:
    kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    modules = make_modules(3, activation=kind)
    changes = {"config.activation": activation}
    lines = [line("a", 86, **changes), line("b", 0, **changes), line("a", 0, **changes)]
    write_zoo(tmp_path, modules, lines)
    zoo = Unterthiner(tmp_path)
    assert list(zoo.names()) == ["a", "b"]
    record, skipped = take(zoo, "a")
    assert not skipped
    assert record.architecture.num_parameters == 4970
    assert [row["epoch"] for row in record.rows] == [0, 86]
    x = images(1, side, side)
    assert distance(rebuilt(record, 0), modules[2], x) < 1e-5
    assert distance(rebuilt(record, 1), modules[0], x) < 1e-5
    assert distance(rebuilt(record, 0), modules[0], x) > 1e-2


def test_other_axis_orders_would_give_other_networks(tmp_path: Path) -> None:
    """What a reader that took kernels as they stand, or swapped H and W, would give."""
    (module,) = make_modules(1)
    write_zoo(tmp_path, [module], [line("a", 86)])
    record, _ = take(Unterthiner(tmp_path), "a")
    x = images(1, 28, 28)
    for wrong in ("swapped", "as it stands"):
        state = ParameterGraph(record.architecture, record.theta[0]).state_dict()
        kernel = state["conv2.weight"]
        stored = kernel.permute(2, 3, 1, 0)  # back to HWIO
        flat = stored.reshape(kernel.shape) if wrong == "as it stands" else kernel.mT.contiguous()
        other = rebuilt(record, 0)
        other.load_state_dict({**state, "conv2.weight": flat})
        assert distance(other, module, x) > 1e-2


def test_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    modules = make_modules(2)
    write_zoo(tmp_path, modules, [line("a", 0), line("a", 1)])
    record, _ = take(Unterthiner(tmp_path), "a")
    for i, module in enumerate(modules):
        state = ParameterGraph(record.architecture, record.theta[i]).state_dict()
        for key, layer in (("conv1", 0), ("conv2", 2), ("conv3", 4), ("dense1", 8)):
            assert torch.equal(state[f"{key}.weight"], module[layer].weight)
            assert torch.equal(state[f"{key}.bias"], module[layer].bias)


@pytest.mark.parametrize(
    ("factory", "settings", "shape"),
    [
        (published_network, {"width": 5, "inputs": 3}, (3, 20, 20)),
        (dense_network, {}, (12,)),
    ],
)
def test_other_layouts_of_the_kind_are_read_too(
    tmp_path: Path, factory: Any, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    modules = make_modules(2, factory, **settings)
    write_zoo(tmp_path, modules, [line("a", 1), line("b", 1)])
    record, _ = take(Unterthiner(tmp_path), "b")
    assert distance(rebuilt(record, 0), modules[1], images(*shape)) < 1e-5
    assert distance(rebuilt(record, 0), modules[0], images(*shape)) > 1e-2


def test_settings_and_metrics_become_columns(tmp_path: Path) -> None:
    (module,) = make_modules(1)
    write_zoo(tmp_path, [module], [line("a", 86, test_loss=float("nan"))])
    record, _ = take(Unterthiner(tmp_path), "a")
    assert record.properties == {
        "activation": "relu",
        "bias_init": "zeros",
        "dataset": "mnist",
        "dnn_architecture": "cnn",
        "dropout": 0.25,
        "epochs": 86,
        "epochs_between_checkpoints": 20,
        "init_std": 0.05,
        "weight_decay": 1e-6,
        "learning_rate": 0.003,
        "num_layers": 3,
        "num_units": 16,
        "optimiser": "adam",
        "seed": 42,
        "train_fraction": 0.5,
        "init": "he_normal",
    }
    assert record.rows == [
        {
            "epoch": 86,
            "train_accuracy": pytest.approx(0.83),
            "train_loss": 1.9,
            "test_accuracy": pytest.approx(0.73),
            "test_loss": None,
            "generalisation_gap": pytest.approx(0.1),
            "diverged": False,
        }
    ]
    assert {type(v) for v in record.properties.values()} <= {str, int, float, bool}


def test_weights_that_are_not_finite_are_kept_and_marked(tmp_path: Path) -> None:
    modules = make_modules(2)
    broken = np.full(4970, np.nan, dtype=np.float32)
    write_zoo(tmp_path, modules, [line("a", 0), line("a", 86)], {1: broken})
    record, skipped = take(Unterthiner(tmp_path), "a")
    assert not skipped
    assert [row["diverged"] for row in record.rows] == [False, True]
    assert record.theta[1].isnan().all()


def test_a_step_that_occurs_twice_is_taken_once_and_reported(tmp_path: Path) -> None:
    modules = make_modules(3)
    write_zoo(tmp_path, modules, [line("a", 0), line("a", 86), line("a", 0)])
    record, skipped = take(Unterthiner(tmp_path), "a")
    assert [row["epoch"] for row in record.rows] == [0, 86]
    assert distance(rebuilt(record, 0), modules[2], images(1, 28, 28)) < 1e-5
    assert [s.name for s in skipped] == ["a/step_0"]


def test_a_model_reads_its_own_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zoo(tmp_path, make_modules(4), [line(name, 1) for name in "abcd"])
    zoo = Unterthiner(tmp_path)
    assert isinstance(zoo._weights, np.memmap)
    touched: list[Any] = []

    class Watched:
        dtype = zoo._weights.dtype

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __getitem__(self, key: Any) -> np.ndarray:
            touched.append(np.atleast_1d(key).tolist())
            return self.array[key]

    monkeypatch.setattr(zoo, "_weights", Watched(zoo._weights))
    take(zoo, "c")
    assert touched == [[2]]


def test_an_unknown_activation_leaves_the_model_out(tmp_path: Path) -> None:
    lines = [line("a", 1), line("b", 1, **{"config.activation": "maxout"})]
    write_zoo(tmp_path, make_modules(2), lines)
    zoo = Unterthiner(tmp_path)
    take(zoo, "a")
    with pytest.raises(ValueError, match="'maxout'; those known are relu, tanh"):
        list(zoo.read("b"))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    modules = make_modules(2)
    lines = [line("a", 0), line("a", 86)]

    def broken(name: str) -> Path:
        write_zoo(tmp_path / name, modules, lines)
        return tmp_path / name

    weights = np.load(broken("columns") / "weights.npy")
    np.save(tmp_path / "columns" / "weights.npy", weights[:, :-1])
    np.save(broken("rows") / "weights.npy", weights[:1])
    np.save(broken("objects") / "weights.npy", np.array([{"a": 1}], dtype=object))
    (broken("missing") / "metrics.csv.gz").unlink()
    (broken("cut") / "metrics.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    layout = (broken("gap") / "layout.csv").read_text()
    (tmp_path / "gap" / "layout.csv").write_text(layout.replace("(16,)", "(15,)", 1))
    changed = layout.replace("sequential/dense/bias:0", "sequential/batch_norm/gamma:0")
    (broken("norm") / "layout.csv").write_text(changed)
    (broken("shape") / "layout.csv").write_text(layout.replace("(16,)", "__import__('os')", 1))
    (broken("header") / "layout.csv").write_text(layout.replace("start_idx", "begin"))
    for name, reason in (
        ("columns", r"float32 \[2, 4969\].*\[N, 4970\]"),
        ("rows", "has 2 lines, but weights.npy 1 rows"),
        ("objects", "not a readable array of numbers"),
        ("missing", "has no metrics.csv.gz. The small CNN zoo is a folder with"),
        ("cut", "not a readable gzipped table"),
        ("gap", r"'sequential/conv2d/bias:0' \[15\] stands in columns 0 to 16; expected 0 to 15"),
        ("norm", "'sequential/batch_norm/gamma:0' is neither a kernel nor a bias"),
        ("shape", "expected sizes such as"),
        ("header", "has no column start_idx; found varname, begin"),
        ("nowhere", "has no weights.npy, metrics.csv.gz, layout.csv"),
    ):
        with pytest.raises(ValueError, match=reason):
            Unterthiner(tmp_path / name)


def test_a_dense_layer_that_reads_no_average_is_refused(tmp_path: Path) -> None:
    """A flattened image would come in TensorFlow's order of pixels, which is not known."""

    def flattened() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))

    write_zoo(tmp_path, make_modules(1, flattened), [line("a", 1)])
    with pytest.raises(ValueError, match="dense1 reads 36 values where the layer before gives 4"):
        list(Unterthiner(tmp_path).read("a"))
