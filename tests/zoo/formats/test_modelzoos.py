"""Trial folders of the ModelZoos: every weight comes back, every epoch has its own metrics."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphrep.graph import ParameterGraph
from graphrep.zoo.formats.modelzoos import ModelZoos, build
from graphrep.zoo.record import Record, Skipped

PARAMS = {
    "model::type": "CNN",
    "model::channels_in": 1,
    "model::nlin": "tanh",
    "model::dropout": 0.0,
    "model::init_type": "uniform",
    "model::use_bias": False,
    "optim::optimizer": "rms_prop",
    "optim::lr": 3e-4,
    "optim::wd": 1e-3,
    "seed": 7,
    "training::batchsize": 10,
    "training::epochs_train": 3,
    "training::checkpoint_dir": None,
}


class Listed(nn.Module):
    """A network as the published ones are written: whatever layers, in a ModuleList."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


def small_cnn(activation: type[nn.Module] = nn.Tanh, dropout: float = 0.0) -> Listed:
    """The field's small CNN, as it is published with and without dropout."""
    drop = [nn.Dropout(dropout)] if dropout else []
    return Listed(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2, 2), activation(), *drop),
        *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2, 2), activation(), *drop),
        *(nn.Conv2d(6, 4, 2), activation(), nn.Flatten()),
        *(nn.Linear(36, 20), activation(), *drop, nn.Linear(20, 10)),
    )


def cnn3(activation: type[nn.Module] = nn.GELU, dropout: float = 0.0) -> Listed:
    """The larger CNN for 32 x 32 pixels; its places for dropout are always there."""
    widths = ((3, 16), (16, 32), (32, 15))
    stages = [
        layer
        for i, o in widths
        for layer in (nn.Conv2d(i, o, 3), nn.MaxPool2d(2, 2), activation(), nn.Dropout(dropout))
    ]
    head = [nn.Linear(60, 20), activation(), nn.Dropout(dropout), nn.Linear(20, 10)]
    return Listed(*stages, nn.Flatten(), *head)


def mlp() -> Listed:
    return Listed(nn.Linear(14, 6), nn.SiLU(), nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 2))


class Block(nn.Module):
    """A basic block under torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if inputs != outputs:
            down = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(down, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


def resnet18(width: int = 4) -> nn.Module:
    """ResNet-18 with a stem for small images; torchvision's order of names."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    layers["bn1"] = nn.BatchNorm2d(width)
    layers["relu"] = nn.ReLU()
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        first = Block(inputs, outputs, 2 if stage else 1)
        layers[f"layer{stage + 1}"] = nn.Sequential(first, Block(outputs, outputs, 1))
        inputs = outputs
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, 10)
    return nn.Sequential(layers)


