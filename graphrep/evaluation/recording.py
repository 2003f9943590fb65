"""What a comparison leaves to look at: tables, figures, summary.json, MLflow runs.

One flat run an encoder and seed, tied by a `benchmark_id`, plus one summary run
with the leaderboard and the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import figures
from ..files import write_json
from ..tracking import Run, read_metrics
from ..zoo import Zoo
from .comparison import Trial, leaderboard, results_table, summary
from .sampling import Ground

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

HEADLINE = "test_accuracy"
MAP_SIZE = 3  # networks that a map needs at least


def record_trial(run: Run, trial: Trial, zoo: Zoo, folder: Path) -> str:
    """Tables, figures and the model of one encoder's run; the model's URI."""
    scores = results_table([trial])
    run.log_table(scores, "probes")
    run.log_table(trial.samples.table, "samples")
    test = zoo.split("test").properties
    if len(test) >= MAP_SIZE:
        run.log_figure(embedding_picture(trial, test), "embedding_map")
    predicted = predictions_of([trial])
    if predicted:
        run.log_figure(figures.predicted_against_true(predicted, HEADLINE), "predicted_accuracy")
    run.set_description(
        f"**{trial.encoder}**, seed {trial.seed}: {trial.num_parameters:,} parameters trained for "
        f"{trial.training.train_seconds:.0f} s; best step {trial.training.best_step}.\n\n"
        + markdown(scores[["property", "r2", "kendall_tau", "accuracy", "majority"]])
    )
    return run.log_model(folder / "model", trial.encoder, metrics=trial.metrics())


def embedding_picture(trial: Trial, test: pd.DataFrame) -> Figure:
    """The map of held-out networks by accuracy and by hyper-parameters.

    Columns count alike and end at three deviations, else a few extreme networks fill the plane.
    """
    wanted = [HEADLINE, "epoch", "learning_rate", "activation"]
    colour_by = [c for c in wanted if c in test and test[c].nunique() > 1]
    spread = trial.embedding.std(0) + 1e-9
    shown = np.clip((trial.embedding - trial.embedding.mean(0)) / spread, -3, 3)
    return figures.embedding_map(
        shown, test, colour_by, title=f"Held-out networks as {trial.encoder} sees them"
    )


def predictions_of(trials: Sequence[Trial]) -> dict[str, tuple]:
    """True and predicted accuracy an encoder, of its first seed."""
    found: dict[str, tuple] = {}
    for trial in trials:
        for score in trial.scores:
            if score.property == HEADLINE and trial.encoder not in found:
                found[trial.encoder] = (score.true, score.predicted)
    return found


def record_summary(
    run: Run, trials: Sequence[Trial], ground: Ground, zoo: Zoo, folder: Path
) -> pd.DataFrame:
    """The comparison's own run and folder/summary.json; the leaderboard."""
    board = leaderboard(trials)
    numbers = summary(trials, ground)
    write_json(folder / "summary.json", numbers, indent=2)
    run.log_artifact(folder / "summary.json")
    run.log_table(board, "leaderboard")
    results = results_table(trials)
    run.log_table(results, "results")
    samples = pd.concat([t.samples.table.assign(encoder=t.encoder, seed=t.seed) for t in trials])
    run.log_table(samples, "samples")
    run.log_figure(figures.probe_scores(results), "probe_scores")
    run.log_figure(
        figures.predicted_against_true(predictions_of(trials), HEADLINE), "predicted_accuracy"
    )
    accuracies = pd.concat(
        [
            ground.accuracies,
            *[
                pd.DataFrame(
                    {
                        "source": "samples, " + t.samples.table["method"],
                        "encoder": t.encoder,
                        "accuracy": t.samples.table["accuracy"],
                    }
                )
                for t in trials
            ],
        ]
    )
    run.log_figure(
        figures.sample_accuracies(accuracies, chance=1 / ground.images.num_classes),
        "sample_accuracies",
    )
    joint = pd.concat([t.samples.curves for t in trials])
    joint = joint[joint["start"].str.endswith("joint")]
    run.log_figure(figures.finetuning_curves(pd.concat([joint, ground.scratch])), "finetuning")
    run.log_figure(figures.loss_curves(losses_of(trials, folder)), "losses")
    for trial in trials:
        if trial.encoder in ("graph", "token") and len(trial.embedding) >= MAP_SIZE:
            picture = embedding_picture(trial, zoo.split("test").properties)
            run.log_figure(picture, f"embedding_map_{trial.encoder}_{trial.seed}")
    architecture = ground.anchors[0].architecture
    run.log_figure(figures.architecture_picture(architecture), "architecture")
    run.log_metrics({f"baseline/{k}": round(v, 4) for k, v in ground.baselines.items()}, 0)
    run.set_description(description(board, ground, zoo))
    return board


def losses_of(trials: Sequence[Trial], folder: Path) -> pd.DataFrame:
    """The curves of seen and hidden reconstruction, from each run's local record."""
    parts = []
    for trial in trials:
        table = read_metrics(folder / f"{trial.encoder}-seed{trial.seed}")
        chosen = table[table["name"].isin(["validation/seen", "validation/hidden", "train/loss"])]
        parts.append(chosen.assign(encoder=trial.encoder, seed=trial.seed))
    return pd.concat(parts)


def description(board: pd.DataFrame, ground: Ground, zoo: Zoo) -> str:
    """The summary run's page: what was compared, the leaderboard, the floors."""
    baselines = "\n".join(f"- {k.replace('_', ' ')}: {v:.3f}" for k, v in ground.baselines.items())
    across = board.set_index("encoder").T.rename_axis("measure").reset_index()
    return (
        f"{markdown(across)}\n\nFloors and ceilings:\n\n{baselines}\n\n"
        f"Zoo **{zoo.name}**: {zoo.properties['model'].nunique()} networks, {len(zoo)} "
        "checkpoints. Probes are scored on held-out networks; samples are drawn near "
        f"{len(ground.anchors)} anchors, all tokens of a network jointly unless said otherwise, "
        "and tested on images that chose no anchor.\n"
    )


def markdown(table: pd.DataFrame) -> str:
    """A table that MLflow's description renders."""
    header = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + " --- |" * len(table.columns)
    rows = [
        "| " + " | ".join(_cell(value) for value in row) + " |"
        for row in table.itertuples(index=False)
    ]
    return "\n".join([header, rule, *rows])


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) >= 10:
        return f"{value:,.0f}"
    if isinstance(value, float):
        return "–" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return "–" if value is None else str(value)


def terminal_table(board: pd.DataFrame, ground: Ground) -> Table:
    """The leaderboard for the terminal, encoders as columns."""
    from rich.table import Table

    table = Table(title="Encoders on equal terms (held-out networks, unseen images)")
    table.add_column("measure")
    for name in board["encoder"]:
        table.add_column(name, justify="right")
    for column in board.columns[1:]:
        table.add_row(column, *[_cell(value) for value in board[column]])
    table.add_section()
    width = len(board)
    for name, value in ground.baselines.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}", *[""] * (width - 1))
    return table
