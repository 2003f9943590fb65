"""Zoos: populations of trained networks, made from a recipe or imported, kept in a folder."""

from .classifiers.config import (
    ClassifierRecipe as ClassifierRecipe,
    Member as Member,
    Range as Range,
    SearchSpace as SearchSpace,
    draw_member as draw_member,
)
from .classifiers.initialisation import initialise as initialise
from .classifiers.networks import NetworkConfig as NetworkConfig, build_network as build_network
from .classifiers.train import (
    Checkpoint as Checkpoint,
    evaluate as evaluate,
    train_member as train_member,
    train_steps as train_steps,
)
from .create import create_zoo as create_zoo
from .images import Images as Images, load_images as load_images, raw_test_images as raw_test_images
from .kinds import build_design as build_design, parse_recipe as parse_recipe
from .recipe import Recipe as Recipe
from .record import Record as Record, Skipped as Skipped
from .store.writer import ZooWriter as ZooWriter, append_to as append_to
from .store.zoo import Graphs as Graphs, Group as Group, Theta as Theta, Zoo as Zoo
