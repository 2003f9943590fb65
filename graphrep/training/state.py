"""What changes during training, and its copy on disk: a broken run equals an unbroken one.

All processes hold the same; the one that leads reads and writes. Knows no losses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_whole
from ..model import WeightModel
from .config import TrainingConfig
from .distributed import Processes
from .networks import Networks
from .objectives import Objective
from .validation import Metrics

KEPT = ("step", "seconds", "best_step", "best_loss", "best", "best_objective", "history")
NOT_DECISIVE = ("device", "num_threads", "accumulate")  # where, and how shared among processes


@dataclass(frozen=True)
class Result:
    """What training leaves: the best model is loaded; seconds exclude interruptions."""

    best_step: int
    best_loss: float
    train_seconds: float
    history: tuple[dict[str, float], ...]


class State:
    """Model, objective, optimiser and schedule at a step, and the best ones so far."""

    def __init__(
        self,
        model: WeightModel,
        objective: Objective,
        config: TrainingConfig,
        folder: Path,
        processes: Processes,
    ) -> None:
        self.model, self.objective = model, objective
        self.config, self.folder, self.team = config, folder, processes
        parameters = [*model.parameters(), *objective.parameters()]
        matrices = [p for p in parameters if p.dim() > 1]
        others = [p for p in parameters if p.dim() <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=True,  # a seventh of the time of a loop over parameters
        )
        total = config.num_steps + 1
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=config.learning_rate,
            total_steps=total,
            # torch divides by the steps of the rise, less one
            pct_start=config.warmup if config.warmup * total != 1 else 0.0,
        )
        self.settings = ""  # known to the process that leads
        self.step, self.seconds = 0, 0.0
        self.best_step, self.best_loss = 0, float("inf")
        self.best: dict[str, Tensor] = {}
        self.best_objective: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    @property
    def path(self) -> Path:
        """Where the copy lies."""
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or too many validations in a row found nothing better."""
        waited = sum(entry["step"] > self.best_step for entry in self.history)
        stopped = bool(self.config.patience) and waited >= self.config.patience
        return stopped or self.step >= self.config.num_steps

    def resume(self, training: Sequence[Networks], validation: Sequence[Networks]) -> None:
        """Go on from the copy in the folder; without one, fit the scaling and begin.

        Raises:
            ValueError: the copy cannot be read, or belongs to another run.
        """
        state: dict[str, Any] | None = None
        if self.team.leads:
            self.settings = self._describe(digest([*training, *validation]))
            state = self._read() if self.path.exists() else None
            if state is None:
                self.model.fit_scaling((n.architecture, n.theta) for n in training)
        state = self.team.share(state)
        if state is None:  # the scaling reaches the other processes with `Processes.wrap`
            return
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name in KEPT:
            setattr(self, name, state[name])

    def update(self) -> None:
        """One step of the optimiser, along the gradients that the parameters hold."""
        self.optimiser.step()
        self.scheduler.step()
        self.step += 1

    def keep(self, metrics: Metrics) -> None:
        """Remember the best model and write everything, atomically."""
        self.history.append({"step": self.step, **metrics})
        loss = metrics.get("validation/loss", float("inf"))
        if loss < self.best_loss or "validation/loss" not in metrics:  # none: the last is best
            self.best_step, self.best_loss = self.step, loss
            self.best, self.best_objective = _copy(self.model), _copy(self.objective)
        if not self.team.leads:
            return
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            **{name: getattr(self, name) for name in KEPT},
        }
        write_whole(self.path, lambda unfinished: torch.save(state, unfinished))

    def finish(self) -> Result:
        """Load the best model and objective, on the CPU."""
        if self.best:
            self.model.load_state_dict(self.best)
            self.objective.load_state_dict(self.best_objective)
        self.model.cpu().eval()
        self.objective.cpu().eval()
        return Result(self.best_step, self.best_loss, self.seconds, tuple(self.history))

    def _read(self) -> dict[str, Any]:
        path = self.path
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises many kinds on damaged files
            raise ValueError(
                f"{path}: cannot be read; remove it to begin anew ({error})"
            ) from error
        if state["settings"] != self.settings:
            raise ValueError(
                f"{path} belongs to a run of another configuration or of other networks. Give "
                f"another folder, or remove it to begin anew.\n  found: {state['settings']}\n"
                f"  asked: {self.settings}"
            )
        return state

    def _describe(self, networks: str) -> str:
        """All that decides what training computes, up to rounding."""
        training = {k: v for k, v in asdict(self.config).items() if k not in NOT_DECISIVE}
        training["batches_a_step"] = self.config.accumulate * self.team.num
        model = {"type": type(self.model.config.encoder).__name__, **asdict(self.model.config)}
        settings = {
            "training": training,
            "objective": asdict(self.objective.config),
            "model": model,
            "networks": networks,
        }
        return json.dumps(settings, sort_keys=True)


def digest(groups: Sequence[Networks]) -> str:
    """Tells one set of networks from another: 16 hex digits."""
    found = hashlib.sha256()
    for networks in groups:
        found.update(f"{networks.architecture.fingerprint} {networks.zoo}".encode())
        for rows in networks.theta.split(4096):
            found.update(rows.contiguous().numpy().tobytes())
        for extra in (networks.targets, networks.successor):
            if extra is not None:
                found.update(extra.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
