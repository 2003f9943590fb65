"""Stacked training: each member becomes what it becomes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphrep.zoo.classifiers.config import Member
from graphrep.zoo.classifiers.networks import NetworkConfig
from graphrep.zoo.classifiers.optimisers import OPTIMISERS
from graphrep.zoo.classifiers.stacked import (
    _on_device,
    _Stack,
    can_stack,
    train_members_stacked,
)
from graphrep.zoo.classifiers.stacked_operations import _max_pool
from graphrep.zoo.classifiers.stacked_optimisers import StackedOptimiser
from graphrep.zoo.classifiers.train import Checkpoint, own_train_rows, train_member
from graphrep.zoo.images import Images, load_images

EPOCHS = (0, 1, 3)
MLP = NetworkConfig(kind="mlp", hidden=(7, 5))
CNN = NetworkConfig(kind="cnn", hidden=(4, 3))
VIT = NetworkConfig(kind="vit", hidden=(8,), stream_dim=8, num_heads=2, head="token")
DESIGNS = {
    "mlp": MLP,
    "cnn": CNN,
    "smooth cnn, averages": replace(CNN, activation="gelu", pooling="avg", head="global"),
    "cnn with odd sizes and a hidden linear layer": replace(
        CNN, padding="valid", kernel_sizes=(2, 3), pool_first=True, num_pooled=1, linear=(6,)
    ),
    "cnn with strides": replace(CNN, stride=2, pooling="none", activation="tanh"),
    "cnn of one channel": replace(CNN, hidden=(1, 2)),
    "cnn, batch norm": replace(CNN, batch_norm=True, bias=False),
    "mlp, batch norm": replace(MLP, batch_norm=True, bias=False),
    "resnet": NetworkConfig(kind="resnet", hidden=(3, 4), head="global"),
    "resnet, batch norm": NetworkConfig(
        kind="resnet", hidden=(3, 4), batch_norm=True, bias=False, head="global"
    ),
}


@pytest.fixture(scope="module")
def images() -> Images:
    """In float64, where rounding stays far below what a mistake would change."""
    images = load_images("digits", train_limit=100, test_limit=50)
    return replace(
        images,
        train_images=images.train_images.double(),
        test_images=images.test_images.double(),
    )


def member(index: int = 0, **changes: object) -> Member:
    """One of a row of members that differ in every number that may differ in a stack."""
    settings: dict[str, object] = {
        "index": index,
        "seed": 1000 + index,
        "network": CNN,
        "optimiser": OPTIMISERS[index % 4],
        "learning_rate": 0.002 * (index + 1),
        "momentum": 0.9 if index % 4 == 2 else 0.0,
        "weight_decay": 0.01 / (index + 1),
        "batch_size": 16,
        "train_fraction": (1.0, 0.33, 0.16, 0.65, 0.01)[index % 5],  # 100, 33, 16, 65, 1 images
        "label_smoothing": 0.1 * (index % 3),
        "init": ("default", "kaiming_normal", "orthogonal")[index % 3],
        "init_gain": 1.0,
        "init_std": 0.1,
    }
    return Member(**{**settings, **changes})  # type: ignore[arg-type]


def largest_difference(
    ours: Sequence[Sequence[Checkpoint]], theirs: Sequence[Sequence[Checkpoint]]
) -> float:
    """Over all values and all metrics of all checkpoints."""
    differences = [0.0]
    for found, expected in zip(ours, theirs, strict=True):
        for one, other in zip(found, expected, strict=True):
            assert (one.epoch, one.diverged) == (other.epoch, other.diverged)
            assert list(one.state_dict) == list(other.state_dict)
            for name, value in one.state_dict.items():
                assert value.dtype == other.state_dict[name].dtype
                differences.append(float((value - other.state_dict[name]).abs().max()))
            for metric in ("train_accuracy", "train_loss", "test_accuracy", "test_loss"):
                differences.append(abs(getattr(one, metric) - getattr(other, metric)))
    return max(differences)


def alone(members: Sequence[Member], images: Images) -> list[list[Checkpoint]]:
    return [train_member(each, images, EPOCHS) for each in members]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_each_optimiser_takes_the_steps_of_torch_s_own(optimiser: str, images: Images) -> None:
    members = [member(i, optimiser=optimiser, momentum=0.5 * (i % 2)) for i in range(5)]
    stacked = train_members_stacked(members, images, EPOCHS)
    assert largest_difference(stacked, alone(members, images)) < 1e-9


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_members_of_any_design_become_what_they_become_alone(
    design: NetworkConfig, images: Images
) -> None:
    """All optimisers in one stack, with dropout, short batches and single last images."""
    members = [
        member(i, network=replace(design, dropout=0.1 * (i % 3)))
        for i in range(9)
        if not (design.batch_norm and i % 5 == 4)  # which sees a single image
    ]
    stacked = train_members_stacked(members, images, EPOCHS)
    assert largest_difference(stacked, alone(members, images)) < 1e-9


def test_a_bias_before_batch_norm_changes_nothing_that_is_computed(images: Images) -> None:
    """Its gradient is rounding alone, which adaptive optimisers scale up; sgd does not."""
    design = replace(CNN, batch_norm=True)
    members = [member(i, network=design, optimiser="sgd") for i in range(4)]
    stacked = train_members_stacked(members, images, EPOCHS)
    assert largest_difference(stacked, alone(members, images)) < 1e-9
    members = [replace(each, optimiser="adam") for each in members]
    for ours, theirs in zip(
        train_members_stacked(members, images, EPOCHS), alone(members, images), strict=True
    ):
        assert (
            float(
                (ours[-1].state_dict["output.weight"] - theirs[-1].state_dict["output.weight"])
                .abs()
                .max()
            )
            < 1e-9
        )


def test_what_a_member_becomes_does_depend_on_its_settings(images: Images) -> None:
    """The control: each number that a stack holds for a member reaches that member alone."""
    members = [member(i, network=replace(CNN, dropout=0.1)) for i in range(5)]
    before = train_members_stacked(members, images, EPOCHS)
    for place, name, value in (
        (0, "seed", 5),
        (1, "learning_rate", 0.01),
        (2, "momentum", 0.1),
        (3, "weight_decay", 0.1),
        (0, "train_fraction", 0.5),
        (1, "label_smoothing", 0.3),
        (2, "network", replace(CNN, dropout=0.2)),
    ):
        changed = list(members)
        changed[place] = replace(members[place], **{name: value})  # type: ignore[arg-type]
        after = train_members_stacked(changed, images, EPOCHS)
        for i in range(5):
            difference = largest_difference([after[i]], [before[i]])
            assert difference > 1e-4 if i == place else difference < 1e-9, (name, i)


def test_a_member_does_not_depend_on_who_is_trained_beside_it(images: Images) -> None:
    members = [member(i, network=replace(CNN, dropout=0.1)) for i in range(7)]
    members[3:3] = [member(8, network=MLP), member(9, batch_size=7)]  # stacks of their own
    together = train_members_stacked(members, images, EPOCHS)
    assert [len(kept) for kept in together] == [len(EPOCHS)] * len(members)
    backwards = train_members_stacked(members[::-1], images, EPOCHS)[::-1]
    assert largest_difference(together, backwards) < 1e-9
    by_two = train_members_stacked(members, images, EPOCHS, stack_size=2)
    assert largest_difference(together, by_two) < 1e-9
    assert largest_difference(together[:1], together[1:2]) > 1e-3


def test_the_same_call_gives_the_same_bits_and_disturbs_nobody(images: Images) -> None:
    members = [member(i, network=replace(CNN, dropout=0.1)) for i in range(5)]
    first = train_members_stacked(members, images, EPOCHS)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = train_members_stacked(members, images, EPOCHS)
    assert torch.get_num_threads() == 2
    assert torch.get_rng_state().equal(state)
    torch.set_num_threads(threads)
    assert largest_difference(first, second) == 0


def test_members_that_cannot_be_stacked_are_trained_one_by_one(images: Images) -> None:
    single = member(4, network=replace(MLP, batch_norm=True), train_fraction=0.02)
    members = [member(0), member(1, network=VIT), single]
    assert [can_stack(each, images) for each in members] == [True, False, True]
    assert len(own_train_rows(single, images)) == 2
    assert not can_stack(replace(single, train_fraction=0.01), images)
    assert not can_stack(replace(single, batch_size=1), images)
    stacked = train_members_stacked(members, images, EPOCHS)
    assert largest_difference(stacked[1:2], alone(members[1:2], images)) == 0


def test_a_member_that_diverges_leaves_the_others_alone(images: Images) -> None:
    members = [member(i, optimiser="sgd") for i in range(4)]
    members[1] = replace(members[1], learning_rate=1e200)
    stacked = train_members_stacked(members, images, EPOCHS)
    assert [kept[-1].diverged for kept in stacked] == [False, True, False, False]
    others = [0, 2, 3]
    expected = alone([members[i] for i in others], images)
    assert largest_difference([stacked[i] for i in others], expected) < 1e-9


@pytest.mark.parametrize("design", [CNN, DESIGNS["resnet, batch norm"]], ids=["cnn", "resnet"])
def test_an_epoch_stays_on_its_device_and_reads_nothing_back(
    design: NetworkConfig, images: Images
) -> None:
    """Tensors on `meta` have no values: reading one raises, and so does mixing devices."""
    members = [member(i, network=replace(design, dropout=0.1)) for i in range(3)]
    members.sort(key=lambda each: -each.train_fraction)
    stack = _Stack(members, images, _on_device(images, torch.device("meta")))
    stack._train_epoch(1, stack.rows)
    assert stack.theta.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta tensor"):
        stack._judge(1)  # which does read


def test_sgd_keeps_gradients_whose_squares_overflow() -> None:
    theta = torch.zeros(2, 3)
    optimiser = StackedOptimiser([member(2), member(0)], theta)
    optimiser.plan([0, 0], 1)
    gradient = torch.tensor([[1e30, -1e30, 0.0]])
    optimiser.step(theta[:1], gradient.clone(), 0)
    assert theta[0].equal(-member(2).learning_rate * gradient[0])
    assert not theta[1].any()  # which had no step


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_of_equal_values_in_a_window_the_first_has_the_gradient(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(3, (6, 8, *size), generator=generator).double().requires_grad_()
    pooled = F.max_pool2d(x, 2)
    direction = torch.rand(pooled.shape, generator=generator, dtype=torch.float64)

    def gradient(y: Tensor) -> Tensor:
        return torch.autograd.grad((y * direction).sum(), x)[0]

    plain = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
    ours = _max_pool(x, 2, **plain)
    expected = gradient(pooled)
    assert ours.equal(pooled)
    assert gradient(ours).equal(expected)
    shared = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))  # gives each of equals its part
    assert shared.equal(pooled)
    assert not gradient(shared).equal(expected)
