"""The networks of zoos: shapes, state dicts, initial values."""

from __future__ import annotations

import json
from dataclasses import replace
from math import factorial, log10

import pytest
import torch
from torch import nn

from graphrep import ParameterGraph, to_graph
from graphrep.graph import log10_symmetries
from graphrep.zoo import NetworkConfig, build_network, initialise
from graphrep.zoo.classifiers.design import ACTIVATIONS
from graphrep.zoo.classifiers.initialisation import INIT_SCHEMES

CONFIGS = [
    NetworkConfig(kind="mlp", hidden=(6, 5), batch_norm=True),
    NetworkConfig(kind="mlp", hidden=(6,), bias=False),
    NetworkConfig(kind="cnn", hidden=(3, 4)),
    NetworkConfig(kind="cnn", hidden=(3, 4), kernel_size=5, pooling="avg", head="global"),
    NetworkConfig(kind="cnn", hidden=(3,), pooling="none", bias=False, batch_norm=True),
    NetworkConfig(kind="resnet", hidden=(3, 4), batch_norm=True, head="global"),
    NetworkConfig(kind="resnet", hidden=(3, 3), projection=False),
    NetworkConfig(kind="resnet", hidden=(3, 4, 3), kernel_sizes=(5, 3, 1), num_pooled=1),
    NetworkConfig(hidden=(3, 4), kernel_sizes=(3, 2), padding="valid", linear=(5,), num_pooled=1),
    NetworkConfig(hidden=(3, 4), stride=2, pooling="none", head="global", linear=(5, 6)),
    NetworkConfig(hidden=(3, 4), pool_first=True, activation="gelu"),
    NetworkConfig(kind="vit", hidden=(6, 5), stream_dim=8, num_heads=2, patch_size=1),
    NetworkConfig(kind="vit", hidden=(6,), stream_dim=8, head="token", patch_size=1, bias=False),
    NetworkConfig(kind="vit", hidden=(6,), stream_dim=6, num_heads=3, head="global", patch_size=1),
]

SMALL_CNN = NetworkConfig(
    hidden=(8, 6, 4),
    kernel_sizes=(5, 5, 2),
    padding="valid",
    num_pooled=2,
    pool_first=True,
    linear=(20,),
)
CNN3 = NetworkConfig(hidden=(16, 32, 15), padding="valid", pool_first=True, linear=(20,))
UNTERTHINER = NetworkConfig(
    hidden=(16, 16, 16), padding="valid", stride=2, pooling="none", head="global"
)


def num_parameters(config: NetworkConfig, shape: tuple[int, int, int]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_network(config, shape, 10).parameters())


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (SMALL_CNN, (1, 28, 28), 2464),
        (CNN3, (3, 32, 32), 10853),
        (UNTERTHINER, (1, 28, 28), 4970),
        (UNTERTHINER, (1, 32, 32), 4970),
    ],
)
def test_published_designs_have_the_published_number_of_parameters(
    config: NetworkConfig, shape: tuple[int, int, int], expected: int
) -> None:
    assert num_parameters(config, shape) == expected
    assert num_parameters(replace(config, linear=(21,)), shape) != expected


