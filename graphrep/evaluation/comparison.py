"""A comparison of encoders on one zoo: train, embed, probe, sample, each recorded.

All encoders get the same networks in the same order, the same decoder, latent
size, number of steps and probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..model import ModelConfig, WeightModel
from ..representation import Representation
from ..tracking import Run
from ..training import (
    Objective,
    ObjectiveConfig,
    Result,
    TrainingConfig,
    build_objective,
    train,
)
from ..training.answers import learn_answers, with_answers
from ..training.queries import listed
from ..training.rescalings import learn_rescalings
from ..training.targets import context_of, networks_of
from ..zoo import Zoo
from .probe import LinearProbe
from .properties import Property
from .sampling import Ground, SampleStudy, SamplingConfig, study
from .scores import Bootstrap, Score

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is predicted from embeddings; see conf/evaluation/*.yaml."""

    properties: tuple[str, ...] = ("test_accuracy", "generalisation_gap", "epoch")
    log_properties: tuple[str, ...] = ("learning_rate",)  # predicted as logarithms
    categories: tuple[str, ...] = ("activation", "optimiser")

    @property
    def wanted(self) -> tuple[Property, ...]:
        """All of them, as probes take them."""
        return (
            *(Property(name=name) for name in self.properties),
            *(Property(name=name, log=True) for name in self.log_properties),
            *(Property(name=name, category=True) for name in self.categories),
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a trained representation is judged."""

    probes: ProbeConfig = field(default_factory=ProbeConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True, eq=False)
class Trial:
    """One encoder with one seed: everything that was measured."""

    encoder: str
    seed: int
    representation: Representation
    training: Result
    scores: list[Score]
    samples: SampleStudy
    embedding: np.ndarray  # of the test split, [N, D]

    @property
    def num_parameters(self) -> int:
        return self.representation.model.num_parameters

    def metrics(self) -> dict[str, float]:
        """Flat numbers by section, for tables and for MLflow."""
        found: dict[str, float] = {}
        for score in self.scores:
            for kind in ("r2", "kendall_tau", "accuracy"):
                value = getattr(score, kind)
                if value is not None:
                    section = "tau" if kind == "kendall_tau" else kind
                    found[f"probe_{section}/{score.property}"] = round(value, 4)
        for method in self.samples.graphs:
            for name, value in self.samples.scores(method).items():
                found[f"sample_{method}/{name}"] = round(value, 4)
        found["cost/train_seconds"] = round(self.training.train_seconds, 1)
        found["cost/num_parameters"] = self.num_parameters
        found["cost/embedding_dim"] = self.embedding.shape[1]
        return found


def run_trial(
    zoo: Zoo,
    ground: Ground,
    model: ModelConfig,
    objective: ObjectiveConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    folder: Path,
    run: Run,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> Trial:
    """Train one encoder on the zoo's training split and judge it; resumes from `folder`."""
    name = model.encoder.name
    representation, result, _ = train_representation(
        zoo, model, objective, training, folder / "training", run, on_step=on_step
    )
    embedding = embed_splits(representation, zoo)
    scores = probe_all(embedding, zoo, evaluation.probes, training.seed)
    samples = study(representation, ground, evaluation.sampling, name, training.seed)
    trial = Trial(name, training.seed, representation, result, scores, samples, embedding["test"])
    representation.save_pretrained(folder / "model")
    run.log_metrics(trial.metrics(), 0)  # one step: MLflow draws bars, not lines
    return trial


def train_representation(
    zoo: Zoo | Sequence[Zoo],
    model: ModelConfig,
    objective: ObjectiveConfig,
    training: TrainingConfig,
    folder: Path,
    run: Run,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_metrics: Callable[[Mapping[str, float], int], None] = lambda metrics, step: None,
    say: Callable[[str], None] = lambda note: None,
) -> tuple[Representation, Result, Objective]:
    """A representation trained on the training split of one or more zoos together.

    Best by validation loss. Several processes that torchrun started all call this.

    Args:
        on_metrics: Called beside `run.log_metrics`.
        say: Told what is done before the first step.

    Returns:
        The representation, how training went, and the objective with what it trained for
        itself, such as the head that predicts properties.
    """

    def record(metrics: Mapping[str, float], step: int) -> None:
        run.log_metrics(metrics, step)
        on_metrics(metrics, step)

    groups = {s: networks_of(zoo, s, objective, say) for s in SPLITS[:2]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        weights = learn_rescalings(WeightModel(model), zoo)
        learn_answers(weights.answers, zoo)
        wanted = build_objective(objective, weights, context_of(zoo, objective))
    groups = {s: with_answers(weights.answers, networks, say) for s, networks in groups.items()}
    result = train(
        weights,
        wanted,
        groups["train"],
        groups["validation"],
        training,
        folder,
        on_metrics=record,
        on_step=on_step,
    )
    architectures = [a for z in listed(zoo) for a in z.architectures.values()]
    return Representation(weights, architectures, decodes=wanted.decodes), result, wanted


def embed_splits(representation: Representation, zoo: Zoo) -> dict[str, np.ndarray]:
    """Embeddings [N, D] of each split's networks."""
    return {
        s: np.asarray(representation.encode(zoo.split(s).graphs, batch_size=128)) for s in SPLITS
    }


def probe_all(
    embedding: Mapping[str, np.ndarray], zoo: Zoo, config: ProbeConfig, seed: int
) -> list[Score]:
    """Every wanted property that the zoo has and that varies in it."""
    tables = {s: zoo.split(s).properties for s in SPLITS}
    probe, bootstrap = LinearProbe(embedding, tables), Bootstrap(seed=seed)
    return [
        probe.score(wanted, bootstrap) for wanted in config.wanted if wanted.varies(tables["train"])
    ]


def results_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row an encoder, seed and property, scores with their intervals."""
    import pandas as pd

    rows = []
    for trial in trials:
        for score in trial.scores:
            row: dict[str, Any] = {
                "encoder": trial.encoder,
                "seed": trial.seed,
                "property": score.property,
            }
            for kind in ("r2", "kendall_tau", "accuracy"):
                row[kind] = getattr(score, kind)
                low, high = getattr(score, f"{kind}_interval") or (None, None)
                row[f"{kind}_low"], row[f"{kind}_high"] = low, high
            rows.append({**row, "majority": score.majority})
    return pd.DataFrame(rows)


def leaderboard(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row an encoder: the numbers that people ask for first, means over seeds."""
    import pandas as pd

    rows = []
    for trial in trials:
        metrics = trial.metrics()
        joint = trial.samples.scores("joint")
        independent = trial.samples.scores("independent")
        row: dict[str, Any] = {"encoder": trial.encoder}
        for name, value in metrics.items():
            section, _, property_name = name.partition("/")
            if section == "probe_tau":
                row[f"tau {property_name}"] = value
        row |= {
            "R2 test_accuracy": metrics.get("probe_r2/test_accuracy"),
            "sampled": joint["mean_accuracy"],
            "sampled best": joint["best_accuracy"],
            "fine-tuned": joint["finetuned_accuracy"],
            "sampled independently": independent["mean_accuracy"],
            "novelty (weights)": joint["novelty_weights"],
            "novelty (behaviour)": joint["novelty_behaviour"],
            "train s": trial.training.train_seconds,
            "parameters": trial.num_parameters,
            "numbers in embedding": trial.embedding.shape[1],
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.groupby("encoder", sort=False).mean().reset_index()


def summary(trials: Sequence[Trial], ground: Ground) -> dict[str, Any]:
    """The comparison as plain numbers, means over seeds: what summary.json holds."""
    encoders: dict[str, Any] = {}
    for name in dict.fromkeys(t.encoder for t in trials):
        mine = [t for t in trials if t.encoder == name]
        properties = dict.fromkeys(s.property for t in mine for s in t.scores)
        probes: dict[str, dict[str, float]] = {}
        for label in properties:
            chosen = [s for t in mine for s in t.scores if s.property == label]
            kinds = ("r2", "kendall_tau", "accuracy", "majority")
            probes[label] = {
                kind: float(np.mean([getattr(s, kind) for s in chosen]))
                for kind in kinds
                if chosen[0].__dict__[kind] is not None
            }
        samples = {
            method: {
                key: float(np.mean([t.samples.scores(method)[key] for t in mine]))
                for key in mine[0].samples.scores(method)
            }
            for method in mine[0].samples.graphs
        }
        encoders[name] = {
            "probe": probes,
            "samples": {**samples["joint"], "independent": samples["independent"]},
            "num_parameters": mine[0].num_parameters,
            "train_seconds": float(np.mean([t.training.train_seconds for t in mine])),
        }
    return {
        "encoders": encoders,
        "baselines": ground.baselines,
        "novelty_among_anchors": ground.anchor_novelty,
    }
