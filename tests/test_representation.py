"""Laws of trained representations: order, files, sampling into the real module; law 8."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import graphrep
from graphrep.decoders import DecoderConfig
from graphrep.encoders import ENCODERS, Batch, Embedding, GraphEncoderConfig
from graphrep.evaluation.behaviour import condition_batch_norm, novelty
from graphrep.model import ModelConfig, WeightModel
from graphrep.representation import Representation
from graphrep.sampling import sample_latents
from graphrep.training import (
    Networks,
    SelfSupervisedConfig,
    TrainingConfig,
    build_objective,
    train,
)
from graphrep.zoo import Zoo
from graphrep.zoo.classifiers.train import single_thread

from .architectures import CASES, IDS, Case

DECODER = DecoderConfig(model_dim=32, num_heads=2, num_layers=1)
ENCODER = GraphEncoderConfig(unit_dim=16, linear_dim=2, curved_dim=2, value_dim=4, num_rounds=1)
MODEL = ModelConfig(encoder=ENCODER, decoder=DECODER, token_size=16, latent_dim=16)


@pytest.fixture(scope="module")
def representation(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Representation:
    torch.manual_seed(0)
    model = WeightModel(MODEL)
    groups = [Networks(g.architecture, g.theta) for g in zoo.groups()]
    objective = build_objective(SelfSupervisedConfig(), model)
    config = TrainingConfig(num_steps=150, validate_every=50, num_threads=1)
    train(model, objective, groups, groups, config, tmp_path_factory.mktemp("training"))
    return Representation(model, list(zoo.architectures.values())).fit_anchors(list(zoo.graphs))


def test_embeddings_come_in_the_order_given(representation: Representation, zoo: Zoo) -> None:
    graphs = list(zoo.graphs)
    together = representation.encode(graphs, batch_size=3)
    assert together.shape == (len(graphs), representation.model.embedding_dim)
    backwards = representation.encode(graphs[::-1])
    assert np.allclose(together, backwards[::-1], atol=1e-4)
    assert not np.allclose(together, backwards, atol=1e-2)
    one = representation.encode(graphs[2])
    assert one.shape == together.shape[1:] and np.allclose(one, together[2], atol=1e-4)
    assert isinstance(representation.encode(graphs[:2], convert_to_numpy=False), torch.Tensor)


def test_graphs_modules_and_files_embed_alike(
    representation: Representation, zoo: Zoo, tmp_path: Path
) -> None:
    graph = zoo.graphs[0]
    module = graph.load_into(zoo.network(0))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "network.pt")
    expected = representation.encode(graph)
    images = zoo.images().test_images[:2]
    assert np.array_equal(representation.encode(module, example_inputs=images), expected)
    found = representation.encode([tmp_path / "network.pt", graph], architecture=graph.architecture)
    assert np.allclose(found, expected, atol=1e-5)


def test_a_file_of_no_known_architecture_is_refused(
    representation: Representation, tmp_path: Path
) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt.*fits none"):
        representation.encode(tmp_path / "other.pt")


def test_a_saved_model_comes_back_bit_for_bit(
    representation: Representation, zoo: Zoo, tmp_path: Path
) -> None:
    representation.save_pretrained(tmp_path / "model")
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    again = graphrep.Representation.from_pretrained(tmp_path / "model")
    graphs = list(zoo.graphs)[:5]
    assert np.array_equal(again.encode(graphs), representation.encode(graphs))
    for a, b in zip(again.sample(3), representation.sample(3), strict=True):
        assert torch.equal(a.theta, b.theta)


ENCODE_ELSEWHERE = """
import sys
import numpy as np
import torch
from graphrep import Representation

torch.set_num_threads(1)
folder, files = sys.argv[1], sys.argv[2:]
for name in ("graph", "token", "pna", "hyperrep", "statistics", "raw"):
    known = Representation.from_pretrained(f"{folder}/{name}")
    for batch_size in (1, 3, 32):
        np.save(f"{folder}/{name}-{batch_size}.npy", known.encode(files, batch_size=batch_size))
