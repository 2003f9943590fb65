"""Zoos written for others: state dicts, arrays and SANE's tokens, each with its way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from graphrep import ParameterGraph, to_graph
from graphrep.architecture import Architecture
from graphrep.zoo import Record, Theta, Zoo, append_to, export, export_sane
from graphrep.zoo.export import export_zoo
from graphrep.zoo.formats import open_reader
from graphrep.zoo.sane_places import tokens_of
from tests.zoo.populations import zoo_of
from tests.zoo.tiny import folder_hashes

SPLITS = ["train", "train", "train", "validation", "test", "test", "train"]
FACTORY = "tests.zoo.populations:make_module"


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Seven models of two designs with two checkpoints each."""
    return zoo_of(tmp_path / "zoo", SPLITS)


@pytest.fixture
def single(zoo: Zoo) -> Zoo:
    """The models of the first design."""
    first = zoo.properties["architecture"].iloc[0]
    return zoo.select((zoo.properties["architecture"] == first).to_numpy())


def export_to(zoo: Zoo, format: str, folder: Path, **options: Any) -> Path:
    """The folder that a zoo was exported to; tokens hold weights as they are."""
    num = export_zoo(zoo, format, folder, **{"standardise": False, "progress": False, **options})
    assert num == len(zoo)
    return folder


def read_pt(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("format", "read"), [("safetensors", load_file), ("pt", read_pt)])
def test_state_dicts_come_back_bit_for_bit(
    zoo: Zoo, tmp_path: Path, format: str, read: Callable[[Path], dict[str, Tensor]]
) -> None:
    folder = export_to(zoo, format, tmp_path / "out")
    table = pd.read_csv(folder / "metrics.csv")
    assert len(list(folder.glob(f"*.{format}"))) == len(table) == len(zoo)
    for row, file in enumerate(table["file"]):
        state, expected = read(folder / file), zoo.graphs[row].state_dict()
        assert set(state) == set(expected)
        assert all(torch.equal(state[k], expected[k]) for k in expected)
        assert all(state[k].dtype == expected[k].dtype for k in expected)
    pd.testing.assert_frame_equal(
        table.drop(columns="file"), zoo.properties, check_dtype=False, check_exact=True
    )
    assert not torch.equal(zoo.graphs[0].theta, zoo.graphs[1].theta)  # rows can be told apart


def test_files_are_named_by_model_and_epoch_where_that_tells_them_apart(
    zoo: Zoo, tmp_path: Path
) -> None:
    export_to(zoo, "pt", tmp_path / "a")
    assert (tmp_path / "a" / "model-000006-epoch-0001.pt").exists()
    export_to(zoo.select([0, 1, 0]), "pt", tmp_path / "b")
    assert (tmp_path / "b" / "row-0000002.pt").exists()