def seeded(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = factory()
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return module


def result_line(epoch: int, **changes: Any) -> dict[str, Any]:
    """A result as Ray writes it; of the untrained network training was not measured."""
    trained = {"train_loss": 2.0 - epoch / 10, "train_acc": 0.5 + epoch / 10}
    missing = {"train_loss": -999, "train_acc": -999}
    return {
        **(trained if epoch else missing),
        "test_loss": 2.1 - epoch / 10,
        "test_acc": 0.4 + epoch / 10,
        "done": False,
        "training_iteration": epoch,
        "config": PARAMS,
        **changes,
    }


def write_trial(
    root: Path,
    name: str,
    factory: Callable[[], nn.Module],
    *,
    epochs: tuple[int, ...] = (0, 1, 3),
    params: dict[str, Any] | None = PARAMS,
    long_names: bool = False,
) -> dict[int, dict[str, Tensor]]:
    """A trial's folder; the state dict of each epoch."""
    trial = root / name
    trial.mkdir(parents=True)
    if params is not None:
        (trial / "params.json").write_text(json.dumps(params))
    lines = [json.dumps(result_line(epoch)) for epoch in (0, 1, 2, 3)]
    (trial / "result.json").write_text("\n".join(lines) + "\n")
    states = {}
    for epoch in epochs:
        folder = trial / f"checkpoint_{epoch:06d}" if long_names else trial / f"checkpoint_{epoch}"
        folder.mkdir()
        states[epoch] = dict(seeded(factory, 10 * epoch + 1).state_dict())
        torch.save(OrderedDict(states[epoch]), folder / "checkpoints")
        torch.save({"state": {}}, folder / "optimizer")
    return states


def take(zoo: ModelZoos, name: str) -> tuple[Record, list[Skipped]]:
    found = list(zoo.read(name))
    records = [f for f in found if isinstance(f, Record)]
    assert len(records) == 1
    return records[0], [f for f in found if isinstance(f, Skipped)]


def state_of(record: Record, i: int) -> dict[str, Tensor]:
    """The state dict of one checkpoint, as a zoo gives it back."""
    buffers = {key: value[i] for key, value in record.buffers.items()}
    return ParameterGraph(record.architecture, record.theta[i], buffers).state_dict()


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


NETWORKS: list[Any] = [
    pytest.param(small_cnn, "tanh", (1, 28, 28), id="CNN"),
    pytest.param(lambda: small_cnn(nn.LeakyReLU, 0.5), "leakyrelu", (1, 28, 28), id="CNN dropout"),
    pytest.param(cnn3, "gelu", (3, 32, 32), id="CNN3"),
    pytest.param(mlp, "silu", (14,), id="MLP"),
    pytest.param(resnet18, "relu", (3, 12, 12), id="ResNet"),
]


@pytest.mark.parametrize(("factory", "activation", "shape"), NETWORKS)
def test_every_checkpoint_comes_back_bit_for_bit_and_computes_the_same(
    tmp_path: Path, factory: Callable[[], nn.Module], activation: str, shape: tuple[int, ...]
) -> None:
    params = {**PARAMS, "model::nlin": activation}
    states = write_trial(tmp_path, "NN_tune_trainable_a_1", factory, params=params)
    record, skipped = take(ModelZoos(tmp_path), "NN_tune_trainable_a_1")
    assert not skipped
    assert [row["epoch"] for row in record.rows] == [0, 1, 3]
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(3))
    outputs = []
    for i, (epoch, state) in enumerate(states.items()):
        assert same_bits(state_of(record, i), state)
        assert record.design is not None
        rebuilt, source = build(record.design).eval(), factory().eval()
        rebuilt.load_state_dict(state_of(record, i), strict=True)
        source.load_state_dict(states[epoch], strict=True)
        with torch.no_grad():
            outputs.append(rebuilt(images))
            torch.testing.assert_close(outputs[-1], source(images), rtol=0, atol=1e-5)
    assert not same_bits(state_of(record, 0), states[1])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


def test_the_cnn_of_28_pixels_with_other_widths_is_known_too(tmp_path: Path) -> None:
    def cnn2() -> nn.Module:
        return Listed(
            *(nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2), nn.ReLU()),
            *(nn.Conv2d(6, 9, 5), nn.MaxPool2d(2, 2), nn.ReLU()),
            *(nn.Conv2d(9, 6, 2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(54, 20), nn.ReLU(), nn.Linear(20, 10)),
        )

    write_trial(tmp_path, "NN_tune_trainable_b", cnn2, params={**PARAMS, "model::nlin": "relu"})
    record, _ = take(ModelZoos(tmp_path), "NN_tune_trainable_b")
    assert record.design is not None
    assert record.design["input_shape"] == [3, 28, 28]
    assert record.architecture.num_parameters == sum(p.numel() for p in cnn2().parameters())


def test_metrics_are_matched_by_iteration_and_not_by_line(tmp_path: Path) -> None:
    write_trial(tmp_path, "NN_tune_trainable_a", small_cnn, long_names=True, epochs=(0, 2, 3))
    results = tmp_path / "NN_tune_trainable_a" / "result.json"
    lines = [json.dumps(result_line(e)) for e in (0, 2, 1)]
    lines += [json.dumps(result_line(2, test_acc=0.77, train_loss=float("nan")))]  # resumed
    results.write_text("\n".join(lines) + '\n{"training_iteration": 3, "test_a')  # killed
    record, skipped = take(ModelZoos(tmp_path), "NN_tune_trainable_a")
    assert not skipped
    first, second, third = record.rows
    assert first["epoch"] == 0 and first["test_accuracy"] == 0.4
    assert first["train_accuracy"] is None and first["generalisation_gap"] is None
    assert second["epoch"] == 2 and second["test_accuracy"] == 0.77
    assert second["generalisation_gap"] == pytest.approx(0.7 - 0.77)
    assert second["train_loss"] != second["train_loss"]
    assert third["epoch"] == 3 and third["test_accuracy"] is None


