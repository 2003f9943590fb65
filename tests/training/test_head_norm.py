"""Laws of the head's norm over a batch: what it is for, one network, files, processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graphrep.predictor import PropertyPredictor
from graphrep.representation import Representation
from graphrep.settings import Settings
from graphrep.training.distributed import Processes
from graphrep.training.objectives import HeadConfig, PropertyPrediction
from graphrep.training.objectives.property_head import PropertyHead, fit_target
from graphrep.zoo import Zoo

from .shared import pair

BATCH = HeadConfig(norm="batch")


def alike(num: int) -> tuple[Tensor, Tensor]:
    """Embeddings that share all but a thousandth, and the property that this says."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(num, 8, generator=generator)
    shared = torch.randn(8, generator=torch.Generator().manual_seed(1))
    return shared + 1e-3 * own, own[:, :1]


@pytest.mark.parametrize(("norm", "learns"), [("batch", True), ("layer", False)])
def test_networks_that_hardly_differ_are_told_apart(norm: str, learns: bool) -> None:
    embedding, truth = alike(256)
    torch.manual_seed(0)
    target = fit_target("x", truth[:, 0].numpy())
    head = PropertyHead(HeadConfig(norm=norm, hidden_dim=32), (target,), 8)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(200):
        rows = torch.arange(32) + 32 * (step % 6)
        optimiser.zero_grad()
        head.losses(head(embedding[rows]), truth[rows])["x"].backward()
        optimiser.step()
    head.eval()
    with torch.no_grad():
        loss = float(head.losses(head(embedding[192:]), truth[192:])["x"])
    assert loss < 0.3 if learns else loss > 0.8


def test_a_batch_of_one_takes_the_running_statistics() -> None:
    embedding, truth = alike(64)
    head = PropertyHead(BATCH, (fit_target("x", truth[:, 0].numpy()),), 8)
    for _ in range(50):
        head(embedding)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    alone = head(embedding[:1])
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert torch.equal(head.eval()(embedding[:1]), alone)
    assert not torch.allclose(head.train()(embedding[:2])[:1], alone)  # by these two alone


def test_a_predictor_keeps_the_statistics(tmp_path: Path, zoo: Zoo) -> None:
    from graphrep.training.objectives import PropertyConfig

    weights, objective = pair(zoo, PropertyConfig(properties=("epoch",), head=BATCH))
    assert isinstance(objective, PropertyPrediction)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        objective.head(torch.randn(32, weights.embedding_dim, generator=generator) + 3)
    known = list(zoo.architectures.values())
    predictor = PropertyPredictor(Representation(weights, known), objective.head)
    predictor.save_pretrained(tmp_path / "model")
    again = PropertyPredictor.from_pretrained(tmp_path / "model")
    graphs = [zoo.graphs[0], zoo.graphs[1]]
    found = predictor.predict(graphs).to_numpy()
    assert np.array_equal(found, again.predict(graphs).to_numpy())
    assert not np.array_equal(found[0], found[1])


def test_several_processes_are_refused() -> None:
    head = PropertyHead(BATCH, (fit_target("x", np.array([0.0, 1.0, 3.0])),), 8)
    assert Processes().wrap(head) is head
    with pytest.raises(ValueError, match=r"one process, and there are 2; .*head\.norm=layer"):
        Processes(0, 2).wrap(head)


def test_an_unknown_norm_is_refused() -> None:
    assert Settings.load(["objective=property", "objective.head.norm=batch"]).objective is not None
    with pytest.raises(ValueError, match="norm must be one of layer, batch"):
        Settings.load(["objective=property", "objective.head.norm=group"])
