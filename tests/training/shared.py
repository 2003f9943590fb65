"""What tests of objectives share: a small model, a zoo's networks, one short training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphrep.decoders import DecoderConfig
from graphrep.encoders import EncoderConfig, GraphEncoderConfig
from graphrep.model import ModelConfig, WeightModel
from graphrep.training import ObjectiveConfig, TrainingConfig, build_objective, train
from graphrep.training.objectives import Objective
from graphrep.training.targets import context_of, networks_of
from graphrep.zoo import Zoo

GRAPH = GraphEncoderConfig(unit_dim=8, num_rounds=1)
TRAINING = TrainingConfig(num_steps=12, batch_size=4, validate_every=4, num_threads=1)


def model(encoder: EncoderConfig = GRAPH) -> WeightModel:
    torch.manual_seed(0)
    decoder = DecoderConfig(model_dim=16, num_heads=2, num_layers=1)
    return WeightModel(ModelConfig(encoder=encoder, decoder=decoder, token_size=16, latent_dim=8))


def pair(
    zoo: Zoo, config: ObjectiveConfig, encoder: EncoderConfig = GRAPH
) -> tuple[WeightModel, Objective]:
    """A model and an objective as they are before training, always the same."""
    built = model(encoder)
    return built, build_objective(config, built, context_of(zoo, config))


class Stop(Exception):
    pass


def trained(
    zoo: Zoo,
    config: ObjectiveConfig,
    folder: Path,
    stop: int | None = None,
    encoder: EncoderConfig = GRAPH,
) -> dict[str, Tensor]:
    """All values of model and objective after training that may break off at a step."""

    def interrupt(step: int) -> None:
        if step == stop:
            raise Stop

    built, objective = pair(zoo, config, encoder)
    groups = [networks_of(zoo, split, config) for split in ("train", "validation")]
    if stop is not None:
        with pytest.raises(Stop):
            train(built, objective, *groups, TRAINING, folder, on_step=interrupt)
        return {}
    train(built, objective, *groups, TRAINING, folder, on_step=interrupt)
    return {
        **built.state_dict(),
        **{f"objective.{k}": v for k, v in objective.state_dict().items()},
    }


def check_resumed_equals_unbroken(
    zoo: Zoo, config: ObjectiveConfig, folder: Path, encoder: EncoderConfig = GRAPH
) -> None:
    """Broken off two steps after a checkpoint, then gone on with; and that training moves."""
    unbroken = trained(zoo, config, folder / "unbroken", encoder=encoder)
    trained(zoo, config, folder / "broken", stop=6, encoder=encoder)
    resumed = trained(zoo, config, folder / "broken", encoder=encoder)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    _, objective = pair(zoo, config, encoder)
    own = {f"objective.{name}": value for name, value in objective.named_parameters()}
    assert all(not torch.equal(value, unbroken[name]) for name, value in own.items())
