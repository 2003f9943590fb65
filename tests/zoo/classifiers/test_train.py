"""Training and judging: optimisers, determinism, evaluation."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphrep.zoo import (
    Images,
    NetworkConfig,
    build_network,
    draw_member,
    evaluate,
    load_images,
    train_member,
    train_steps,
)
from graphrep.zoo.classifiers.optimisers import OPTIMISERS, build_optimiser
from graphrep.zoo.classifiers.train import own_train_rows
from tests.zoo.tiny import tiny_config

NETWORK = NetworkConfig(kind="resnet", hidden=(3, 4), batch_norm=True, head="global")


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", train_limit=300, test_limit=100)


def new_module() -> nn.Module:
    """Without batch norm: the gradient of a bias before it is rounding, which Adam scales up."""
    torch.manual_seed(0)
    return build_network(replace(NETWORK, batch_norm=False), (2, 8, 8), 10).double()


@torch.no_grad()
def distance(module: nn.Module, other: nn.Module) -> float:
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    return max(float((p - q).abs().max()) for p, q in pairs)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_settings_reach_torch_s_optimiser(name: str) -> None:
    built = build_optimiser(new_module(), name, 0.02, weight_decay=0.01, momentum=0.9)
    assert type(built).__name__.lower() == name
    (group,) = built.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.01)
    assert group["momentum"] == 0.9 if name == "sgd" else not group.get("momentum")


@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_in_another_memory_format_takes_the_same_steps(name: str, images: Images) -> None:
    """The channels-last copy that is trained against a plain loop, in float64."""
    wide = replace(images, train_images=images.train_images.double())
    ours = build_network(NETWORK, images.input_shape, 10).double()
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    train_steps(
        ours, wide, optimiser=name, learning_rate=0.01, num_steps=1, batch_size=10**6, seed=0
    )
    plain = build_optimiser(theirs, name, 0.01)
    F.cross_entropy(theirs(wide.train_images), wide.train_labels).backward()
    plain.step()
    assert distance(ours, theirs) < 1e-7  # rmsprop divides by roots of tiny squares
    assert distance(ours, start) > 1e-4


def test_parameters_own_their_memory_after_training(images: Images) -> None:
    module = build_network(NETWORK, images.input_shape, 10)
    train_steps(
        module, images, optimiser="adam", learning_rate=0.01, num_steps=2, batch_size=8, seed=0
    )
    for parameter in module.parameters():
        assert parameter.is_contiguous() and parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4


def test_an_unknown_optimiser_is_an_error_that_lists_the_known(images: Images) -> None:
    with pytest.raises(ValueError, match="adam, adamw, sgd, rmsprop, got 'lion'"):
        build_optimiser(nn.Linear(2, 2), "lion", 0.1)


def test_a_member_is_the_same_bits_whatever_happened_before(images: Images) -> None:
    member = draw_member(tiny_config(), 0)
    first = train_member(member, images, (2,))[0].state_dict
    torch.manual_seed(99)
    torch.randn(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    second = train_member(member, images, (1, 2))[1].state_dict
    assert torch.get_num_threads() == 2
    assert torch.get_rng_state().equal(state)  # nor does it disturb what follows
    torch.set_num_threads(threads)
    other = train_member(replace(member, seed=member.seed + 7), images, (2,))[0].state_dict
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_a_member_sees_its_own_part_of_the_train_images(images: Images) -> None:
    member = replace(draw_member(tiny_config(), 0), train_fraction=0.25)
    rows = own_train_rows(member, images)
    assert len(rows) == 75 == len(rows.unique())
    other = own_train_rows(replace(member, seed=member.seed + 1), images)
    assert not rows.equal(other)
    assert len(own_train_rows(replace(member, train_fraction=1e-9), images)) == 1


def test_evaluate_is_the_mean_over_images_in_evaluation_mode(images: Images) -> None:
    module = build_network(replace(NETWORK, dropout=0.5), images.input_shape, 10)
    with torch.no_grad():
        module(images.train_images)  # so that statistics differ from those of a batch
    module.train()
    accuracy, loss = evaluate(module, images.test_images, images.test_labels, batch_size=7)
    assert module.training
    module.eval()
    with torch.no_grad():
        logits = module(images.test_images)
    assert accuracy == float((logits.argmax(1) == images.test_labels).double().mean())
    assert loss == pytest.approx(float(F.cross_entropy(logits, images.test_labels)), rel=1e-5)
    module.train()
    with torch.no_grad():
        batch = module(images.test_images)
    assert loss != pytest.approx(float(F.cross_entropy(batch, images.test_labels)), rel=1e-3)


def test_more_steps_make_a_better_network(images: Images) -> None:
    losses = []
    for num_steps in (0, 20, 100):
        torch.manual_seed(0)
        module = build_network(NetworkConfig(kind="mlp", hidden=(16,)), images.input_shape, 10)
        module.eval()
        train_steps(
            module,
            images,
            optimiser="adam",
            learning_rate=0.01,
            num_steps=num_steps,
            batch_size=32,
            seed=0,
        )
        assert not module.training
        losses.append(evaluate(module, images.train_images, images.train_labels)[1])
    assert losses[0] > 1.5 * losses[1] > 1.5 * losses[2]


def test_a_single_last_image_does_not_break_batch_norm(images: Images) -> None:
    member = replace(
        draw_member(tiny_config(), 0),
        network=NetworkConfig(kind="mlp", hidden=(4,), batch_norm=True),
        train_fraction=33 / 300,
        batch_size=32,
    )
    assert len(own_train_rows(member, images)) == 33
    assert train_member(member, images, (1,))[0].diverged is False
