"""SANE's preprocessed tokens: theta comes back through windows, padding and scaling."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphrep.graph import ParameterGraph
from graphrep.zoo.formats.modelzoos import build
from graphrep.zoo.formats.sane import Sane
from graphrep.zoo.record import Record, Skipped

State = Mapping[str, Tensor]

SMALL_CNN = {0: (8, 1, 5, 5), 3: (6, 8, 5, 5), 6: (4, 6, 2, 2), 9: (20, 36), 11: (10, 20)}
DROPOUT_CNN = {0: (8, 1, 5, 5), 4: (6, 8, 5, 5), 8: (4, 6, 2, 2), 11: (20, 36), 14: (10, 20)}
CNN3 = {0: (16, 3, 3, 3), 4: (32, 16, 3, 3), 8: (15, 32, 3, 3), 13: (20, 60), 16: (10, 20)}


def random_state(shapes: Mapping[int, tuple[int, ...]], seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for place, shape in shapes.items():
        scale = 0.1 + 0.02 * place
        state[f"module_list.{place}.weight"] = torch.randn(shape, generator=generator) * scale
        state[f"module_list.{place}.bias"] = torch.randn(shape[0], generator=generator) * scale
    return state


def norm_net() -> nn.Module:
    """A network with normalisations under the names that SANE tells them by."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(2, 3, 3, bias=False)
    layers["bn1"] = nn.BatchNorm2d(3)
    layers["relu"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(3, 4)
    return nn.Sequential(layers)


def norm_state(seed: int) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = norm_net()
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.data.uniform_(0.2, 2.0)
    return module.state_dict()


# --- what SANE's preprocessing does, slowly ------------------------------------------------------


def keys_of(state: State, norms: bool) -> list[str]:
    """The keys that become tokens."""
    found = []
    for key in state:
        of_norm = "bn" in key or "downsample.1" in key or "batchnorm" in key
        if of_norm and not norms:
            continue
        if "weight" in key or "running_mean" in key or "running_var" in key:
            found.append(key)
    return found


def scale_of(states: Sequence[State], norms: bool, mode: str | None) -> dict[str, Any]:
    """What dataset_normalization_{split}.json holds, from all states of the split."""
    scales: dict[str, Any] = {}
    for key in keys_of(states[0], norms) if mode else []:
        if mode == "minmax" and "weight" not in key:
            continue
        bias = key.replace("weight", "bias")
        flat = [torch.cat([s[key].flatten(), s[bias].flatten()]) if bias in s else s[key].flatten()
                for s in states]  # fmt: skip
        if mode == "minmax":
            low, high = min(f.min() for f in flat), max(f.max() for f in flat)
            scales[key] = {"min": low.item(), "max": high.item()}
        else:
            mean = sum(f.mean().item() for f in flat) / len(flat)
            var = sum(f.var().item() for f in flat) / len(flat)
            scales[key] = {"mean": mean, "std": math.sqrt(var)}
    return {**scales, "mode": mode}


def scaled(state: State, scales: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state as the preprocessing scales it: a key that is its own bias is scaled twice."""
    result = dict(state)
    for key, numbers in scales.items():
        if key == "mode":
            continue
        targets = [key]
        if key.replace("weight", "bias") in result:
            targets.append(key.replace("weight", "bias"))
        for target in targets:
            if scales["mode"] == "minmax":
                low, high = numbers["min"], numbers["max"]
                result[target] = (result[target] - low) / (high - low) * 2 - 1
            else:
                result[target] = (result[target] - numbers["mean"]) / numbers["std"]
    return result


def tokenise(state: State, size: int, norms: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and positions, number by number."""
    tokens: list[list[float]] = []
    mask: list[list[bool]] = []
    position: list[list[int]] = []
    for layer, key in enumerate(keys_of(state, norms)):
        for channel in range(state[key].shape[0]):
            row = [float(x) for x in state[key][channel].flatten()]
            bias = key.replace("weight", "bias")
            if "weight" in key and bias in state:
                row.append(float(state[bias][channel]))
            for start in range(0, len(row), size):
                piece = row[start : start + size]
                padding = size - len(piece)
                tokens.append(piece + [0.0] * padding)
                mask.append([True] * len(piece) + [False] * padding)
                position.append([len(position), layer, channel])
    return torch.tensor(tokens), torch.tensor(mask), torch.tensor(position, dtype=torch.int32)


def write_split(
    root: Path,
    states: Sequence[State],
    *,
    split: str = "train",
    size: int = 201,
    norms: bool = False,
    mode: str | None = "standardize",
    windows: Sequence[tuple[int, int]] = ((0, 10**6),),
    copies: int = 2,
    epochs: Sequence[int] = (25,),
    dtype: torch.dtype = torch.float32,
    info: bool = True,
) -> None:
    """A split: for each of the windows (start, length) a file of every state."""
    folder = root / f"dataset_torch.{split}"
    folder.mkdir(parents=True)
    scales = scale_of(states, norms, mode)
    generator = torch.Generator().manual_seed(0)
    last: list[int] = []
    for number, state in enumerate(states):
        tokens, mask, position = tokenise(scaled(state, scales), size, norms)
        last = position.max(0).values.tolist()
        for nth, (start, length) in enumerate(windows):
            part = slice(start, start + length)
            others = torch.randn(copies, *tokens[part].shape, generator=generator)
            sample = {
                "w": torch.cat([tokens[part].unsqueeze(0), others]).to(dtype),
                "m": mask[part],
                "p": position[part],
                "props": torch.tensor(
                    [0.5 + number / 100, float(epochs[number % len(epochs)]), 0.1]
                ),
            }
            torch.save(sample, folder / f"sample_{number + nth * len(states)}.pt")
    (root / f"dataset_normalization_{split}.json").write_text(json.dumps(scales))
    about = {
        "num_samples": len(states),
        "supersample": len(windows),
        "properties": ["test_acc", "training_iteration", "ggap"],
        "epoch_list": list(epochs),
        "standardize": {"standardize": True, None: False}.get(mode, mode),
        "max_positions": last,
        "weight_threshold": math.inf,  # which is written as Infinity
    }
    if info:
        (root / f"dataset_info_{split}.json").write_text(json.dumps(about))


# -------------------------------------------------------------------------------------------------


def take(zoo: Sane, name: str) -> tuple[Record, list[Skipped]]:
    found = list(zoo.read(name))
    (record,) = [f for f in found if isinstance(f, Record)]
    return record, [f for f in found if isinstance(f, Skipped)]


def state_of(record: Record, i: int = 0) -> dict[str, Tensor]:
    return dict(ParameterGraph(record.architecture, record.theta[i]).state_dict())


def error(record: Record, state: State, i: int = 0) -> float:
    """The largest difference to a state; its names must be the same."""
    found = state_of(record, i)
    assert list(found) == list(state)
    return max(float((found[k] - state[k]).abs().max()) for k in state if k in found)


@pytest.mark.parametrize(
    ("shapes", "size", "num_tokens", "mode"),
    [
        (SMALL_CNN, 201, 48, "standardize"),
        (SMALL_CNN, 201, 48, "minmax"),
        (SMALL_CNN, 201, 48, None),
        (DROPOUT_CNN, 201, 48, "standardize"),  # which the normalisation's names tell
        (CNN3, 289, 93, "standardize"),
        (CNN3, 289, 93, None),
        (CNN3, 50, 252, "minmax"),  # rows of several tokens
    ],
)
def test_theta_comes_back_from_tokens(
    tmp_path: Path,
    shapes: dict[int, tuple[int, ...]],
    size: int,
    num_tokens: int,
    mode: str | None,
) -> None:
    states = [random_state(shapes, seed) for seed in range(3)]
    write_split(tmp_path, states, mode=mode, size=size)
    assert len(tokenise(states[0], size, norms=False)[0]) == num_tokens
    zoo = Sane(tmp_path, activation="gelu")
    for number, name in enumerate(zoo.names()):
        record, skipped = take(zoo, name)
        assert not skipped and record.split == "train"
        assert error(record, states[number]) <= (0 if mode is None else 1e-6)
        assert error(record, states[number - 1]) > 1e-2
        assert record.design is not None
        build(record.design).load_state_dict(state_of(record), strict=True)


def test_without_undoing_the_scaling_other_weights_would_come_back(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(3)]
    write_split(tmp_path, states)
    (tmp_path / "dataset_normalization_train.json").write_text('{"mode": null}')
    record, _ = take(Sane(tmp_path, activation="tanh"), "train/sample_0")
    assert error(record, states[0]) > 1e-2


def test_half_precision_costs_what_it_holds(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(3)]
    write_split(tmp_path, states, dtype=torch.float16)
    record, _ = take(Sane(tmp_path, activation="tanh"), "train/sample_1")
    assert record.theta.dtype == torch.float32
    assert 1e-6 < error(record, states[1]) < 1e-2


def test_normalisations_come_back_although_statistics_were_scaled_twice(tmp_path: Path) -> None:
    states = [norm_state(seed) for seed in range(3)]
    write_split(tmp_path, states, norms=True, size=7)
    zoo = Sane(tmp_path, model=f"{__name__}:norm_net", input_shape="2,2,5,5")
    record, _ = take(zoo, "train/sample_2")
    assert error(record, states[2]) < 1e-6
    assert record.design is None and record.properties == {}


def test_normalisations_that_were_left_out_are_filled_only_on_request(tmp_path: Path) -> None:
    states = [norm_state(seed) for seed in range(3)]
    write_split(tmp_path, states, norms=False, size=7)
    model: dict[str, Any] = {"model": f"{__name__}:norm_net", "input_shape": "2,2,5,5"}
    with pytest.raises(ValueError, match=r"hold no bn1\.weight, bn1\.bias.*fill_missing=true"):
        list(Sane(tmp_path, **model).read("train/sample_0"))
    record, _ = take(Sane(tmp_path, **model, fill_missing=True), "train/sample_0")
    found = state_of(record)
    assert torch.equal(found["bn1.running_var"], torch.ones(3))
    assert record.properties == {"filled_parameters": 12}
    for key in ("conv1.weight", "fc.weight", "fc.bias"):
        torch.testing.assert_close(found[key], states[0][key], rtol=0, atol=1e-6)


def test_a_resnet_is_recognised_by_its_rows(tmp_path: Path) -> None:
    design = {
        "kind": "modelzoos",
        "network": "ResNet",
        "activation": "relu",
        "blocks": [2, 2, 2, 2],
        "bottleneck": False,
        "stem": 3,
        "width": 2,
        "num_classes": 5,
        "input_shape": [3, 16, 16],
        "dtype": "float32",
    }
    state = build(design).state_dict()
    write_split(tmp_path, [state], norms=True, size=20)
    record, _ = take(Sane(tmp_path), "train/sample_0")
    assert error(record, state) < 1e-5
    assert record.design == design


def test_a_reference_checkpoint_names_the_network(tmp_path: Path) -> None:
    wide = {0: (5, 14), 2: (4, 5), 4: (3, 4)}  # an MLP, which rows alone do not tell
    states = [random_state(wide, seed) for seed in range(2)]
    write_split(tmp_path / "zoo", states, size=9)
    with pytest.raises(ValueError, match="no network of the ModelZoos; pass model="):
        list(Sane(tmp_path / "zoo", activation="tanh").read("train/sample_0"))
    torch.save(states[1], tmp_path / "reference.pt")
    zoo = Sane(tmp_path / "zoo", activation="tanh", reference=tmp_path / "reference.pt")
    record, _ = take(zoo, "train/sample_0")
    assert error(record, states[0]) < 1e-6
    torch.save(random_state(SMALL_CNN, 0), tmp_path / "other.pt")
    other = Sane(tmp_path / "zoo", activation="tanh", reference=tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"5x15 4x6 3x5; 'other\.pt' has 8x26 6x201"):
        list(other.read("train/sample_0"))


def test_windows_are_put_together_where_they_cover_a_model(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(2)]
    write_split(tmp_path / "whole", states, windows=((20, 28), (5, 28), (0, 28)))
    write_split(tmp_path / "parts", states, windows=((20, 28), (5, 28)))
    zoo = Sane(tmp_path / "whole", activation="tanh")
    assert list(zoo.names()) == ["train/sample_0", "train/sample_1"]
    for number, name in enumerate(zoo.names()):
        assert error(take(zoo, name)[0], states[number]) < 1e-6
    reason = r"5 of its 48 tokens \(0 to 4\) are in none of its 2 windows of 28.*windowsize=48"
    with pytest.raises(ValueError, match=reason):
        list(Sane(tmp_path / "parts", activation="tanh").read("train/sample_1"))


def test_checkpoints_of_a_model_make_one_record(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(6)]
    write_split(tmp_path, states, epochs=(21, 22, 23))
    zoo = Sane(tmp_path, activation="tanh")
    assert list(zoo.names()) == ["train/sample_0-2", "train/sample_3-5"]
    record, _ = take(zoo, "train/sample_3-5")
    assert [row["epoch"] for row in record.rows] == [21, 22, 23]
    assert all(error(record, states[3 + i], i) < 1e-6 for i in range(3))
    assert record.rows[1] == {
        "epoch": 22,
        "test_accuracy": pytest.approx(0.54),
        "generalisation_gap": pytest.approx(0.1),
        "diverged": False,
    }
    single = Sane(tmp_path, activation="tanh", epochs_per_model=1)
    assert len(single.names()) == 6
    assert error(take(single, "train/sample_4")[0], states[4]) < 1e-6


def test_samples_that_are_no_model_are_not_joined(tmp_path: Path) -> None:
    """Of six samples three belong to one model, two to another and one to a third."""
    states = [random_state(SMALL_CNN, seed) for seed in range(6)]
    write_split(tmp_path, states, epochs=(21, 22, 23))
    file = tmp_path / "dataset_torch.train" / "sample_5.pt"
    sample = torch.load(file, weights_only=True)
    torch.save({**sample, "props": torch.tensor([0.5, 21.0, 0.1])}, file)
    zoo = Sane(tmp_path, activation="tanh")
    take(zoo, "train/sample_0-2")
    with pytest.raises(ValueError, match=r"epochs \[21, 22, 21\], expected \[21, 22, 23\].*=1"):
        list(zoo.read("train/sample_3-5"))


def test_files_that_need_code_are_listed_with_the_remedy(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(3)]
    write_split(tmp_path, states, epochs=(21, 22, 23))
    folder = tmp_path / "dataset_torch.train"
    torch.save({"w": torch.zeros(1), "props": Path("x")}, folder / "sample_0.pt")
    torch.save({"w": torch.zeros(1)}, folder / "sample_1.pt")
    record, skipped = take(Sane(tmp_path, activation="tanh"), "train/sample_0-2")
    assert [row["epoch"] for row in record.rows] == [23]
    assert error(record, states[2]) < 1e-6
    assert [s.name for s in skipped] == ["train/sample_0", "train/sample_1"]
    assert "never executes" in skipped[0].reason and "save its tensors alone" in skipped[0].reason
    assert "holds w, expected tensors w, m, p and props" in skipped[1].reason


def test_splits_come_from_the_folders(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(3)]
    for split in ("test", "train", "val"):
        write_split(tmp_path, states[:1], split=split)
    zoo = Sane(tmp_path, activation="tanh")
    assert list(zoo.names()) == ["train/sample_0", "val/sample_0", "test/sample_0"]
    found = [take(zoo, name)[0].split for name in zoo.names()]
    assert found == ["train", "validation", "test"]
    assert set(zoo.facts["info"]) == {"train", "val", "test"}
    json.dumps(zoo.facts, allow_nan=False)


def test_an_untrained_network_has_no_gap(tmp_path: Path) -> None:
    write_split(tmp_path, [random_state(SMALL_CNN, 0)], epochs=(0,), info=False)
    file = tmp_path / "dataset_torch.train" / "sample_0.pt"
    sample = torch.load(file, weights_only=True)
    torch.save({**sample, "props": torch.tensor([0.1, 0.0, -999.1])}, file)
    record, _ = take(Sane(tmp_path, activation="tanh"), "train/sample_0")
    assert record.rows[0]["generalisation_gap"] is None
    assert record.rows[0]["test_accuracy"] == pytest.approx(0.1)


def test_what_cannot_be_undone_is_refused_at_once(tmp_path: Path) -> None:
    states = [random_state(SMALL_CNN, seed) for seed in range(2)]
    write_split(tmp_path / "own_norm", states, mode="l2_ind")
    write_split(tmp_path / "no_file", states)
    (tmp_path / "no_file" / "dataset_normalization_train.json").unlink()
    write_split(tmp_path / "counts", states)
    torch.save({}, tmp_path / "counts" / "dataset_torch.train" / "sample_9.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dataset.pt").write_bytes(b"PK")
    for source, reason in (
        ("own_norm", "divided by its own norm"),
        ("no_file", "without it the weights' scale is lost"),
        ("counts", "has sample_9.pt, but dataset_info_train.json counts 2 samples"),
        ("empty", "found nothing, expected folders dataset_torch.train"),
        ("no_file/dataset_torch.train", "Pass its parent"),
        ("dataset.pt", "pickles whole Python objects"),
        ("nowhere", "no such folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            Sane(tmp_path / source, activation="tanh")
    raw = Sane(tmp_path / "no_file", activation="tanh", scaled=False)
    take(raw, "train/sample_0")
    with pytest.raises(ValueError, match="tokens do not tell its activation: pass activation="):
        list(Sane(tmp_path / "no_file", scaled=False).read("train/sample_0"))
