"""One step: the gradient of the mean loss over all networks of its batches.

Batches may be of different architectures, sizes and processes; each counts by its
networks. Knows no files and no metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..model import WeightModel
from .config import TrainingConfig
from .distributed import Processes
from .draws import generator_of, seed_layers
from .networks import Rows
from .objectives import Objective
from .order import BatchOrder, Choice

Losses = dict[str, Tensor]


class Joined(nn.Module):
    """Model and objective as one module, so that one forward pass holds all parameters."""

    def __init__(self, model: WeightModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Losses]:
        """What is minimised, and all losses without their gradients."""
        losses = self.objective.losses(self.model, rows, generator)
        return losses["loss"], {name: value.detach() for name, value in losses.items()}


class Step:
    """Gradients of whole steps, for the parameters of a model and its objective."""

    def __init__(
        self,
        model: WeightModel,
        objective: Objective,
        order: BatchOrder,
        config: TrainingConfig,
        processes: Processes,
    ) -> None:
        joined = Joined(model, objective)
        self.parameters = list(joined.parameters())
        self.module = processes.wrap(joined)
        self.order, self.config, self.processes = order, config, processes
        self.device = self.parameters[0].device
        self.num_batches = config.accumulate * processes.num

    def gradients(self, choices: Sequence[Choice]) -> tuple[list[Losses], Tensor]:
        """Leave the gradient, clipped, with the parameters.

        Args:
            choices: What the step's batches hold, of all processes.

        Returns:
            Losses of this process's own choices, `own(choices)`, and the norm of the
            gradient before it was clipped; all on the device.
        """
        for parameter in self.parameters:
            parameter.grad = None
        whole, own, found = sum(map(len, choices)), self.own(choices), []
        for place, choice in enumerate(own):
            rows = self.order.read(choice).to(self.device)
            seed_layers(self.config.seed, choice.number)
            generator = generator_of(self.config.seed, choice.number)
            with self._alone(place < len(own) - 1):
                with self._precision():
                    loss, losses = self.module(rows, generator)
                # processes are averaged over, batches are added
                (loss * (len(choice) * self.processes.num / whole)).backward()
            found.append(losses)
        limit = self.config.clip_norm or float("inf")
        return found, nn.utils.clip_grad_norm_(self.parameters, limit)

    def own(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        """What this process's batches of a step hold."""
        return [c for c in choices if c.batch % self.processes.num == self.processes.rank]

    def _alone(self, unfinished: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients once a step, with its last batch."""
        if unfinished and isinstance(self.module, nn.parallel.DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()

    def _precision(self) -> AbstractContextManager[None]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
