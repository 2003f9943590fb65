"""Classifiers of a recipe as records: drawn, trained, traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...architecture import Architecture
from ...graph import to_graph
from ..images import Images
from ..record import Record
from .config import ClassifierRecipe, Member, draw_member
from .networks import NetworkConfig, build_network
from .stacked import train_members_stacked
from .train import Checkpoint, single_thread, train_member


class ClassifierWorkshop:
    """Trains the members of one recipe, one after another or many at once."""

    def __init__(self, recipe: ClassifierRecipe, images: Images) -> None:
        self.recipe = recipe
        self.images = images
        self._architectures: dict[NetworkConfig, Architecture] = {}

    def make(self, indices: Sequence[int]) -> list[Record]:
        """The members of these indices; see `graphrep.zoo.recipe.Workshop`."""
        members = [draw_member(self.recipe, index) for index in indices]
        epochs = self.recipe.kept_epochs
        if self.recipe.stack:
            trained = train_members_stacked(members, self.images, epochs, device=self.recipe.device)
        else:
            trained = [self._train(member) for member in members]
        return [self._record(m, c) for m, c in zip(members, trained, strict=True)]

    def _train(self, member: Member) -> list[Checkpoint]:
        try:
            return train_member(member, self.images, self.recipe.kept_epochs)
        except Exception as error:
            settings = ", ".join(f"{k}={v}" for k, v in member.to_columns().items())
            raise RuntimeError(
                f"{type(error).__name__}: {error}\n  its hyper-parameters: {settings}"
            ) from error

    def _record(self, member: Member, checkpoints: list[Checkpoint]) -> Record:
        design = replace(member.network, dropout=0.0)  # which holds no weights
        return Record.from_state_dicts(
            f"{self.recipe.name}-{member.index:06d}",
            self._architecture(design),
            [checkpoint.state_dict for checkpoint in checkpoints],
            [_metrics(checkpoint) for checkpoint in checkpoints],
            properties=member.to_columns(),
            design={
                "kind": self.recipe.kind,
                "input_shape": list(self.images.input_shape),
                "num_classes": self.images.num_classes,
                "network": design.to_mapping(),
            },
        )

    def _architecture(self, design: NetworkConfig) -> Architecture:
        """Traced once for each design."""
        if design not in self._architectures:
            with torch.random.fork_rng(devices=[]), single_thread():
                torch.manual_seed(0)
                module = build_network(design, self.images.input_shape, self.images.num_classes)
                graph = to_graph(module, self.images.test_images[:2], name=design.label)
            self._architectures[design] = graph.architecture
        return self._architectures[design]


def _metrics(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "epoch": checkpoint.epoch,
        "train_accuracy": checkpoint.train_accuracy,
        "train_loss": checkpoint.train_loss,
        "test_accuracy": checkpoint.test_accuracy,
        "test_loss": checkpoint.test_loss,
        "generalisation_gap": checkpoint.generalisation_gap,
        "diverged": checkpoint.diverged,
    }
