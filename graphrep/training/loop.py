"""Training of a weight model on any objective, by one process or several.

All that a step computes follows from the seed and the numbers of its batches, so a
resumed run equals an unbroken one, several processes equal one that takes as many batches
a step, and all encoders see the same networks in the same order. Knows neither YAML nor
MLflow: metrics go to a function that the caller hands in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..model import WeightModel
from .components import fit_components
from .config import TrainingConfig
from .distributed import Processes, choose_device, join_processes
from .finite import Watch
from .networks import Networks
from .objectives import Objective
from .order import BatchOrder, Choice
from .state import Result, State
from .step import Losses, Step
from .validation import Metrics, evaluate

LOG_EVERY = 20  # steps; so often a GPU is waited for


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

    Under torchrun every process calls this with the same arguments and gets the same
    model; the first of them writes and calls `on_metrics` and `on_step`. What an objective
    does with the networks of a batch together, such as contrast, it does within the batch of
    one process.

    Raises:
        ValueError: no networks, no such device, or `folder` holds a run of another
            configuration.
        FloatingPointError: a loss or a gradient is no longer finite; the last checkpoint stays,
            and the batches at fault are saved for `load_bad_batches`.
    """
    if not any(len(networks) for networks in training):
        raise ValueError("the training split holds no networks")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device, team = choose_device(config.device), join_processes(config.device)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    objective.to(device).train()
    state = State(model, objective, config, folder, team)
    state.resume(training, validation)
    order = BatchOrder(training, config.batch_size, config.seed, config.balance)
    step = Step(model, objective, order, config, team)
    watch, meter = Watch(order, config, team, folder), _Meter(order)
    with torch.random.fork_rng(devices=[]):
        while not state.finished:
            started = time.perf_counter()
            choices = order.step(state.step, step.num_batches)
            losses, norm = step.gradients(choices)
            watch.note(state.step, choices, step.own(choices), losses, norm)
            number = state.step + 1
            logs = number % LOG_EVERY == 0 or number == config.num_steps
            validates = number % config.validate_every == 0 or number == config.num_steps
            if logs or validates or device.type == "cpu":
                watch.look()
            state.update()
            seconds = time.perf_counter() - started
            state.seconds += seconds
            meter.count(choices, seconds)
            if team.leads:
                on_step(number)
            if logs:
                metrics = _mean_losses(step.own(choices), losses, team)
                metrics["train/gradient_norm"] = float(norm)
                metrics["train/learning_rate"] = float(state.scheduler.get_last_lr()[0])
                metrics |= meter.read()
                if team.leads:
                    on_metrics(metrics, number)
            if validates:
                measured = evaluate(model, objective, validation, config, team)
                found = {f"validation/{name}": value for name, value in measured.items()}
                if team.leads:
                    on_metrics(found, number)
                state.keep(found)
    result = state.finish()
    if objective.condenses:
        fit_components(model, ((n.architecture, n.theta) for n in training))
    return result


def _mean_losses(own: Sequence[Choice], losses: Sequence[Losses], team: Processes) -> Metrics:
    """Losses of a step over the networks of all its batches, each where an objective has it."""
    sums: dict[str, tuple[float, int]] = {}
    parts = [
        (name, len(choice), float(value))
        for choice, found in zip(own, losses, strict=True)
        for name, value in found.items()
    ]
    for name, num, value in (item for part in team.gather(parts) for item in part):
        total, weight = sums.get(name, (0.0, 0))
        sums[name] = (total + num * value, weight + num)
    return {f"train/{name}": total / weight for name, (total, weight) in sums.items()}


class _Meter:
    """How much was trained on a second, by all processes, since the last reading."""

    def __init__(self, order: BatchOrder) -> None:
        self.order = order
        self.seconds, self.networks, self.weights = 0.0, 0, 0

    def count(self, choices: Sequence[Choice], seconds: float) -> None:
        self.seconds += seconds
        self.networks += sum(map(len, choices))
        self.weights += sum(map(self.order.num_weights, choices))

    def read(self) -> Metrics:
        """Weights and networks per second; begins anew."""
        found = {
            "train/weights_per_second": self.weights / self.seconds,
            "train/networks_per_second": self.networks / self.seconds,
        }
        self.seconds, self.networks, self.weights = 0.0, 0, 0
        return found
