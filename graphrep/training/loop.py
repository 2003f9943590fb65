"""Training of a weight model on any objective.

Every draw of step n comes from (seed, n) alone, so a resumed run equals an
unbroken one and all encoders see the same networks in the same order. Knows
neither YAML nor MLflow: metrics go to a function that the caller hands in.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_whole
from ..model import WeightModel
from .networks import Networks, Rows
from .objectives import Objective

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of `train`; see conf/training/*.yaml."""

    seed: int = 0
    num_steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2e-3  # the peak of the one-cycle schedule
    weight_decay: float = 3e-9  # on matrices
    warmup: float = 0.3  # share of the steps
    clip_norm: float = 1.0
    validate_every: int = 200  # steps; the best model by validation loss is kept
    num_threads: int = 0  # 0 leaves torch's own choice

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Result:
    """What training leaves: the best model is loaded; seconds exclude interruptions."""

    best_step: int
    best_loss: float
    train_seconds: float
    history: tuple[dict[str, float], ...]


def train(
    model: WeightModel,
    objective: Objective,
    training: Sequence[Networks],
    validation: Sequence[Networks],
    config: TrainingConfig,
    folder: Path,
    *,
    on_metrics: Callable[[Metrics, int], None] = lambda metrics, step: None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Result:
    """Train in place; resumes from `folder` when it holds an unfinished run of this config.

    Raises:
        ValueError: no networks, or `folder` holds a run of another configuration.
        FloatingPointError: the loss is no longer finite; the last checkpoint stays.
    """
    if not any(len(networks) for networks in training):
        raise ValueError("the training split holds no networks")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, objective, config, folder, digest([*training, *validation]))
    run.resume(training)
    order = BatchOrder(training, config.batch_size, config.seed)
    while run.step < config.num_steps:
        started = time.perf_counter()
        rows = order.batch(run.step)
        losses = objective.losses(model, rows, _generator(config.seed, run.step))
        loss = float(losses["loss"].detach())
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {run.step}; the last checkpoint is kept in {folder}. "
                f"Try a lower training.learning_rate than {config.learning_rate}."
            )
        run.update(losses["loss"])
        run.seconds += time.perf_counter() - started
        on_step(run.step)
        last = run.step == config.num_steps
        if run.step % 20 == 0 or last:
            metrics = {f"train/{k}": float(v.detach()) for k, v in losses.items()}
            metrics["train/learning_rate"] = float(run.scheduler.get_last_lr()[0])
            on_metrics(metrics, run.step)
        if run.step % config.validate_every == 0 or last:
            found = {
                f"validation/{k}": v
                for k, v in evaluate(model, objective, validation, config).items()
            }
            on_metrics(found, run.step)
            run.keep(found)
    return run.finish()


class _Run:
    """What changes during training, and its copy on disk."""

    def __init__(
        self,
        model: WeightModel,
        objective: Objective,
        config: TrainingConfig,
        folder: Path,
        networks: str,
    ) -> None:
        self.model, self.objective = model, objective
        self.config, self.folder, self.networks = config, folder, networks
        matrices = [p for p in self.parameters if p.dim() > 1]
        others = [p for p in self.parameters if p.dim() <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=config.learning_rate,
            total_steps=config.num_steps + 1,
            pct_start=config.warmup,
        )
        self.step, self.seconds = 0, 0.0
        self.best_step, self.best_loss = 0, float("inf")
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: of the model, and of the objective alone."""
        return [*self.model.parameters(), *self.objective.parameters()]

    @property
    def settings(self) -> str:
        model = {"type": type(self.model.config.encoder).__name__, **asdict(self.model.config)}
        settings = {
            "training": asdict(self.config),
            "objective": asdict(self.objective.config),
            "model": model,
            "networks": self.networks,
        }
        return json.dumps(settings, sort_keys=True)

    def resume(self, training: Sequence[Networks]) -> None:
        """Go on from the checkpoint in the folder; without one, fit the scaling and begin."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            self.model.scaling.fit((n.architecture, n.theta) for n in training)
            return
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
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
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name in ("step", "seconds", "best_step", "best_loss", "best", "history"):
            setattr(self, name, state[name])

    def update(self, loss: Tensor) -> None:
        """One step of the optimiser."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimiser.step()
        self.scheduler.step()
        self.step += 1

    def keep(self, metrics: Metrics) -> None:
        """Remember the best model and write everything, atomically."""
        self.history.append({"step": self.step, **metrics})
        loss = metrics.get("validation/loss", float("inf"))
        if loss < self.best_loss or "validation/loss" not in metrics:  # none: the last is best
            self.best_step, self.best_loss = self.step, loss
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            **{
                n: getattr(self, n)
                for n in ("step", "seconds", "best_step", "best_loss", "best", "history")
            },
        }
        write_whole(self.folder / "checkpoint.pt", lambda unfinished: torch.save(state, unfinished))

    def finish(self) -> Result:
        """Load the best model."""
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return Result(self.best_step, self.best_loss, self.seconds, tuple(self.history))


class BatchOrder:
    """Which networks step n trains on: every epoch a new shuffle, a batch of one architecture."""

    def __init__(self, groups: Sequence[Networks], batch_size: int, seed: int) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.per_epoch = sum(-(-len(networks) // batch_size) for networks in groups)
        self._epoch: tuple[int, list[tuple[int, Tensor]]] = (-1, [])

    def batch(self, step: int) -> Rows:
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffle(epoch))
        number, rows = self._epoch[1][place]
        return self.groups[number].take(rows)

    def _shuffle(self, epoch: int) -> list[tuple[int, Tensor]]:
        generator = _generator(self.seed, -1 - epoch)
        batches = [
            (number, rows)
            for number, networks in enumerate(self.groups)
            for rows in torch.randperm(len(networks), generator=generator).split(self.batch_size)
        ]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def digest(groups: Sequence[Networks]) -> str:
    """Tells one set of networks from another: 16 hex digits."""
    found = hashlib.sha256()
    for networks in groups:
        found.update(networks.architecture.fingerprint.encode())
        for rows in networks.theta.split(4096):
            found.update(rows.contiguous().numpy().tobytes())
        for extra in (networks.targets, networks.successor):
            if extra is not None:
                found.update(extra.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, whatever was drawn before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step + 500_000) % 2**63)


@torch.no_grad()
def evaluate(
    model: WeightModel, objective: Objective, groups: Sequence[Networks], config: TrainingConfig
) -> Metrics:
    """Mean losses over all networks, with the same views every time."""
    model.eval()
    objective.eval()
    totals: dict[str, float] = {}
    num = 0
    for number, networks in enumerate(groups):
        for part, index in enumerate(torch.arange(len(networks)).split(256)):
            generator = _generator(config.seed, -1_000_000 - 1000 * number - part)
            losses = objective.losses(model, networks.take(index), generator)
            num += len(index)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(index)
    model.train()
    objective.train()
    return {name: total / max(1, num) for name, total in totals.items()}
