"""Encoders side by side: every encoder and seed a recorded trial, then one summary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..figures.style import colours
from ..model import ModelConfig
from ..progress import show_progress
from ..tracking import Tracker
from ..training import ObjectiveConfig, TrainingConfig
from ..zoo import Zoo
from .comparison import EvaluationConfig, Trial, run_trial
from .recording import record_summary, record_trial
from .sampling import Ground, prepare

if TYPE_CHECKING:
    import pandas as pd

HEADLINES = (  # the columns of MLflow's list of runs
    "probe_tau/test_accuracy",
    "probe_r2/test_accuracy",
    "probe_tau/epoch",
    "sample_joint/mean_accuracy",
    "sample_joint/finetuned_accuracy",
    "cost/train_seconds",
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a benchmark found; `models` are URIs that `Representation.from_pretrained` takes."""

    trials: list[Trial]
    ground: Ground
    board: pd.DataFrame
    models: dict[str, str]
    benchmark_id: str


def run_benchmark(
    zoo: Zoo,
    models: Sequence[ModelConfig],
    objective: ObjectiveConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    tracker: Tracker,
    folder: Path,
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    progress: bool = True,
) -> Outcome:
    """Train and judge each model with each seed; resumes from `folder`.

    Args:
        settings: The whole resolved configuration, recorded with every run.
        progress: Show a bar for each training.
    """
    benchmark_id = _benchmark_id(folder, zoo)
    ground = prepare(zoo, evaluation.sampling, seeds[0])
    trials, uris = [], {}
    for seed in seeds:
        for model in models:
            name = f"{model.encoder.name}-seed{seed}"
            own = replace(training, seed=seed)
            params = {
                **settings,
                "encoder": model.encoder.name,
                "seed": seed,
                "zoo": zoo.name,
                "settings": {
                    "encoder": asdict(model.encoder),
                    "objective": asdict(objective),
                    "training": asdict(own),
                    "zoo": zoo.recipe.identity(),
                },
            }
            encoder = model.encoder.name
            tags = {"benchmark_id": benchmark_id, "kind": "encoder", "encoder": encoder}
            with tracker.run(
                f"{encoder} seed {seed}",
                params,
                folder / name,
                tags=tags,
                colour=colours([encoder])[encoder],
                resume=True,
            ) as run:
                run.log_dataset(zoo.properties, zoo.name, str(zoo.path))
                with show_progress(name, own.num_steps, visible=progress) as on_step:
                    trial = run_trial(
                        zoo,
                        ground,
                        model,
                        objective,
                        own,
                        evaluation,
                        folder / name,
                        run,
                        on_step=on_step,
                    )
                uris[name] = record_trial(run, trial, zoo, folder / name)
            trials.append(trial)
    params = {**settings, "encoder": "summary", "zoo": zoo.name, "seed": str(list(seeds))}
    tags = {"benchmark_id": benchmark_id, "kind": "summary", "encoder": "summary"}
    with tracker.run("summary", params, folder / "summary", tags=tags, resume=True) as run:
        board = record_summary(run, trials, ground, zoo, folder)
        run.arrange_comparison(benchmark_id, HEADLINES)
    return Outcome(trials, ground, board, uris, benchmark_id)


def _benchmark_id(folder: Path, zoo: Zoo) -> str:
    """One name for all runs of this comparison, kept so that a resumed one goes on in it."""
    path = folder / "benchmark_id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{zoo.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    return path.read_text()
