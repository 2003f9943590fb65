"""Tables of embeddings: same rows however they are cut, resumed or spread; nothing dropped."""

from __future__ import annotations

import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from graphrep import ParameterGraph, cluster, embedding, embedding_inputs, to_graph
from graphrep.architecture import Architecture
from graphrep.decoders import DecoderConfig
from graphrep.embedding import Embedder, embed_table, embed_to_parquet
from graphrep.encoders import GraphEncoderConfig
from graphrep.model import ModelConfig, WeightModel
from graphrep.representation import Representation
from graphrep.zoo import Zoo
from graphrep.zoo.classifiers.train import single_thread
from graphrep.zoo.store.folder import LocalFolder
from tests.dawdling import Dawdling, Killer, begun, is_gone

MODEL = ModelConfig(
    encoder=GraphEncoderConfig(unit_dim=8, linear_dim=2, curved_dim=2, value_dim=4, num_rounds=1),
    decoder=DecoderConfig(model_dim=16, num_heads=2, num_layers=1),
    token_size=16,
    latent_dim=8,
)


def save_model(zoo: Zoo, folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    Representation(WeightModel(MODEL), list(zoo.architectures.values())).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(zoo, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other_model(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(zoo, tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def checkpoints(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine networks of the zoo, of both architectures, as files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for row in range(9):
        torch.save(zoo.graphs[row].state_dict(), folder / f"{row}.pt")
    return sorted(folder.iterdir())


quietly = partial(embed_to_parquet, progress=False)


def values(table: pd.DataFrame) -> np.ndarray:
    return table[[c for c in table if c[0] == "e" and c[1:].isdigit()]].to_numpy()


def test_a_zoo_s_table_has_its_properties_and_what_encode_gives(
    zoo: Zoo, model: str, tmp_path: Path
) -> None:
    table = quietly(model, [zoo.path], tmp_path / "deep" / "e.parquet", batch_size=5)
    with single_thread():
        expected = Representation.from_pretrained(model).encode(zoo.graphs, batch_size=5)
    assert np.array_equal(values(table), expected)
    width = expected.shape[1]
    assert list(table.columns) == [*zoo.properties.columns, *(f"e{i}" for i in range(width))]
    assert table[zoo.properties.columns].equals(zoo.properties)
    assert pd.read_parquet(tmp_path / "deep" / "e.parquet").equals(table)
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["e.parquet"]
    assert not np.array_equal(values(table)[1:], expected[:-1])


@pytest.mark.parametrize(("part_size", "batch_size"), [(1, 4), (7, 4), (100, 1), (24, 128)])
def test_parts_and_batches_change_no_row(
    zoo: Zoo, model: str, tmp_path: Path, part_size: int, batch_size: int
) -> None:
    table = quietly(
        model, [zoo.path], tmp_path / "e.parquet", part_size=part_size, batch_size=batch_size
    )
    expected = Representation.from_pretrained(model).encode(zoo.graphs)
    assert np.allclose(values(table), expected, atol=1e-5)
    assert not np.allclose(values(table)[::-1], expected, atol=1e-5)


def test_files_are_named_and_embed_as_the_networks_in_them(
    zoo: Zoo,
    model: str,
    checkpoints: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(checkpoints[0].parent)
    inputs = [path.name for path in checkpoints][::-1]
    table = quietly(model, inputs, tmp_path / "e.parquet", part_size=4, batch_size=2)
    assert list(table["file"]) == inputs and list(table.columns[:2]) == ["file", "e0"]
    expected = Representation.from_pretrained(model).encode(zoo.graphs[:9])
    assert np.allclose(values(table), expected[::-1], atol=1e-5)
    assert not np.allclose(values(table), expected, atol=1e-5)


def test_files_that_cannot_be_read_are_listed_with_the_reason(
    model: str, checkpoints: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.pt").write_bytes(checkpoints[0].read_bytes()[:100])
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "stranger.pt")
    bad = [tmp_path / "broken.pt", tmp_path / "stranger.pt", tmp_path / "nowhere.pt"]
    mixed = [checkpoints[0], bad[0], checkpoints[1], bad[1], bad[2], checkpoints[2]]
    output, listed = tmp_path / "e.parquet", tmp_path / "e-skipped.csv"
    with pytest.warns(UserWarning, match=r"3 of 6 inputs .* left out: .*e-skipped\.csv"):
        table = quietly(model, mixed, output, part_size=2)
    assert list(table["file"]) == [str(path) for path in checkpoints[:3]]
    assert list(table.index) == [0, 1, 2]
    skipped = pd.read_csv(listed)
    assert list(skipped["file"]) == [str(path) for path in bad]
    assert "fits none of the architectures" in skipped["reason"][1]
    assert all(str(path) in reason for path, reason in zip(bad, skipped["reason"], strict=True))

    sound = quietly(model, checkpoints[:3], output, part_size=2)
    assert np.allclose(values(sound), values(table), atol=1e-5) and not listed.exists()
    with pytest.raises(ValueError, match=r"none of 3 inputs could be read .*broken"):
        quietly(model, bad, output)
    assert listed.exists() and pd.read_parquet(output).equals(sound)  # the last good one stays
    assert not (tmp_path / "e.parquet.parts").exists()


def chain(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), activation, nn.Linear(3, 2))


@pytest.fixture
def alike(tmp_path: Path) -> tuple[Representation, Path, list[ParameterGraph]]:
    """Two architectures that no weight tells apart, what knows both, and a file that fits both."""
    graphs = [to_graph(chain(a), torch.zeros(2, 4), name=n)
              for a, n in ((nn.ReLU(), "relu"), (nn.Tanh(), "tanh"))]  # fmt: skip
    torch.manual_seed(0)
    torch.save(graphs[0].state_dict(), tmp_path / "net.pt")
    known = Representation(WeightModel(MODEL), [g.architecture for g in graphs])
    return known, tmp_path / "net.pt", graphs


def test_an_architecture_is_chosen_by_name_fingerprint_or_file(
    alike: tuple[Representation, Path, list[ParameterGraph]], tmp_path: Path
) -> None:
    known, file, graphs = alike
    with pytest.raises(ValueError, match=r"fits 2 architectures .*--architecture"):
        embed_table(known, [file])
    tables = []
    for graph in graphs:
        (tmp_path / "a.json").write_text(graph.architecture.to_json())
        for name in (graph.architecture.name, graph.architecture.fingerprint, tmp_path / "a.json"):
            tables.append(values(embed_table(known, [file], architecture=str(name))))
            assert np.allclose(tables[-1], known.encode(graph), atol=1e-5)
    assert not np.allclose(tables[0], tables[-1], atol=1e-3)
    written = quietly(known, [file], tmp_path / "e.parquet", architecture="tanh")
    assert np.array_equal(values(written), tables[-1])
    assert written.attrs == pd.read_parquet(tmp_path / "e.parquet").attrs
    (tmp_path / "a.json").write_text("{}")
    for name, message in ((tmp_path / "a.json", "is no architecture"), ("gelu", "neither a file")):
        with pytest.raises(ValueError, match=message):
            embed_table(known, [file], architecture=str(name))


def test_a_file_that_brings_its_architecture_along_needs_none(
    alike: tuple[Representation, Path, list[ParameterGraph]], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    known, file, _ = alike
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            chain(nn.Tanh()).eval(),
            (torch.zeros(2, 4),),
            str(tmp_path / "net.onnx"),
            dynamo=False,
        )
    found = values(embed_table(known, [tmp_path / "net.onnx"]))
    tanh, relu = (values(embed_table(known, [file], architecture=n)) for n in ("tanh", "relu"))
    assert np.allclose(found, tanh, atol=1e-5) and not np.allclose(found, relu, atol=1e-3)


class Interrupted(Exception):
    """Stands for a process that is ended."""


@pytest.fixture
def stopped(
    zoo: Zoo, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """The output of an embedding that was interrupted in its third part, and its parts."""
    output = tmp_path / "e.parquet"
    embed = Embedder.__call__
    with monkeypatch.context() as patch:
        done: list[range] = []

        def embed_two(self: Embedder, part: range, *others: object) -> embedding.Embedded:
            if len(done) == 2:
                raise Interrupted
            done.append(part)
            return embed(self, part, *others)  # type: ignore[arg-type]

        patch.setattr(Embedder, "__call__", embed_two)
        with pytest.raises(Interrupted):
            quietly(model, [zoo.path], output, part_size=5)
    return output, tmp_path / "e.parquet.parts"


def test_an_interrupted_embedding_goes_on_and_ends_in_the_same_bits(
    zoo: Zoo,
    model: str,
    stopped: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, parts = stopped
    assert len(list(parts.glob("*.parquet"))) == 2 and not output.exists()
    (parts / "000000010-5.parquet.unfinished-123").write_text("half")  # of a killed writer
    computed: list[range] = []
    embed = Embedder.__call__

    def count(self: Embedder, part: range, *others: object) -> embedding.Embedded:
        computed.append(part)
        return embed(self, part, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedder, "__call__", count)
    quietly(model, [zoo.path], output, part_size=5)
    assert computed == [range(10, 15), range(15, 20), range(20, 24)]
    assert not parts.exists()
    quietly(model, [zoo.path], tmp_path / "unbroken.parquet", part_size=5)
    assert output.read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()


def test_parts_of_another_model_or_other_inputs_are_not_mixed_in(
    zoo: Zoo,
    model: str,
    other_model: str,
    checkpoints: list[Path],
    stopped: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    output, parts = stopped
    before = {f.name: f.read_bytes() for f in parts.iterdir()}
    for changed, what in (
        ({"model": other_model}, "model"),
        ({"inputs": checkpoints}, "inputs"),
        ({"part_size": 6}, "part_size: 5 there, 6 now"),
    ):
        wanted = {"model": model, "inputs": [zoo.path], "output": output, "part_size": 5, **changed}
        with pytest.raises(ValueError, match=rf"(?s)parts of another embedding:\n  {what}"):
            quietly(**wanted)  # type: ignore[arg-type]
    assert {f.name: f.read_bytes() for f in parts.iterdir()} == before
    shutil.rmtree(parts)
    other = quietly(other_model, [zoo.path], output, part_size=5)
    assert not np.allclose(values(other), values(quietly(model, [zoo.path], output)), atol=1e-3)


def test_a_damaged_part_is_named(zoo: Zoo, model: str, stopped: tuple[Path, Path]) -> None:
    output, parts = stopped
    damaged = sorted(parts.glob("*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{damaged.name}: damaged"):
        quietly(model, [zoo.path], output, part_size=5)
    damaged.unlink()
    assert len(quietly(model, [zoo.path], output, part_size=5)) == len(zoo)


def test_a_changed_file_counts_as_another_input(
    model: str, checkpoints: list[Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in checkpoints[:3]]
    before = embedding_inputs.open_networks(copies).digest
    assert embedding_inputs.open_networks(copies).digest == before
    shutil.copy(checkpoints[3], copies[1])
    assert embedding_inputs.open_networks(copies).digest != before


def test_two_embeddings_into_one_file_exclude_each_other(
    zoo: Zoo, model: str, tmp_path: Path
) -> None:
    with (
        LocalFolder(tmp_path / "e.parquet.parts").exclusive(),
        pytest.raises(ValueError, match=r"e\.parquet: another process embeds into it"),
    ):
        quietly(model, [zoo.path], tmp_path / "e.parquet")
    quietly(model, [zoo.path], tmp_path / "e.parquet")


@pytest.mark.parametrize("kind", ["zoo", "files"])
def test_theta_is_read_a_batch_at_a_time(
    zoo: Zoo,
    model: str,
    checkpoints: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    inputs = [zoo.path] if kind == "zoo" else checkpoints
    seen: list[int] = []
    encode = WeightModel.encode

    def watch(self: WeightModel, theta: Tensor, architecture: Architecture, **others: bool):  # type: ignore[no-untyped-def]
        seen.append(4 * theta.numel())
        return encode(self, theta, architecture, **others)

    monkeypatch.setattr(WeightModel, "encode", watch)
    whole = values(quietly(model, inputs, tmp_path / "e.parquet"))
    largest = max(a.num_parameters for a in zoo.architectures.values()) * 4
    assert max(seen) > 3 * largest
    seen.clear()
    monkeypatch.setattr(embedding_inputs, "BATCH_BYTES", 2 * largest)
    assert np.allclose(values(quietly(model, inputs, tmp_path / "e.parquet")), whole, atol=1e-5)
    assert max(seen) <= 3 * largest and len(seen) > 2


def test_a_zoo_behind_a_url_embeds_as_in_its_folder(
    zoo: Zoo, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    near = quietly(model, [zoo.path], tmp_path / "near.parquet")
    far = quietly(model, [f"local://{zoo.path}"], tmp_path / "far.parquet")
    assert far.equals(near)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "no inputs"),
        ({"inputs": ["ZOO", "x.pt"]}, "a zoo is embedded alone"),
        ({"engine": "dask"}, "engine must be one of local, ray"),
        ({"num_workers": 2}, "counts with engine ray alone"),
        ({"batch_size": 0}, "must be 1 or more"),
        ({"inputs": ["local:///nowhere"]}, "not a zoo, it does not exist"),
    ],
)
def test_bad_requests_are_refused(
    zoo: Zoo, model: str, tmp_path: Path, change: dict, message: str
) -> None:
    wanted = {"inputs": ["ZOO"], **change}
    wanted["inputs"] = [str(zoo.path) if i == "ZOO" else i for i in wanted["inputs"]]
    with pytest.raises(ValueError, match=message):
        quietly(model, output=tmp_path / "e.parquet", **wanted)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_networks_and_those_that_were_there(
    zoo: Zoo, model: str, stopped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = stopped
    embed_to_parquet(model, [zoo.path], output, part_size=5)
    out, err = capsys.readouterr()
    assert out == "" and "embed" in err and "24/24" in err


@pytest.mark.slow
def test_ray_gives_the_bits_of_one_process_when_a_worker_is_killed(
    zoo: Zoo,
    model: str,
    checkpoints: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    quietly(model, [zoo.path], tmp_path / "here.parquet", part_size=3)
    missing = [*checkpoints, tmp_path / "nowhere.pt"]
    with pytest.warns(UserWarning, match="1 of 10 inputs"):
        files = quietly(model, missing, tmp_path / "files.parquet", part_size=4)

    log = tmp_path / "log"
    with cluster._cluster(2), monkeypatch.context() as patch:
        on_ray = partial(quietly, engine="ray", num_workers=2)
        patch.setattr(embedding, "Embedder", partial(Dawdling, log, 0.3, Embedder))
        with Killer(log, 2) as killer:
            on_ray(model, [zoo.path], tmp_path / "ray.parquet", part_size=3)
        patch.setattr(embedding, "Embedder", Embedder)
        with pytest.warns(UserWarning, match="1 of 10 inputs"):
            spread = on_ray(model, missing, tmp_path / "files.parquet", part_size=4)
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert spread.equals(files)

    assert killer.victim and is_gone(killer.victim)
    tries = begun(log)
    assert len(tries) == 8 and len(tries[killer.item]) == 2
    assert sum(len(pids) for pids in tries.values()) == 9


def test_a_zoo_that_changes_before_a_worker_opens_it_is_noticed(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = embedding_inputs.ZooNetworks(str(zoo.path))
    assert networks.opener()().digest == networks.digest
    monkeypatch.setattr(networks, "_digest", "0")
    with pytest.raises(ValueError, match="has changed since its embedding began"):
        networks.opener()()
