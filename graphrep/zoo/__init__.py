"""Zoos: populations of trained networks, made from a config and kept in a folder."""

from .config import (
    Member as Member,
    Range as Range,
    SearchSpace as SearchSpace,
    ZooConfig as ZooConfig,
    draw_member as draw_member,
)
from .create import create_zoo as create_zoo
from .images import Images as Images, load_images as load_images, raw_test_images as raw_test_images
from .initialisation import initialise as initialise
from .networks import NetworkConfig as NetworkConfig, build_network as build_network
from .store import Group as Group, Zoo as Zoo
from .train import (
    Checkpoint as Checkpoint,
    evaluate as evaluate,
    train_member as train_member,
    train_steps as train_steps,
)
