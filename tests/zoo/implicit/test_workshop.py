"""Zoos of SIRENs: what a recipe decides, and what its records say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import graphrep
from graphrep.config import compose
from graphrep.zoo.images import Images, load_images, raw_test_images
from graphrep.zoo.implicit.fit import SLICE
from graphrep.zoo.implicit.recipe import SirenRecipe
from graphrep.zoo.implicit.siren import build_siren, render
from graphrep.zoo.implicit.workshop import SirenWorkshop
from graphrep.zoo.record import Record

RECIPE = SirenRecipe(
    name="tiny", images="digits", num_models=40, steps=100, checkpoints=(0, 20), hidden=(16, 16)
)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits")


def make(images: Images, *indices: int, **changes: Any) -> list[Record]:
    return SirenWorkshop(replace(RECIPE, **changes), images).make(indices)


def rendered(record: Record, checkpoint: int) -> Tensor:
    assert record.design is not None
    graph = graphrep.ParameterGraph(record.architecture, record.theta[checkpoint])
    return render(graph.load_into(build_siren(record.design)), 8, 8)


def test_a_record_holds_the_network_of_its_image(images: Images) -> None:
    workshop = SirenWorkshop(RECIPE, images)
    for record in workshop.make((0, 1, 2)):
        image = record.properties["image"]
        assert record.properties["label"] == int(images.train_labels[image])
        wanted = workshop.brightness(torch.tensor([image]))[0]
        errors = [float((rendered(record, k) - wanted).square().mean()) for k in range(3)]
        for row, step, error in zip(record.rows, (0, 20, 100), errors, strict=True):
            assert row["step"] == row["epoch"] == step
            assert row["mse"] == pytest.approx(error, rel=1e-3)
            assert row["psnr"] == pytest.approx(-10 * math.log10(error), abs=0.01)
            assert row["diverged"] is False
        assert errors[0] > 0.05 > 0.005 > errors[2]  # untrained, fitted
        other = workshop.brightness((torch.tensor([image]) + 1) % 1000)[0]
        assert (rendered(record, 2) - other).square().mean() > 0.05


def test_brightness_is_that_of_the_published_pixels(images: Images) -> None:
    workshop = SirenWorkshop(replace(RECIPE, part="test"), images)
    raw, _ = raw_test_images("digits")
    torch.testing.assert_close(workshop.brightness(torch.arange(50)), raw[:50] / 16)
    assert not images.test_images[:50].allclose(raw[:50] / 16)


def test_members_start_apart_or_from_one_start(images: Images) -> None:
    apart, together = (make(images, 0, 1, shared_start=shared) for shared in (False, True))
    assert together[0].theta[0].equal(together[1].theta[0])
    assert not together[0].theta[-1].equal(together[1].theta[-1])
    assert not apart[0].theta[0].equal(apart[1].theta[0])
    assert [r.properties["image"] for r in apart] == [r.properties["image"] for r in together]


def test_a_member_depends_on_the_recipe_and_its_index_alone(images: Images) -> None:
    """The same bits in another chunk, after other work, with several threads about."""
    assert SirenRecipe(name="x", images="digits").chunk % SLICE == 0
    among = make(images, *range(32, 40))
    torch.manual_seed(9)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    (alone,) = make(images, 32)
    assert torch.get_num_threads() == 2
    assert torch.get_rng_state().equal(state)
    torch.set_num_threads(threads)
    assert alone.name == among[0].name == "tiny-000032"
    assert alone.theta.equal(among[0].theta)
    assert alone.rows == among[0].rows
    assert alone.properties == among[0].properties
    (other,) = make(images, 32, seed=1)
    assert not alone.theta.equal(other.theta)


def test_no_image_is_fitted_twice(images: Images) -> None:
    order = RECIPE.image_order(1000)
    assert len(order) == 40 == len(order.unique())
    assert order.equal(replace(RECIPE, num_models=900).image_order(1000)[:40])
    assert not order.equal(replace(RECIPE, seed=1).image_order(1000))
    assert not order.equal(torch.arange(40))
    with pytest.raises(
        ValueError, match=r"num_models is 4000.* test part of digits has .* at most"
    ):
        SirenWorkshop(replace(RECIPE, part="test", num_models=4000), images)


def test_a_member_whose_values_are_not_finite_is_flagged(images: Images) -> None:
    (record,) = make(images, 0, learning_rate=1e38)
    assert [row["diverged"] for row in record.rows] == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "imagenet"}, "images must be one of digits"),
        ({"part": "validation"}, "part must be one of train, test"),
        ({"hidden": ()}, "hidden must hold positive widths"),
        ({"hidden": (8, 0)}, "hidden must hold positive widths"),
        ({"omega": 0.0}, "omega must be positive, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"steps": 0, "checkpoints": ()}, "steps must be positive"),
        ({"checkpoints": (10, 500)}, r"checkpoints \[500\] lie outside of steps 0 to 100"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_followed_is_an_error(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


def test_a_recipe_survives_its_mapping() -> None:
    mapping = RECIPE.identity()
    assert SirenRecipe.from_mapping(mapping) == RECIPE
    with pytest.raises(ValueError, match="no key omegas"):
        SirenRecipe.from_mapping({**mapping, "omegas": 1.0})


@pytest.mark.parametrize("images", ["mnist", "fashion"])
@pytest.mark.parametrize("start", ["", "_shared"])
@pytest.mark.parametrize("size", ["", "_small"])
def test_the_files_in_conf_are_recipes(images: str, start: str, size: str) -> None:
    name = f"{images}_inr{start}{size}"
    recipe = SirenRecipe.from_mapping(compose([f"zoo={name}"])["zoo"])
    assert recipe.name == name
    assert recipe.images.startswith(images)
    assert recipe.shared_start == bool(start)
    assert (recipe.num_models == 60000) == (size == "")