def modelzoos_cnn(activation: nn.Module) -> nn.Sequential:
    """The small CNN in the order of operations that its authors describe."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), activation),
        *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), activation),
        *(nn.Conv2d(6, 4, 2), activation, nn.Flatten()),
        *(nn.Linear(36, 20), activation, nn.Linear(20, 10)),
    )


def test_the_small_cnn_computes_what_the_published_one_does() -> None:
    torch.manual_seed(0)
    published = modelzoos_cnn(nn.GELU())  # which falls before it rises: the order shows
    values = list(published.state_dict().values())
    images = 3 * torch.randn(5, 1, 28, 28)
    for pool_first in (True, False):
        config = replace(SMALL_CNN, activation="gelu", pool_first=pool_first)
        ours = build_network(config, (1, 28, 28), 10)
        ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)), strict=True)
        assert torch.allclose(ours(images), published(images), atol=1e-6) == pool_first


def test_older_designs_keep_the_names_of_their_parameters() -> None:
    """Checkpoints of zoos that exist name them so."""
    cnn = build_network(NetworkConfig(hidden=(3, 4)), (1, 8, 8), 10)
    kinds = ("weight", "bias")
    assert list(cnn.state_dict()) == [
        f"{layer}.{kind}" for layer in ("layers.0", "layers.1", "output") for kind in kinds
    ]
    resnet = NetworkConfig(kind="resnet", hidden=(3, 4), head="global")
    layers = ("stem", "stages.0.first", "stages.0.second", "stages.1.first", "stages.1.second")
    assert list(build_network(resnet, (1, 8, 8), 10).state_dict()) == [
        f"{layer}.{kind}" for layer in (*layers, "stages.1.shortcut", "output") for kind in kinds
    ]


def log_symmetries(*sizes: int) -> float:
    return sum(log10(factorial(size)) for size in sizes)


@pytest.mark.parametrize("head", ["flatten", "global", "token"])
def test_a_vit_s_heads_neurons_and_stream_are_units(head: str) -> None:
    config = NetworkConfig(
        kind="vit", hidden=(6, 5), stream_dim=12, num_heads=3, patch_size=4, head=head
    )
    graph = to_graph(build_network(config, (1, 8, 8), 10), torch.randn(2, 1, 8, 8), strict=True)
    assert {block.kind for block in graph.architecture.blocks} <= {"dense", "diagonal"}
    sizes = sorted(units.size for units in graph.architecture.units if not units.fixed)
    stream, heads, dims, neurons = [12], [3, 3], [12] * 4, [6, 5]
    assert sizes == sorted(stream + heads + dims + neurons)
    inside = [u.size for u in graph.architecture.units if u.parents]
    assert inside == dims
    # In each of 2 blocks: 3 heads, and in each head 4 dims of queries and keys and 4 of values.
    expected = log_symmetries(12, 6, 5, *[3, 3], *[4] * 3 * 4)
    assert log10_symmetries(graph.architecture) == pytest.approx(expected)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.label)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 13)], ids=str)
def test_every_design_runs_and_is_traced_without_opaque_parts(
    config: NetworkConfig, shape: tuple[int, int, int]
) -> None:
    module = build_network(config, shape, 7)
    images = torch.randn(2, *shape)
    assert module(images).shape == (2, 7)
    graph = to_graph(module.eval(), images, strict=True)
    assert all(block.kind != "opaque" for block in graph.architecture.blocks)
    assert any(not units.fixed for units in graph.architecture.units)
    loaded = ParameterGraph.from_state_dict(graph.architecture, module.state_dict())
    assert torch.equal(loaded.theta, graph.theta)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.label)
def test_dropout_changes_outputs_in_training_but_no_name_and_no_architecture(
    config: NetworkConfig,
) -> None:
    torch.manual_seed(0)
    module = build_network(config, (1, 8, 8), 10)
    dropped = build_network(replace(config, dropout=0.5), (1, 8, 8), 10)
    dropped.load_state_dict(module.state_dict(), strict=True)
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(module.train()(images), dropped.train()(images))
    dropped.load_state_dict(module.state_dict(), strict=True)  # batch norm has moved
    assert torch.equal(module.eval()(images), dropped.eval()(images))
    fingerprints = {to_graph(m, images).architecture.fingerprint for m in (module, dropped)}
    assert len(fingerprints) == 1


def test_activations_differ_in_what_they_compute() -> None:
    images = torch.randn(4, 1, 8, 8)
    outputs = []
    for activation in ACTIVATIONS:
        torch.manual_seed(0)
        config = NetworkConfig(hidden=(3,), activation=activation)
        outputs.append(build_network(config, (1, 8, 8), 10)(images))
    for i, output in enumerate(outputs):
        assert all(not torch.allclose(output, other) for other in outputs[:i])


def test_mapping_and_design_are_inverse_through_json() -> None:
    for config in CONFIGS:
        content = json.loads(json.dumps(config.to_mapping()))
        assert NetworkConfig.from_mapping(content) == config
    assert NetworkConfig.from_mapping({"kind": "mlp"}) == NetworkConfig(kind="mlp")
    with pytest.raises(ValueError, match="network has no key depth"):
        NetworkConfig.from_mapping({"depth": 3})


def test_a_column_holds_one_plain_value() -> None:
    for config in CONFIGS:
        columns = config.to_columns()
        assert set(columns) == set(vars(config))
        assert all(isinstance(v, str | int | float | bool | None) for v in columns.values())
    assert NetworkConfig(hidden=(8, 12)).to_columns()["hidden"] == "8-12"
    assert SMALL_CNN.to_columns()["kernel_sizes"] == "5-5-2"


def weights(scheme: str, seed: int, gain: float = 1.0) -> torch.Tensor:
    module = build_network(NetworkConfig(hidden=(8, 8)), (1, 8, 8), 10)
    initialise(module, scheme, gain=gain, std=0.3, seed=seed)
    return torch.cat([p.flatten() for p in module.parameters()]).detach()


@pytest.mark.parametrize("scheme", INIT_SCHEMES)
def test_initial_values_follow_from_the_seed_alone(scheme: str) -> None:
    first = weights(scheme, seed=1)
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    module = build_network(NetworkConfig(hidden=(8, 8)), (1, 8, 8), 10)
    torch.set_rng_state(state)
    initialise(module, scheme, gain=1.0, std=0.3, seed=1)
    assert torch.get_rng_state().equal(state)
    assert weights(scheme, seed=1).equal(first)
    assert not weights(scheme, seed=2).equal(first)
    assert weights(scheme, seed=1, gain=2.0).std() > 1.5 * first.std()


def test_a_vit_s_positions_and_class_token_follow_from_the_seed() -> None:
    module = build_network(
        NetworkConfig(kind="vit", hidden=(8,), head="token", patch_size=2), (1, 8, 8), 10
    )
    drawn = []
    for seed in (0, 0, 1):
        initialise(module, "orthogonal", seed=seed)
        drawn.append({name: value.clone() for name, value in module.state_dict().items()})
    for name in ("positions", "token", "blocks.0.qkv.weight"):
        assert drawn[0][name].equal(drawn[1][name])
        assert not drawn[0][name].equal(drawn[2][name])


def test_schemes_have_the_spread_that_their_names_promise() -> None:
    module = build_network(NetworkConfig(kind="mlp", hidden=(400,)), (1, 20, 20), 10)
    layer = next(module.children())[0].weight  # type: ignore[index]
    spreads = {}
    for scheme in INIT_SCHEMES:
        initialise(module, scheme, std=0.3, seed=0)
        spreads[scheme] = float(layer.detach().std())
    expected = {
        "default": (1 / 400 / 3) ** 0.5,
        "kaiming_normal": (2 / 400) ** 0.5,
        "kaiming_uniform": (2 / 400) ** 0.5,
        "xavier_normal": (2 / 800) ** 0.5,
        "xavier_uniform": (2 / 800) ** 0.5,
        "orthogonal": (1 / 400) ** 0.5,
        "normal": 0.3,
        "truncated_normal": 0.3 * 0.8796,  # without what lies beyond two deviations
        "uniform": (1 / 12) ** 0.5,
    }
    for scheme, spread in spreads.items():
        assert spread == pytest.approx(expected[scheme], rel=0.02), scheme


def test_a_truncated_normal_ends_at_two_deviations() -> None:
    module = build_network(NetworkConfig(kind="mlp", hidden=(400,)), (1, 20, 20), 10)
    layer = next(module.children())[0].weight  # type: ignore[index]
    for scheme, ends in (("truncated_normal", True), ("normal", False)):
        initialise(module, scheme, std=0.3, seed=0)
        assert (float(layer.detach().abs().max()) <= 0.6) == ends


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "rnn"}, "kind must be one of mlp, cnn, resnet, vit, got 'rnn'"),
        ({"activation": "swish"}, "activation must be one of relu, tanh"),
        ({"hidden": ()}, "hidden must hold positive widths"),
        ({"linear": (3, 0)}, "linear must hold positive widths"),
        ({"kernel_size": 4}, "kernel_size must be odd with padding=same"),
        ({"kernel_sizes": (3, 4)}, "kernel_sizes must be odd with padding=same"),
        ({"kernel_sizes": (3, 0), "padding": "valid"}, "kernel_sizes must be positive"),
        ({"kernel_sizes": (3,)}, "kernel_sizes has 1 entries for 2 layers of hidden"),
        ({"padding": "full"}, "padding must be one of same, valid"),
        ({"num_pooled": -1}, "num_pooled must not be negative"),
        ({"stride": 0}, "stride must be positive"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"kind": "resnet", "hidden": (3, 4), "projection": False}, "needs stages of one width"),
        ({"kind": "resnet", "padding": "valid"}, "needs padding=same and stride=1"),
        ({"kind": "cnn", "head": "token"}, "head=token needs a class token"),
        ({"kind": "vit", "num_heads": 5}, "num_heads must divide stream_dim, got 5 and 32"),
        ({"kind": "vit", "patch_size": 0}, "patch_size must be positive"),
        ({"kind": "vit", "batch_norm": True}, "a vit has layer norms"),
    ],
)
def test_impossible_designs_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**settings)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NetworkConfig(hidden=(3,) * 4), "halves an image 4 times; images of 8 pixels are too"),
        (
            NetworkConfig(hidden=(3, 3), kernel_size=5, padding="valid"),
            r"kernels=\[5, 5\], padding",
        ),
        (NetworkConfig(kind="vit", patch_size=3), "patch_size=3 does not divide images of 8 x 8"),
    ],
)
def test_a_design_that_does_not_suit_the_images_is_an_error(
    config: NetworkConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(config, (1, 8, 8), 10)
    build_network(config, (1, 24, 24), 10)


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"init must be one of default, .*, got 'lecun'"):
        initialise(torch.nn.Linear(2, 2), "lecun", seed=0)