def test_newer_ray_numbers_checkpoints_and_results_name_them(tmp_path: Path) -> None:
    states = write_trial(tmp_path, "NN_tune_trainable_a", small_cnn, long_names=True, epochs=(0, 1))
    lines = [
        result_line(1),
        result_line(2, checkpoint_dir_name="checkpoint_000000"),
        result_line(4, checkpoint_dir_name="checkpoint_000001"),
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "NN_tune_trainable_a" / "result.json").write_text(text)
    record, _ = take(ModelZoos(tmp_path), "NN_tune_trainable_a")
    assert [row["epoch"] for row in record.rows] == [2, 4]
    assert [row["test_accuracy"] for row in record.rows] == [0.6000000000000001, 0.8]
    assert same_bits(state_of(record, 0), states[0])


def test_parameters_get_the_names_that_own_zoos_have(tmp_path: Path) -> None:
    write_trial(tmp_path, "NN_tune_trainable_a", small_cnn)
    record, _ = take(ModelZoos(tmp_path), "NN_tune_trainable_a")
    expected = {
        "activation": "tanh",
        "optimiser": "rmsprop",
        "learning_rate": 3e-4,
        "weight_decay": 1e-3,
        "init": "uniform",
        "dropout": 0.0,
        "seed": 7,
        "batch_size": 10,
        "epochs": 3,
        "model_type": "CNN",
        "model_channels_in": 1,
        "model_use_bias": False,
    }
    assert record.properties == expected


