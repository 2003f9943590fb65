"""A trained representation comes back from MLflow as it was recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import graphrep
from graphrep.decoders import DecoderConfig
from graphrep.encoders import GraphEncoderConfig
from graphrep.model import ModelConfig, WeightModel
from graphrep.representation import Representation
from graphrep.tracking import Tracker, TrackingConfig
from tests.architectures import CASES

ENCODER = GraphEncoderConfig(unit_dim=8, linear_dim=1, curved_dim=1, value_dim=2, num_rounds=1)
DECODER = DecoderConfig(model_dim=16, num_heads=2, num_layers=1)


def test_from_pretrained_takes_the_uri_of_a_run(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    graph = graphrep.to_graph(CASES[7].module(), CASES[7].example())
    trained = Representation(WeightModel(ModelConfig(encoder=ENCODER, decoder=DECODER)))
    trained.fit_anchors([graph, graph]).save_pretrained(tmp_path / "model")
    with Tracker(config).run("graph", {"seed": 0}, tmp_path / "run") as run:
        uri = run.log_model(tmp_path / "model", "graph")
    assert uri == f"runs:/{run.id}/graph"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", config.store_uri)
    again = graphrep.Representation.from_pretrained(uri)
    assert np.array_equal(again.encode(graph), trained.encode(graph))
    assert torch.equal(again.sample(1)[0].theta, trained.sample(1)[0].theta)
    with pytest.raises(ValueError, match="runs:/"):
        graphrep.Representation.from_pretrained(f"runs:/{'0' * 32}/graph")
