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
from .choices import check_choice

SPLITS = ("train", "validation", "test")
OURS = ("model", "name", "architecture", "split", "design", "content_hash")  # columns of the store


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One model with its checkpoints, in the order of their epochs.

    Every value of `rows` and `properties` is plain (str, int, float, bool or
    None for missing). Their keys become columns of the zoo's properties, except
    those of `OURS`, which the store gives; where both have a key, the row's counts.
    The field's common ones: epoch, train_accuracy, train_loss, test_accuracy,
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
        if not self.rows:
            raise ValueError(f"{self.name}: has no checkpoint")
        if self.split is not None:
            check_choice(f"{self.name}: split", self.split, SPLITS)
        names = {*self.properties, *(key for row in self.rows for key in row)}
        if taken := sorted(names & {*OURS}):
            raise ValueError(
                f"{self.name}: has a property '{taken[0]}', a name that the store gives itself "
                f"({', '.join(OURS)}). Call it otherwise"
            )
        expected = (len(self.rows), self.architecture.num_parameters)
        if tuple(self.theta.shape) != expected:
            raise ValueError(
                f"{self.name}: theta has shape {tuple(self.theta.shape)}, but {expected[0]} "
                f"checkpoints of '{self.architecture.name}' need {expected}"
            )
        if self.theta.dtype != self.architecture.dtype:
            raise ValueError(
                f"{self.name}: theta is {self.theta.dtype}, but '{self.architecture.name}' has "
                f"{self.architecture.dtype}. Convert it, or trace a module of that type"
            )
        object.__setattr__(self, "buffers", self._all_buffers())

    def _all_buffers(self) -> dict[str, Tensor]:
        """The architecture's buffers, those that are not given as zeros."""
        specs = {
            spec.name: spec
            for spec in self.architecture.tensors
            if spec.offset is None and spec.tied_to is None
        }
        if unknown := sorted(set(self.buffers) - set(specs)):
            raise ValueError(
                f"{self.name}: has a buffer '{unknown[0]}', but '{self.architecture.name}' has "
                f"{', '.join(specs) or 'none'}"
            )
        found = {}
        for name, spec in specs.items():
            shape = (len(self.rows), *spec.shape)
            rows = self.buffers.get(name, torch.zeros(shape, dtype=spec.torch_dtype))
            if tuple(rows.shape) != shape or rows.dtype != spec.torch_dtype:
                raise ValueError(
                    f"{self.name}: buffer '{name}' is {rows.dtype} {tuple(rows.shape)}, but "
                    f"{len(self.rows)} checkpoints need {spec.torch_dtype} {shape}"
                )
            found[name] = rows
        return found

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
        return cls.from_graphs(name, graphs, rows, **others)

    @classmethod
    def from_graphs(
        cls,
        name: str,
        graphs: Sequence[ParameterGraph],
        rows: Sequence[Mapping[str, Any]],
        **others: Any,
    ) -> Record:
        """A record of checkpoints, at least one and all of one architecture.

        A buffer that a checkpoint lacks is zero in it, as torch has it.
        """
        there = {key: value for graph in graphs for key, value in graph.buffers.items()}
        return cls(
            name=name,
            architecture=graphs[0].architecture,
            theta=torch.stack([graph.theta for graph in graphs]),
            buffers={
                key: torch.stack([g.buffers.get(key, torch.zeros_like(value)) for g in graphs])
                for key, value in there.items()
            },
            rows=rows,
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A member of a foreign zoo that could not be taken, and why."""

    name: str  # where it stands in its source
    reason: str
