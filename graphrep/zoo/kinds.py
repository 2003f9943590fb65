"""The kinds of zoos that graphrep makes: which recipe, which workshop, which modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .classifiers.config import ClassifierRecipe
from .classifiers.networks import NetworkConfig, build_network
from .classifiers.workshop import ClassifierWorkshop
from .images import Images, load_images
from .implicit.recipe import SirenRecipe
from .implicit.siren import build_siren
from .implicit.workshop import SirenWorkshop
from .policies.networks import PolicyConfig, PolicyNetwork
from .policies.rebuilt import RebuiltConfig, rebuild
from .policies.recipe import PolicyRecipe
from .policies.train import require_packages
from .policies.workshop import PolicyWorkshop
from .recipe import Recipe, Workshop, check_choice

RECIPES: dict[str, type[Recipe]] = {
    recipe.kind: recipe for recipe in (ClassifierRecipe, SirenRecipe, PolicyRecipe)
}


def parse_recipe(content: Mapping[str, Any]) -> Recipe:
    """The recipe that a mapping of conf/zoo or zoo.json describes, by its `kind`.

    Raises:
        ValueError: an unknown kind or key, a wrong type, a value out of range.
    """
    kind = content.get("kind", ClassifierRecipe.kind)
    check_choice("zoo.kind", kind, RECIPES)
    return RECIPES[kind].from_mapping(content)


def load_images_of(recipe: Recipe) -> Images:
    """The images that a recipe's networks are trained on.

    Raises:
        ValueError: they cannot be read, or the networks see none.
    """
    match recipe:
        case ClassifierRecipe():
            return load_images(
                recipe.images, train_limit=recipe.train_limit, test_limit=recipe.test_limit
            )
        case SirenRecipe():
            return load_images(recipe.images)
        case _:
            raise ValueError(f"zoo '{recipe.name}': its networks are not trained on images")


def prepare(recipe: Recipe) -> Images | None:
    """What all workers of a recipe share and mistakes in it that show only now.

    Raises:
        ValueError: the images cannot be read, or a network does not suit them.
    """
    match recipe:
        case ClassifierRecipe():
            if recipe.device == "cuda" and not torch.cuda.is_available():
                raise ValueError("zoo.device is cuda, but torch finds no GPU; set zoo.device=cpu")
            images = load_images_of(recipe)
            for network in recipe.demanding_networks:  # a misfit should fail before hours
                build_network(network, images.input_shape, images.num_classes)
            return images
        case SirenRecipe():
            images = load_images_of(recipe)
            recipe.image_order(len(getattr(images, f"{recipe.part}_labels")))
            return images
        case PolicyRecipe():
            require_packages()
            return None
        case _:
            raise AssertionError(recipe)


def open_workshop(recipe: Recipe, images: Images | None) -> Workshop:
    """What makes a recipe's models, from what `prepare` gave."""
    match recipe:
        case ClassifierRecipe():
            assert images is not None
            return ClassifierWorkshop(recipe, images)
        case SirenRecipe():
            assert images is not None
            return SirenWorkshop(recipe, images)
        case PolicyRecipe():
            return PolicyWorkshop(recipe)
        case _:
            raise AssertionError(recipe)


def build_design(design: Mapping[str, Any]) -> nn.Module:
    """The module of a `Record.design`, with values yet to be loaded.

    Raises:
        ValueError: an unknown kind of design.
    """
    match design.get("kind"):
        case "classifier":
            channels, height, width = design["input_shape"]
            network = NetworkConfig.from_mapping(design["network"])
            return build_network(network, (channels, height, width), design["num_classes"])
        case "modelzoos":
            from .formats import modelzoos

            return modelzoos.build(design)
        case "unterthiner":
            from .formats import unterthiner

            return unterthiner.build(design)
        case "siren":
            return build_siren(design)
        case "policy":
            return PolicyNetwork(PolicyConfig.from_mapping(design["network"]))
        case "stable_baselines":
            return rebuild(RebuiltConfig.from_mapping(design["policy"]))
        case kind:
            raise ValueError(f"no design of the kind '{kind}' is known to this graphrep")
