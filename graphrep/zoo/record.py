"""One model on its way into a zoo: what makers and importers hand to the store.

Letters in shapes: C checkpoints of the model, P length of theta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..architecture import Architecture
from ..graph import ParameterGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One model with its checkpoints, in the order of their epochs.

    Every value of `rows` and `properties` is plain (str, int, float, bool or
    None for missing). Their keys become columns of the zoo's properties; the
    field's common ones: epoch, train_accuracy, train_loss, test_accuracy,
    test_loss, generalisation_gap (train minus test accuracy), diverged (some
    value is not finite).
    """

    name: str  # unique in the zoo; for an import, where the model stood in its source
    architecture: Architecture
    theta: Tensor  # [C, P]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # each [C, ...]
    rows: Sequence[Mapping[str, Any]]  # of each checkpoint, C of them
    properties: Mapping[str, Any] = field(default_factory=dict)  # of the model
    design: Mapping[str, Any] | None = None  # what `graphrep.zoo.kinds.build_design` builds
    split: str | None = None  # train, validation or test where the source fixes it

    def __post_init__(self) -> None:
        expected = (len(self.rows), self.architecture.num_parameters)
        if tuple(self.theta.shape) != expected:
            raise ValueError(
                f"{self.name}: theta has shape {tuple(self.theta.shape)}, but {expected[0]} "
                f"checkpoints of '{self.architecture.name}' need {expected}"
            )

    @classmethod
    def from_state_dicts(
        cls,
        name: str,
        architecture: Architecture,
        state_dicts: Sequence[Mapping[str, Tensor]],
        rows: Sequence[Mapping[str, Any]],
        **others: Any,
    ) -> Record:
        """A record of checkpoints, all of one architecture.

        Raises:
            ValueError: a state dict does not fit the architecture; differences are listed.
        """
        graphs = [ParameterGraph.from_state_dict(architecture, s) for s in state_dicts]
        return cls(
            name=name,
            architecture=architecture,
            theta=torch.stack([graph.theta for graph in graphs]),
            buffers={
                key: torch.stack([graph.buffers[key] for graph in graphs])
                for key in graphs[0].buffers
            },
            rows=rows,
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A member of a foreign zoo that could not be taken, and why."""

    name: str  # where it stands in its source
    reason: str
