"""Self-supervised training of a weight model: masked reconstruction and contrast.

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..architecture import Architecture
from ..encoders import Batch
from ..files import write_whole
from ..model import WeightModel
from ..scaling import Thetas
from ..tokens import token_grid
from .losses import nt_xent, reconstruction
from .views import View, ViewConfig, make_view

Group = tuple[Architecture, Thetas]  # networks of one architecture, theta [M, P]
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
    window: int = 128  # tokens a network and step, from a random start
    hidden_weight: float = 1.0  # of the reconstruction of what was masked
    contrast_weight: float = 0.0  # of NT-Xent; benchmarks/LOG.md says why it is 0
    temperature: float = 0.1
    views: ViewConfig = field(default_factory=ViewConfig)
    validate_every: int = 200  # steps; the best model by validation loss is kept
    num_threads: int = 0  # 0 leaves torch's own choice

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "validate_every", "window"):
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
    training: Sequence[Group],
    validation: Sequence[Group],
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
    if not any(len(theta) for _, theta in training):
        raise ValueError("the training split holds no networks")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, config, folder, digest([*training, *validation]))
    run.resume(training)
    order = BatchOrder(training, config.batch_size, config.seed)
    while run.step < config.num_steps:
        started = time.perf_counter()
        architecture, theta = order.batch(run.step)
        losses = _losses(model, architecture, theta, config, _generator(config.seed, run.step))
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
            found = {f"validation/{k}": v for k, v in evaluate(model, validation, config).items()}
            on_metrics(found, run.step)
            run.keep(found)
    return run.finish()


class _Run:
    """What changes during training, and its copy on disk."""

    def __init__(
        self, model: WeightModel, config: TrainingConfig, folder: Path, networks: str
    ) -> None:
        self.model, self.config, self.folder, self.networks = model, config, folder, networks
        matrices = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
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
    def settings(self) -> str:
        model = {"type": type(self.model.config.encoder).__name__, **asdict(self.model.config)}
        settings = {"training": asdict(self.config), "model": model, "networks": self.networks}
        return json.dumps(settings, sort_keys=True)

    def resume(self, training: Sequence[Group]) -> None:
        """Go on from the checkpoint in the folder; without one, fit the scaling and begin."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            self.model.scaling.fit(training)
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
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name in ("step", "seconds", "best_step", "best_loss", "best", "history"):
            setattr(self, name, state[name])

    def update(self, loss: Tensor) -> None:
        """One step of the optimiser."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
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

    def __init__(self, groups: Sequence[Group], batch_size: int, seed: int) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.per_epoch = sum(-(-len(theta) // batch_size) for _, theta in groups)
        self._epoch: tuple[int, list[tuple[int, Tensor]]] = (-1, [])

    def batch(self, step: int) -> tuple[Architecture, Tensor]:
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffle(epoch))
        number, rows = self._epoch[1][place]
        architecture, theta = self.groups[number]
        return architecture, theta[rows]

    def _shuffle(self, epoch: int) -> list[tuple[int, Tensor]]:
        generator = _generator(self.seed, -1 - epoch)
        batches = [
            (number, rows)
            for number, (_, theta) in enumerate(self.groups)
            for rows in torch.randperm(len(theta), generator=generator).split(self.batch_size)
        ]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def digest(groups: Sequence[Group]) -> str:
    """Tells one set of networks from another: 16 hex digits."""
    found = hashlib.sha256()
    for architecture, theta in groups:
        found.update(architecture.fingerprint.encode())
        for rows in theta.split(4096):
            found.update(rows.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, whatever was drawn before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step + 500_000) % 2**63)


def _losses(
    model: WeightModel,
    architecture: Architecture,
    theta: Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """All terms for one batch; the second view is made only when contrast counts."""
    size = model.config.token_size
    view = make_view(theta, architecture, model.scaling, config.views, size, generator)
    num_tokens = token_grid(architecture, size).num_tokens
    window = slice(0, num_tokens)
    if num_tokens > config.window:
        start = int(torch.randint(num_tokens - config.window + 1, (), generator=generator))
        window = slice(start, start + config.window)
    seen, hidden, embedding = _reconstruct(model, architecture, view, window)
    losses = {"seen": seen, "hidden": hidden}
    losses["loss"] = seen + config.hidden_weight * hidden
    if config.contrast_weight:
        other = make_view(theta, architecture, model.scaling, config.views, size, generator)
        batch = Batch(architecture, other.values, size, other.visible, window)
        projected = model.projection(embedding), model.projection(model.encoder(batch).model)
        losses["contrast"] = nt_xent(*projected, config.temperature)
        losses["loss"] = losses["loss"] + config.contrast_weight * losses["contrast"]
    return losses


def _reconstruct(
    model: WeightModel, architecture: Architecture, view: View, window: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of what was seen and hidden, and the model embedding."""
    size = model.config.token_size
    grid = token_grid(architecture, size)
    embedding = model.encoder(Batch(architecture, view.values, size, view.visible, window))
    found = model.decoder(embedding.tokens, grid.position[window])
    target, visible = (grid.cut(t)[:, window] for t in (view.target, view.visible.to(found)))
    seen, hidden = reconstruction(found, target, grid.mask[window], visible > 0)
    return seen, hidden, embedding.model


@torch.no_grad()
def evaluate(model: WeightModel, groups: Sequence[Group], config: TrainingConfig) -> Metrics:
    """Mean losses over all networks, with the same views every time."""
    model.eval()
    totals: dict[str, float] = {}
    num = 0
    for number, (architecture, theta) in enumerate(groups):
        for part, rows in enumerate(theta.split(256)):
            generator = _generator(config.seed, -1_000_000 - 1000 * number - part)
            losses = _losses(model, architecture, rows, config, generator)
            num += len(rows)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(rows)
    model.train()
    return {name: total / max(1, num) for name, total in totals.items()}