def test_checkpoints_that_cannot_be_read_are_listed_and_the_others_kept(tmp_path: Path) -> None:
    states = write_trial(tmp_path, "NN_tune_trainable_a", small_cnn, epochs=(0, 1, 2, 3))
    trial = tmp_path / "NN_tune_trainable_a"
    cut = (trial / "checkpoint_0" / "checkpoints").read_bytes()[:2000]
    (trial / "checkpoint_0" / "checkpoints").write_bytes(cut)
    (trial / "checkpoint_2" / "checkpoints").unlink()
    torch.save(mlp().state_dict(), trial / "checkpoint_3" / "checkpoints")
    (trial / "checkpoint_tmp9f").mkdir()
    (trial / "checkpoint_000001").mkdir()
    record, skipped = take(ModelZoos(tmp_path), "NN_tune_trainable_a")
    assert [row["epoch"] for row in record.rows] == [1]
    assert same_bits(state_of(record, 0), states[1])
    reasons = {s.name.partition("/")[2]: s.reason for s in skipped}
    assert sorted(reasons) == [
        "checkpoint_0",
        "checkpoint_000001",
        "checkpoint_2",
        "checkpoint_3",
        "checkpoint_tmp9f",
    ]
    assert "cut short" in reasons["checkpoint_0"]
    assert "no file 'checkpoints'" in reasons["checkpoint_2"]
    assert "does not fit" in reasons["checkpoint_3"]
    assert "no known epoch" in reasons["checkpoint_tmp9f"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_keep_the_type_they_are_stored_in(tmp_path: Path, dtype: torch.dtype) -> None:
    states = write_trial(tmp_path, "NN_tune_trainable_a", lambda: small_cnn().to(dtype))
    record, _ = take(ModelZoos(tmp_path), "NN_tune_trainable_a")
    assert record.theta.dtype == dtype
    assert same_bits(state_of(record, 0), states[0])


def test_of_two_checkpoints_of_one_epoch_one_is_taken(tmp_path: Path) -> None:
    write_trial(tmp_path, "NN_tune_trainable_a", small_cnn, epochs=(1,), long_names=True)
    states = write_trial(tmp_path, "NN_tune_trainable_b", small_cnn, epochs=(1,))
    moved = tmp_path / "NN_tune_trainable_a" / "checkpoint_1"
    (tmp_path / "NN_tune_trainable_b" / "checkpoint_1").rename(moved)
    record, skipped = take(ModelZoos(tmp_path), "NN_tune_trainable_a")
    assert same_bits(state_of(record, 0), states[1])
    assert [s.name for s in skipped] == ["NN_tune_trainable_a/checkpoint_1"]
    assert "second checkpoint of epoch 1" in skipped[0].reason


def test_weights_that_are_not_finite_are_kept_and_marked(tmp_path: Path) -> None:
    def broken() -> nn.Module:
        module = small_cnn()
        module.module_list[0].weight.data[0] = float("nan")
        return module

    write_trial(tmp_path, "NN_tune_trainable_a", broken, epochs=(1,))
    write_trial(tmp_path, "NN_tune_trainable_b", small_cnn, epochs=(1,))
    zoo = ModelZoos(tmp_path)
    assert take(zoo, "NN_tune_trainable_a")[0].rows[0]["diverged"] is True
    assert take(zoo, "NN_tune_trainable_b")[0].rows[0]["diverged"] is False


def test_other_networks_are_refused_with_their_keys(tmp_path: Path) -> None:
    def recurrent() -> nn.Module:
        return nn.Sequential(OrderedDict(rnn=nn.GRU(3, 4)))

    def short() -> nn.Module:  # its head reads another image than its convolutions give
        return Listed(nn.Linear(14, 6), nn.Tanh(), nn.Linear(7, 2))

    write_trial(tmp_path, "NN_tune_trainable_a", recurrent)
    write_trial(tmp_path, "NN_tune_trainable_b", short)
    write_trial(tmp_path, "NN_tune_trainable_c", small_cnn, params={"seed": 1})
    write_trial(tmp_path, "NN_tune_trainable_d", small_cnn, epochs=())
    zoo = ModelZoos(tmp_path)
    for name, reason in (
        ("NN_tune_trainable_a", r"none of its 3 checkpoints.*rnn\.weight_ih_l0 \[12, 3\]"),
        ("NN_tune_trainable_b", r"module_list\.2\.weight \[2, 7\]"),
        ("NN_tune_trainable_c", "activation 'not given' is none of relu"),
        ("NN_tune_trainable_d", "no checkpoint folders; found params.json, result.json"),
    ):
        with pytest.raises(ValueError, match=reason):
            list(zoo.read(name))


def test_only_the_epochs_asked_for_are_read(tmp_path: Path) -> None:
    write_trial(tmp_path, "NN_tune_trainable_a", small_cnn, epochs=(0, 1, 2, 3))
    (tmp_path / "NN_tune_trainable_a" / "checkpoint_3" / "checkpoints").unlink()
    wanted: tuple[Any, ...] = ((1, 2), "1,2")
    for epochs in wanted:
        record, skipped = take(ModelZoos(tmp_path, epochs=epochs), "NN_tune_trainable_a")
        assert [row["epoch"] for row in record.rows] == [1, 2]
        assert not skipped


def test_a_design_is_traced_once(tmp_path: Path) -> None:
    for name in "abc":
        write_trial(tmp_path, f"NN_tune_trainable_{name}", small_cnn, epochs=(1,))
    relu = {**PARAMS, "model::nlin": "relu"}
    write_trial(tmp_path, "NN_tune_trainable_d", lambda: small_cnn(nn.ReLU), params=relu)
    zoo = ModelZoos(tmp_path)
    assert list(zoo.names()) == [f"NN_tune_trainable_{name}" for name in "abcd"]
    found = [take(zoo, name)[0].architecture for name in zoo.names()]
    assert found[0] is found[1] is found[2]
    assert found[3] is not found[0]
    assert found[3].fingerprint != found[0].fingerprint


def test_the_zoo_says_of_itself_what_its_files_say(tmp_path: Path) -> None:
    write_trial(tmp_path / "zoo", "NN_tune_trainable_a", small_cnn)
    (tmp_path / "zoo" / "config.json").write_text('{"optim::lr": NaN, "seed": "grid"}')
    (tmp_path / "zoo" / "readme.md").write_text("Trained on digits.")
    zoo = ModelZoos(tmp_path / "zoo")
    assert zoo.title == "zoo"
    assert zoo.facts["config"] == {"optim::lr": "NaN", "seed": "grid"}
    assert zoo.facts["readme"] == "Trained on digits."
    json.dumps(zoo.facts, allow_nan=False)


def test_what_is_no_zoo_of_trials_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    torch.save({"trainset": torch.zeros(2)}, tmp_path / "data" / "dataset.pt")
    (tmp_path / "empty").mkdir()
    write_trial(tmp_path / "parent" / "zoo", "NN_tune_trainable_a", small_cnn)
    for source, reason in (
        ("data/dataset.pt", "pickles whole Python objects.*raw zoo"),
        ("data", "pickles whole Python objects.*raw zoo"),
        ("empty", "found nothing, expected a folder with a folder for each trial"),
        ("parent", "holds no trials itself, but zoo do"),
        ("nowhere", "no such folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            ModelZoos(tmp_path / source)