"""


def test_a_saved_model_embeds_to_the_same_bits_in_another_process(zoo: Zoo, tmp_path: Path) -> None:
    """Mixed architectures, other batch sizes than when it was saved, every encoder."""
    torch.manual_seed(0)
    graphs = list(zoo.graphs)[:9]
    for case in (CASES[7], CASES[5]):
        graphs += [graphrep.to_graph(case.module(), case.example()) for _ in range(4)]
    files = [tmp_path / f"{number}.pt" for number in range(len(graphs))]
    for graph, file in zip(graphs, files, strict=True):
        torch.save(graph.state_dict(), file)
    known = {g.architecture.fingerprint: g.architecture for g in graphs}
    kept = {}
    for name in ("graph", "token", "pna", "hyperrep", "statistics", "raw"):
        torch.manual_seed(1)
        kept[name] = Representation(
            WeightModel(ModelConfig(encoder=ENCODERS[name]())), list(known.values())
        )
        kept[name].model.scaling.fit((g.architecture, g.theta[None]) for g in graphs)
        kept[name].save_pretrained(tmp_path / name)
    subprocess.run([sys.executable, "-c", ENCODE_ELSEWHERE, tmp_path, *files], check=True)
    with single_thread():
        for name, representation in kept.items():
            for batch_size in (1, 3, 32):
                here = representation.encode(graphs, batch_size=batch_size)
                there = np.load(tmp_path / f"{name}-{batch_size}.npy")
                assert here.tobytes() == there.tobytes(), (name, batch_size)
        representation = kept["graph"]
        with torch.no_grad():  # the least that could be lost in a file
            parameter = next(p for p in representation.model.encoder.parameters() if p.dim() > 1)
            parameter.view(torch.int32).add_(1)
        assert representation.encode(graphs, batch_size=3).tobytes() != there.tobytes()
        assert representation.encode(graphs, batch_size=1).tobytes() != (
            np.load(tmp_path / "graph-1.npy").tobytes()
        )


def test_embedded_one_by_one_a_network_s_bits_do_not_depend_on_its_company(
    representation: Representation, zoo: Zoo
) -> None:
    graphs = list(zoo.graphs)
    with single_thread():
        together = representation.encode(graphs, batch_size=1)
        for number in (0, 5, len(graphs) - 1):
            alone = representation.encode([graphs[number]], batch_size=1)
            assert np.array_equal(alone[0], together[number])
        in_one_batch = representation.encode(graphs, batch_size=32)
    assert np.allclose(in_one_batch, together, atol=1e-4)
    assert not np.array_equal(in_one_batch, together[::-1])


def test_encode_takes_what_users_of_sentence_transformers_expect(
    representation: Representation, zoo: Zoo
) -> None:
    graphs = list(zoo.graphs)[:4]
    plain = representation.encode(graphs)
    tensor = representation.encode(graphs, convert_to_tensor=True, device="cpu")
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), plain)
    unit = representation.encode(graphs, normalize_embeddings=True, show_progress_bar=False)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-2)
    cosine = representation.similarity(plain, plain)
    assert np.allclose(unit @ unit.T, cosine, atol=1e-5)
    assert representation.similarity(plain[0], plain[1:]).shape == (1, 3)
    assert representation.encode(graphs[0], normalize_embeddings=True).shape == plain.shape[1:]
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        representation.encode(graphs, device="abacus")


def test_encoding_asks_for_no_tokens(
    representation: Representation, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    forward = type(representation.model.encoder).forward

    def watch(self: nn.Module, batch: Batch) -> Embedding:
        asked.append(batch.tokens)
        return forward(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(type(representation.model.encoder), "forward", watch)
    representation.encode(zoo.graphs[0])
    assert asked == [False]
    Representation(representation.model).fit_anchors([zoo.graphs[0]] * 2)
    assert asked == [False, True]


def test_a_damaged_model_folder_is_refused(representation: Representation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        Representation.from_pretrained(tmp_path)
    representation.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # as of another save
    with pytest.raises(ValueError, match="not the one that config"):
        Representation.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="no such folder"):
        Representation.from_pretrained(tmp_path / "elsewhere")
    weights.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="not a readable Representation"):
        Representation.from_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Representation.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("method", ["joint", "independent"])
def test_samples_load_strictly_and_run(
    representation: Representation, zoo: Zoo, method: str
) -> None:
    for fingerprint, architecture in zoo.architectures.items():
        row = int((zoo.properties["architecture"] == fingerprint).to_numpy().argmax())
        samples = representation.sample(3, method=method, architecture=architecture)
        for sample in samples:
            module = zoo.network(row)
            module.load_state_dict(sample.state_dict(), strict=True)
            with torch.no_grad():
                assert module(zoo.images().test_images[:4]).isfinite().all()
        assert not torch.equal(samples[0].theta, samples[1].theta)
        with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
            nn.Sequential(nn.Linear(2, 2)).load_state_dict(samples[0].state_dict(), strict=True)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_decoded_weights_load_strictly_for_every_family(case: Case) -> None:
    torch.manual_seed(0)
    graph = graphrep.to_graph(case.module(), case.example())
    fresh = Representation(WeightModel(MODEL)).fit_anchors([graph, graph])
    decoded = fresh.sample(1)[0]
    module = case.module()
    module.load_state_dict(decoded.state_dict(), strict=True)
    with torch.no_grad():
        assert module(case.example()).isfinite().all()


def test_windows_with_a_halo_decode_what_one_window_does_nearby() -> None:
    """A decoder without context gives the same tokens however it is windowed."""
    case = CASES[5]
    graph = graphrep.to_graph(case.module(), case.example())
    torch.manual_seed(0)
    local = DecoderConfig(model_dim=16, num_heads=2, num_layers=0 + 1)
    whole = WeightModel(ModelConfig(encoder=ENCODER, decoder=local, token_size=4, latent_dim=8))
    cut_config = ModelConfig(
        encoder=ENCODER, decoder=local, token_size=4, latent_dim=8, window=24, halo=8
    )
    cut = WeightModel(cut_config)
    for block in whole.decoder.blocks.layers:
        nn.init.zeros_(block.out.weight)  # no token hears another
    cut.load_state_dict(whole.state_dict())
    with torch.no_grad():
        latents = whole.encode(graph.theta[None], graph.architecture).tokens
        assert latents.shape[1] > 48
        expected = whole.decode(latents, graph.architecture)
        assert torch.allclose(cut.decode(latents, graph.architecture), expected, atol=1e-5)
        assert not torch.allclose(
            cut.decode(latents.flip(1), graph.architecture), expected, atol=1e-3
        )


def test_joint_samples_stay_near_one_anchor_and_independent_ones_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(6, 10, 4, generator=generator)
    for method, mixes in (("joint", False), ("independent", True)):
        drawn = sample_latents(anchors, 50, method, 0.01, seed=0)
        distances = (drawn.unsqueeze(1) - anchors).norm(dim=-1)  # [50, 6, 10]
        nearest = distances.argmin(1)  # of each token
        kinds = torch.tensor([len(set(row.tolist())) for row in nearest]).float()
        assert (kinds > 1).any() == mixes
        assert len(set(nearest.flatten().tolist())) == 6  # every anchor is drawn
        again = sample_latents(anchors, 50, method, 0.01, seed=0)
        assert torch.equal(drawn, again)
        assert not torch.equal(drawn, sample_latents(anchors, 50, method, 0.01, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "both"}, "sampling method"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"num": 0}, "at least 1"),
    ],
)
def test_bad_requests_are_refused(
    representation: Representation, change: dict, message: str
) -> None:
    arguments = {"num": 2, **change}
    with pytest.raises(ValueError, match=message):
        representation.sample(**arguments)


def test_sampling_without_anchors_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="fit_anchors"):
        Representation(WeightModel(MODEL)).sample(1)


@torch.no_grad()
def test_batch_norm_is_conditioned_on_data_and_weights_stay() -> None:
    module = CASES[7].module()
    images = torch.randn(64, 3, 8, 8) * 3 + 1
    before = {k: v.clone() for k, v in module.state_dict().items()}
    condition_batch_norm(module, images, num_passes=200)
    found = module(images)
    module.train()
    expected = module(images)
    assert torch.allclose(found, expected, atol=0.15 * float(expected.abs().max()))
    after = module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if "weight" in k or "bias" in k)
    assert not torch.equal(after["1.running_mean"], before["1.running_mean"])


def test_novelty_is_nothing_for_a_permuted_copy(zoo: Zoo) -> None:
    group = next(iter(zoo.groups()))
    graphs = [zoo.graphs[int(row)] for row in group.rows[:4]]
    network = zoo.network(int(group.rows[0]))

    def build(graph: graphrep.ParameterGraph) -> nn.Module:
        return graph.load_into(network)

    copies = [g.permute(graphrep.random_permutation(g.architecture)) for g in graphs]
    images = zoo.images().test_images[:50]
    copied = novelty(copies, graphs, build, images)
    assert max(copied.weights) < 1e-6 and max(copied.behaviour) == 0
    among = novelty(graphs, graphs, build, images, same=True)
    assert max(among.weights) > 1e-3
