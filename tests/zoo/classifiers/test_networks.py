"""The networks of zoos: shapes, state dicts, initial values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphrep import to_graph
from graphrep.zoo import NetworkConfig, build_network, initialise
from graphrep.zoo.initialisation import INIT_SCHEMES
from graphrep.zoo.networks import ACTIVATIONS

CONFIGS = [
    NetworkConfig(kind="mlp", hidden=(6, 5), batch_norm=True),
    NetworkConfig(kind="mlp", hidden=(6,), bias=False),
    NetworkConfig(kind="cnn", hidden=(3, 4)),
    NetworkConfig(kind="cnn", hidden=(3, 4), kernel_size=5, pooling="avg", head="global"),
    NetworkConfig(kind="cnn", hidden=(3,), pooling="none", bias=False, batch_norm=True),
    NetworkConfig(kind="resnet", hidden=(3, 4), batch_norm=True, head="global"),
    NetworkConfig(kind="resnet", hidden=(3, 3), projection=False),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.label)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 13)], ids=str)
def test_every_design_runs_and_is_traced_without_opaque_parts(
    config: NetworkConfig, shape: tuple[int, int, int]
) -> None:
    module = build_network(config, shape, 7)
    images = torch.randn(2, *shape)
    assert module(images).shape == (2, 7)
    graph = to_graph(module.eval(), images)
    assert all(block.kind != "opaque" for block in graph.architecture.blocks)
    assert any(not units.fixed for units in graph.architecture.units)


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


def test_columns_and_config_are_inverse() -> None:
    for config in CONFIGS:
        assert NetworkConfig.from_columns({**config.to_columns(), "epoch": 3}) == config
    assert NetworkConfig(hidden=(8, 12)).to_columns()["hidden"] == "8-12"


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
    }
    for scheme, spread in spreads.items():
        assert spread == pytest.approx(expected[scheme], rel=0.02), scheme


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "vit"}, "kind must be one of mlp, cnn, resnet, got 'vit'"),
        ({"activation": "swish"}, "activation must be one of relu, tanh"),
        ({"hidden": ()}, "hidden must hold positive widths"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"kind": "resnet", "hidden": (3, 4), "projection": False}, "needs stages of one width"),
    ],
)
def test_impossible_designs_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**settings)


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"init must be one of default, .*, got 'lecun'"):
        initialise(torch.nn.Linear(2, 2), "lecun", seed=0)