def test_tied_names_are_written_to_safetensors(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    graph = to_graph(Tied(), torch.zeros(1, 3), name="tied")
    write_zoo(tmp_path / "zoo", graph.architecture, graph.theta.unsqueeze(0))
    folder = export_to(Zoo.open(tmp_path / "zoo"), "safetensors", tmp_path / "out")
    state = load_file(folder / "model-000000-epoch-0000.safetensors")
    assert torch.equal(state["first.weight"], state["second.weight"])
    assert ParameterGraph.from_state_dict(graph.architecture, state).theta.equal(graph.theta)
    sane = export_to(Zoo.open(tmp_path / "zoo"), "sane", tmp_path / "sane")
    sample = read_pt(sane / "dataset_torch.train/sample_0.pt")
    assert sample["w"].shape == (1, 6, 4)  # the shared weight stands under both names


def write_zoo(path: Path, architecture: Architecture, theta: Tensor) -> None:
    rows = [{"epoch": i} for i in range(len(theta))]
    record = Record(name="model", architecture=architecture, theta=theta, rows=rows, split="train")
    with append_to(path) as writer:
        writer.add([record])


def test_rows_of_the_array_are_thetas(zoo: Zoo, single: Zoo, tmp_path: Path) -> None:
    folder = export_to(single, "npy", tmp_path / "one")
    weights = np.load(folder / "weights.npy", mmap_mode="r")
    assert weights.dtype == np.float32 and weights.shape == (len(single), 29)
    for row in range(len(single)):
        assert np.array_equal(weights[row], single.graphs[row].theta.numpy())
    table = pd.read_csv(folder / "metrics.csv")
    assert table["content_hash"].astype(str).tolist() == single.properties["content_hash"].tolist()
    layout = pd.read_csv(folder / "layout.csv")
    state = single.graphs[3].state_dict()
    for tensor in layout.itertuples():
        part = weights[3, tensor.start : tensor.end].reshape(
            [int(n) for n in str(tensor.shape).split("x")]
        )
        assert np.array_equal(part, state[tensor.tensor].numpy())
    assert layout["end"].max() == weights.shape[1]
    read = Architecture.from_json((folder / "architecture.json").read_text())
    assert read == single.graphs[0].architecture

    several = export_to(zoo, "npy", tmp_path / "two")
    for fingerprint in zoo.architectures:
        own = zoo.properties[zoo.properties["architecture"] == fingerprint]
        weights = np.load(several / fingerprint / "weights.npy")
        table = pd.read_csv(several / fingerprint / "metrics.csv")
        assert table["name"].tolist() == own["name"].tolist() and len(weights) == len(own)
        assert np.array_equal(weights[-1], zoo.graphs[int(own.index[-1])].theta.numpy())


def slow_tokens(state: dict[str, Tensor], size: int) -> tuple[list, list, list]:
    """SANE's rule, a number at a time: values, mask, positions."""
    tokens: list[list[float]] = []
    mask: list[list[bool]] = []
    positions: list[list[int]] = []
    layer = 0
    for key, value in state.items():
        if not ("weight" in key or "running_mean" in key or "running_var" in key):
            continue
        bias = key.replace("weight", "bias") if "weight" in key else None
        for channel in range(value.shape[0]):
            numbers = value[channel].flatten().tolist()
            if bias in state:
                numbers.append(state[bias][channel].item())
            while numbers:
                piece, numbers = numbers[:size], numbers[size:]
                padding = size - len(piece)
                positions.append([len(tokens), layer, channel])
                mask.append([True] * len(piece) + [False] * padding)
                tokens.append(piece + [0.0] * padding)
        layer += 1
    return tokens, mask, positions


@pytest.mark.parametrize("token_size", [0, 2, 3, 100])
def test_tokens_are_those_of_the_rule_applied_number_by_number(
    single: Zoo, tmp_path: Path, token_size: int
) -> None:
    folder = export_to(single, "sane", tmp_path / "out", token_size=token_size)
    size = token_size or 4  # the longest row: three inputs and a bias
    info = json.loads((folder / "dataset_info_train.json").read_text())
    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = single.split(split)
        order = rows.properties.sort_values(["model", "epoch"]).index
        files = list((folder / f"dataset_torch.{theirs}").iterdir())
        assert {f.name for f in files} == {f"sample_{i}.pt" for i in range(len(rows))}
        for number, row in enumerate(order):
            sample = read_pt(folder / f"dataset_torch.{theirs}/sample_{number}.pt")
            tokens, mask, positions = slow_tokens(rows.graphs[int(row)].state_dict(), size)
            assert sample["w"].tolist() == [tokens] and sample["w"].dtype == torch.float32
            assert sample["m"].tolist() == mask and sample["m"].dtype == torch.bool
            assert sample["p"].tolist() == positions and sample["p"].dtype == torch.int32
            props = dict(zip(info["properties"], sample["props"].tolist(), strict=True))
            about = rows.properties.iloc[int(row)]
            assert props["training_iteration"] == about["epoch"]
            assert props["test_acc"] == pytest.approx(about["test_accuracy"])
            assert props["learning_rate"] == pytest.approx(about["learning_rate"])
    assert len(files) == len(single.split("test")) > 0
    scale = json.loads((folder / "dataset_normalization_train.json").read_text())
    assert scale == {"mode": None}
    assert info["num_samples"] == len(single.split("train")) and info["epoch_list"] == [0, 1]
    assert info["max_positions"] == [len(tokens) - 1, 4, 2]


def layer_values(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The numbers of each of SANE's layers."""
    found = {}
    for key, value in state.items():
        if "weight" in key or "running" in key:
            parts = [value.flatten()]
            if "weight" in key and (bias := key.replace("weight", "bias")) in state:
                parts.append(state[bias].flatten())
            found[key] = torch.cat(parts).double().numpy()
    return found


def test_standardisation_is_fitted_on_the_training_split_alone(single: Zoo, tmp_path: Path) -> None:
    folder = export_to(single, "sane", tmp_path / "out", standardise=True)
    train = single.split("train")
    seen = [layer_values(train.graphs[row].state_dict()) for row in range(len(train))]
    fitted = {
        key: (
            np.mean([values[key].mean() for values in seen]),
            np.sqrt(np.mean([values[key].var(ddof=1) for values in seen])),
        )
        for key in seen[0]
    }
    test = single.split("test")
    scale = json.loads((folder / "dataset_normalization_test.json").read_text())
    assert scale == json.loads((folder / "dataset_normalization_train.json").read_text())
    assert scale.pop("mode") == "standardize" and list(scale) == list(fitted)
    for key, (mean, std) in fitted.items():
        if "weight" in key:
            assert scale[key] == pytest.approx({"mean": mean, "std": std})
    state = test.graphs[0].state_dict()
    sample = read_pt(folder / "dataset_torch.test/sample_0.pt")
    real = sample["w"][0].double()[sample["m"]].numpy()
    expected = [
        (state[key][channel].flatten().double().numpy() - fitted[key][0]) / fitted[key][1]
        if part == "own"
        else [
            (state[key.replace("weight", "bias")][channel].item() - fitted[key][0]) / fitted[key][1]
        ]
        for key in fitted
        for channel in range(state[key].shape[0])
        for part in ("own", "bias")
        if part == "own" or ("weight" in key and key.replace("weight", "bias") in state)
    ]
    np.testing.assert_allclose(real, np.concatenate(expected), rtol=1e-5, atol=1e-6)

    everything = [layer_values(single.graphs[row].state_dict()) for row in range(len(single))]
    leaky = np.mean([values["0.weight"].mean() for values in everything])
    assert abs(leaky - fitted["0.weight"][0]) > 1e-3  # the control: other rows, another fit


def test_the_public_codes_way_back_restores_every_tensor(single: Zoo, tmp_path: Path) -> None:
    """That code scales running statistics twice on the way back."""
    folder = export_to(single, "sane", tmp_path / "out", standardise=True)
    scale = json.loads((folder / "dataset_normalization_val.json").read_text())
    sample = read_pt(folder / "dataset_torch.val/sample_0.pt")
    expected = single.split("validation").graphs[0].state_dict()
    assert scale.pop("mode") == "standardize"
    for number, (key, numbers) in enumerate(scale.items()):
        here = sample["p"][:, 1] == number
        values = sample["w"][0][here][sample["m"][here]].double()
        for _ in range(1 if "weight" in key else 2):
            values = values * numbers["std"] + numbers["mean"]
        wanted = [
            torch.cat([expected[key][c].flatten(), *bias_of(expected, key, c)])
            for c in range(len(expected[key]))
        ]
        torch.testing.assert_close(values.float(), torch.cat(wanted), rtol=1e-5, atol=1e-6)


def bias_of(state: dict[str, Tensor], key: str, channel: int) -> list[Tensor]:
    bias = key.replace("weight", "bias")
    return [state[bias][channel : channel + 1]] if bias != key and bias in state else []


def imported(folder: Path) -> list[Record]:
    """What the importer makes of an export."""
    reader = open_reader("sane", str(folder), model=FACTORY, input_shape="2,2")
    return [r for name in reader.names() for r in reader.read(name) if isinstance(r, Record)]


@pytest.mark.parametrize("token_size", [0, 3])
def test_what_is_exported_as_tokens_is_imported_bit_for_bit(
    single: Zoo, tmp_path: Path, token_size: int
) -> None:
    folder = export_to(single, "sane", tmp_path / "out", token_size=token_size)
    records = imported(folder)
    assert len(records) == single.properties["model"].nunique()
    theta = {split: [] for split in ("train", "validation", "test")}
    for record in records:
        assert record.split is not None
        theta[record.split].append(record.theta)
    for split, parts in theta.items():
        view = single.split(split)
        expected = torch.stack([view.graphs[row].theta for row in range(len(view))])
        assert torch.equal(torch.cat(parts), expected)
        assert not torch.equal(torch.cat(parts).roll(1, 0), expected)


def test_standardised_tokens_are_imported_to_rounding(single: Zoo, tmp_path: Path) -> None:
    folder = export_to(single, "sane", tmp_path / "out", standardise=True)
    found = torch.cat([record.theta for record in imported(folder) if record.split == "test"])
    view = single.split("test")
    expected = torch.stack([view.graphs[row].theta for row in range(len(view))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", ["safetensors", "pt"])
def test_exported_state_dicts_are_imported_as_the_same_models(
    single: Zoo, tmp_path: Path, format: str
) -> None:
    folder = export_to(single, format, tmp_path / "out")
    reader = open_reader(
        "checkpoints",
        str(folder),
        properties=str(folder / "metrics.csv"),
        model=FACTORY,
        input_shape="2,2",
    )
    records = [r for name in reader.names() for r in reader.read(name)]
    assert all(isinstance(record, Record) for record in records)
    theta = torch.cat([record.theta for record in records if isinstance(record, Record)])
    assert torch.equal(theta, torch.stack([graph.theta for graph in single.graphs]))
    found = [r["test_accuracy"] for x in records if isinstance(x, Record) for r in x.rows]
    assert found == single.properties["test_accuracy"].tolist()
    splits = [record.split for record in records if isinstance(record, Record)]
    assert splits == single.properties.groupby("model")["split"].first().tolist()


def test_a_zoo_without_splits_is_all_training(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", ["train"] * 2)
    table = zoo.properties
    table["split"] = pd.Series([None] * len(table), dtype="str")  # kept by the view
    folder = export_to(zoo, "sane", tmp_path / "out")
    assert [f.name for f in folder.glob("dataset_torch.*")] == ["dataset_torch.train"]
    table.loc[0, "split"] = "test"
    with pytest.raises(ValueError, match="3 of the chosen rows belong to no split"):
        export_to(zoo, "sane", tmp_path / "mixed")


class Scaled(nn.Module):
    """Has a parameter that SANE's tokens have no place for."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (Scaled(), (1, 2), "scale has no place"),
        (nn.ConvTranspose2d(2, 3, 2), (1, 2, 4, 4), "bias has not one number for each of the 2"),
        (nn.Sequential(nn.Linear(2, 2, bias=False), nn.PReLU()), (1, 2), ""),
    ],
)
def test_networks_that_tokens_cannot_hold_are_refused(
    module: nn.Module, shape: tuple[int, ...], reason: str
) -> None:
    architecture = to_graph(module, torch.zeros(shape), name="odd").architecture
    if reason:
        with pytest.raises(ValueError, match=reason):
            tokens_of(architecture)
    else:
        tokens = tokens_of(architecture)
        places = tokens.index[tokens.mask]
        assert sorted(places.tolist()) == list(range(architecture.num_parameters))


@pytest.mark.parametrize(
    ("channels", "kernels", "features", "shape", "num_parameters", "filled"),
    [
        ((1, 8, 6, 4), (5, 5, 2), 36, (48, 201), 2464, 0.25),
        ((3, 16, 32, 15), (3, 3, 3), 60, (93, 289), 10853, 0.40),
    ],
)
def test_the_published_networks_have_the_published_tokens(
    channels: tuple[int, ...],
    kernels: tuple[int, ...],
    features: int,
    shape: tuple[int, int],
    num_parameters: int,
    filled: float,
) -> None:
    sizes = zip(channels[:-1], channels[1:], kernels, strict=True)
    layers: list[nn.Module] = [nn.Conv2d(i, o, k) for i, o, k in sizes]
    side = int((features / channels[-1]) ** 0.5)
    head = [nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(features, 20), nn.Linear(20, 10)]
    module = nn.Sequential(*layers, *head)
    graph = to_graph(module, torch.zeros(1, channels[0], 20, 20), name="cnn", verify=False)
    tokens = tokens_of(graph.architecture)
    assert graph.architecture.num_parameters == num_parameters
    assert tuple(tokens.index.shape) == shape
    assert float(tokens.mask.float().mean()) == pytest.approx(filled, abs=0.01)


@pytest.mark.parametrize("format", ["pt", "npy", "sane"])
def test_an_interrupted_export_goes_on_and_ends_in_the_same_files(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    whole = export_to(zoo, format, tmp_path / "whole")
    written = 0
    real = export.write_whole

    def stop_soon(path: Path, write: Callable[[Path], object], **others: bool) -> None:
        nonlocal written
        written += 1
        if written == 6:
            raise KeyboardInterrupt
        real(path, write, **others)

    for module in (export, export_sane):
        monkeypatch.setattr(module, "write_whole", stop_soon)
    with pytest.raises(KeyboardInterrupt):
        export_to(zoo, format, tmp_path / "broken")
    assert folder_hashes(tmp_path / "broken") != folder_hashes(whole)
    export_to(zoo, format, tmp_path / "broken")
    assert folder_hashes(tmp_path / "broken") == folder_hashes(whole)


def test_no_more_rows_than_a_batch_are_read_at_once(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = Theta.__getitem__

    def counting(self: Theta, index: object) -> Tensor:
        found = real(self, index)  # type: ignore[arg-type]
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Theta, "__getitem__", counting)
    export_to(zoo, "npy", tmp_path / "all")
    assert max(sizes) > 2  # the control
    sizes.clear()
    monkeypatch.setattr(export, "batch_rows", lambda architecture: 2)
    export_to(zoo, "npy", tmp_path / "npy")
    export_to(zoo, "sane", tmp_path / "sane", standardise=True)
    assert max(sizes) == 2
    assert folder_hashes(tmp_path / "npy") == folder_hashes(tmp_path / "all")


def test_nothing_is_overwritten(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"full: is not empty, it holds thesis\.tex"):
        export_to(zoo, "pt", tmp_path / "full")
    export_to(zoo.split("train"), "pt", tmp_path / "out")
    before = folder_hashes(tmp_path / "out")
    with pytest.raises(ValueError, match="another export, with other num_rows, rows"):
        export_to(zoo, "pt", tmp_path / "out")
    with pytest.raises(ValueError, match="another export, with other export"):
        export_to(zoo.split("train"), "npy", tmp_path / "out")
    export_to(zoo.split("train"), "pt", tmp_path / "out")  # it is there
    assert folder_hashes(tmp_path / "out") == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; an export needs a folder"):
        export_to(zoo, "pt", tmp_path / "file")


def test_mistakes_are_named(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of safetensors, pt, npy, sane, got 'hdf5'"):
        export_to(zoo, "hdf5", tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to export"):
        export_to(zoo.select([]), "pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="fitted on the training split"):
        export_to(zoo.split("test"), "sane", tmp_path / "out", standardise=True)
