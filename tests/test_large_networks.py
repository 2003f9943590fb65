"""Networks above a size are embedded block by block, from memory or from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graphrep import embedding_networks, recognition
from graphrep.embedding import embed_table
from graphrep.encoders import RawEncoderConfig
from graphrep.graph import ParameterGraph
from graphrep.model import WeightModel
from graphrep.representation import Representation

from .architectures import CASES
from .encoding import architecture_of, model, networks


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes every network a large one, and says of which architectures any was streamed."""
    monkeypatch.setattr(recognition, "STREAM_FROM", 1)
    monkeypatch.setattr(embedding_networks, "STREAM_FROM", 1)
    names: list[str] = []
    encode = WeightModel.encode_streamed

    def counted(self, tensor, architecture):
        names.append(architecture.name)
        return encode(self, tensor, architecture)

    monkeypatch.setattr(WeightModel, "encode_streamed", counted)
    return names


def test_a_large_network_has_the_embedding_of_a_small_one(
    tmp_path: Path, streamed: list[str]
) -> None:
    architecture = architecture_of(CASES[5])
    graphs = [ParameterGraph(architecture, theta) for theta in networks(architecture, 3).float()]
    representation = Representation(model().float(), [architecture])
    expected = embedding_networks.embed_rows(
        representation.model, torch.stack([g.theta for g in graphs]), architecture
    ).numpy()
    found = representation.encode(graphs)
    assert len(streamed) == 3
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected, axis=0).max()
    assert np.abs(found - expected[::-1]).max() > 1e-3
    save_file(dict(graphs[1].state_dict()), tmp_path / "network.safetensors")
    on_disk = representation.encode(tmp_path / "network.safetensors", architecture=architecture)
    assert len(streamed) == 4
    assert np.array_equal(on_disk, found[1])
    # the table of many files reads them in the same way, given the architecture or by names
    for given in (architecture.name, None):
        table = embed_table(representation, [tmp_path / "network.safetensors"], architecture=given)
        columns = [c for c in table if c[1:].isdigit()]
        assert np.array_equal(table[columns].to_numpy()[0], found[1])
    assert len(streamed) == 6


def test_a_file_of_another_design_is_refused(tmp_path: Path, streamed: list[str]) -> None:
    architecture = architecture_of(CASES[5])
    save_file({"other": torch.zeros(3)}, tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="other"):
        Representation(model().float()).encode(
            tmp_path / "network.safetensors", architecture=architecture
        )
    assert streamed == []


def test_an_encoder_that_needs_all_numbers_gets_them(streamed: list[str]) -> None:
    architecture = architecture_of(CASES[0])
    graph = ParameterGraph(architecture, networks(architecture, 1)[0].float())
    representation = Representation(model(RawEncoderConfig()).float())
    assert representation.encode(graph).shape == (4096,) and streamed == []
