"""What turns the networks of a zoo into numbers: a floor, or an encoder that is trained first.

Knows how each method is prepared; knows neither how its numbers are judged nor where they
are kept.

Letters in shapes: N networks of a zoo in its order, D numbers of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..encoders import EncoderConfig
from ..model import ModelConfig, WeightModel
from ..predictor import PropertyPredictor
from ..representation import Representation
from ..tracking import Run
from ..training import ObjectiveConfig, TrainingConfig, build_objective, train
from ..training.answers import know_modules, learn_answers, with_answers
from ..training.components import fit_components
from ..training.objectives import PropertyConfig, PropertyPrediction
from ..training.objectives.property_head import PropertyHead
from ..training.rescalings import learn_rescalings
from ..training.targets import context_of, networks_of
from ..zoo import Zoo
from .divisions import weight_layers
from .floors import Floor
from .properties import Property

if TYPE_CHECKING:
    import pandas as pd

MOST_SAVED = 100  # architectures that a saved model lists, to recognise files by
PART = 64  # networks embedded at a time


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is trained, and how."""

    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig


@dataclass(frozen=True, eq=False)
class Reader:
    """`read` gives [N, D]; `facts` are what was learned while it was made.

    With a head, what it reads is what the head predicts from.
    """

    read: Callable[[Zoo], np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    head: PropertyHead | None = None

    def predict(self, values: np.ndarray) -> pd.DataFrame:
        """Properties in natural units, a column each, from what was read."""
        import pandas as pd

        assert self.head is not None, "only a model trained on properties predicts them"
        with torch.no_grad():
            found = self.head.natural(self.head(torch.from_numpy(values)))
        table = pd.DataFrame(found.numpy(), columns=list(self.head.columns))
        for target in self.head.targets:
            if target.kind == "category":
                shares = table[[f"{target.name}={label}" for label in target.categories]]
                best = shares.to_numpy().argmax(1)
                table[target.name] = np.array(target.categories)[best]
        return table


def read_floor(kind: str, sources: Sequence[Zoo], max_slots: int) -> Reader:
    """Features that need no training of an encoder."""
    return Reader(Floor.fit(kind, sources, slots_of(sources, max_slots)).read)


def train_reader(
    sources: Sequence[Zoo],
    setup: Setup,
    max_slots: int,
    asked: Sequence[Property],
    folder: Path,
    run: Run,
    on_step: Callable[[int], None] = lambda step: None,
) -> Reader:
    """Train an encoder on the training splits of zoos together; resumes from `folder`.

    Args:
        asked: What a property objective predicts, in place of its own settings.
    """
    weights, wanted, objective = _build(sources, setup, max_slots, asked)
    training, validation = (
        with_answers(weights.answers, networks_of(sources, s, objective))
        for s in ("train", "validation")
    )
    result = train(
        weights,
        wanted,
        training,
        validation,
        setup.training,
        folder / "training",
        on_metrics=run.log_metrics,
        on_step=on_step,
    )
    listed = [a for zoo in sources for a in zoo.architectures.values()]
    known = listed if len(listed) <= MOST_SAVED else []
    representation = Representation(weights, known, decodes=wanted.decodes)
    head = None
    if isinstance(wanted, PropertyPrediction):
        head = wanted.head
        PropertyPredictor(representation, head).save_pretrained(folder / "model")
    else:
        representation.save_pretrained(folder / "model")
    facts = {
        "num_steps": setup.training.num_steps,
        "train_seconds": round(result.train_seconds, 1),
        "best_step": result.best_step,
        "best_loss": result.best_loss,
        **_size(weights),
    }
    return Reader(lambda zoo: embed_zoo(weights, zoo), facts, head)


def untrained_reader(sources: Sequence[Zoo], setup: Setup, max_slots: int) -> Reader:
    """The encoder as its seed draws it; the scaling is fitted."""
    weights, _, _ = _build(sources, setup, max_slots, ())
    groups = [group for zoo in sources for group in zoo.split("train").groups()]
    weights.fit_scaling((group.architecture, group.theta) for group in groups)
    fit_components(weights.eval(), ((group.architecture, group.theta) for group in groups))
    return Reader(lambda zoo: embed_zoo(weights, zoo), _size(weights))


def embed_zoo(model: WeightModel, zoo: Zoo) -> np.ndarray:
    """Embeddings of all networks of a zoo, float32 [N, D]."""
    know_modules(model.answers, zoo)
    found = np.zeros((len(zoo), model.embedding_dim), np.float32)
    with torch.no_grad():
        for group in zoo.groups():
            for places in torch.arange(len(group.rows)).split(PART):
                theta = group.theta[places].float()
                embedding = model.encode(theta, group.architecture, tokens=False).model
                found[group.rows[places].numpy()] = embedding.float().numpy()
    return found


def slots_of(sources: Sequence[Zoo], max_slots: int) -> int:
    """Depths that every method keeps apart: the layers of the deepest network, within a limit."""
    layers = (len(weight_layers(a)) for zoo in sources for a in zoo.architectures.values())
    return max(1, min(max(layers), max_slots))


def _build(
    sources: Sequence[Zoo], setup: Setup, max_slots: int, asked: Sequence[Property]
) -> tuple[WeightModel, Any, ObjectiveConfig]:
    num_slots = slots_of(sources, max_slots)
    config = replace(setup.model, encoder=_with_slots(setup.model.encoder, num_slots))
    if config.moment_slots:
        config = replace(config, moment_slots=num_slots)
    if config.magnitude_slots:
        config = replace(config, magnitude_slots=num_slots)
    objective = _on_properties(setup.objective, asked, sources)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.training.seed)
        weights = learn_rescalings(WeightModel(config), sources)
        learn_answers(weights.answers, sources)
        wanted = build_objective(objective, weights, context_of(sources, objective))
    return weights, wanted, objective


def _with_slots(encoder: EncoderConfig, num_slots: int) -> EncoderConfig:
    """Every method keeps the same depths apart, if it keeps any apart.

    The readout of a graph's outputs counts classes, not depths.
    """
    names = {f.name for f in fields(encoder)}
    if "num_slots" not in names or getattr(encoder, "readout", "") == "outputs":
        return encoder
    changes: Any = {"num_slots": num_slots}
    return replace(encoder, **changes)


def _on_properties(
    objective: ObjectiveConfig, asked: Sequence[Property], sources: Sequence[Zoo]
) -> ObjectiveConfig:
    """The property objective on what is asked of these zoos; any other as it is."""
    if not isinstance(objective, PropertyConfig):
        return objective
    if not asked:
        names = ", ".join(zoo.name for zoo in sources)
        raise ValueError(f"none of the properties asked for varies in {names}")
    table = sources[0].split("train").properties
    numbers = [p for p in asked if p.is_number(table)]
    return replace(
        objective,
        properties=tuple(p.name for p in numbers if not p.log),
        log_properties=tuple(p.name for p in numbers if p.log),
        categories=tuple(p.name for p in asked if not p.is_number(table)),
    )


def _size(model: WeightModel) -> dict[str, Any]:
    return {
        "num_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "embedding_dim": model.embedding_dim,
    }
