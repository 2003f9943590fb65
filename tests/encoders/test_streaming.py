"""A network that is read block by block has the embedding that it has as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphrep.architecture.reorder import tensor_of
from graphrep.encoders import (
    RawEncoderConfig,
    StatisticsEncoderConfig,
    message_passing,
    moments as moments_module,
)

from ..architectures import CASES, Case
from ..encoding import GRAPH, architecture_of, every_case, model, networks, relative
from ..nested import Design


@every_case
@pytest.mark.parametrize("config", [GRAPH, StatisticsEncoderConfig()], ids=lambda c: c.name)
@torch.no_grad()
def test_a_streamed_network_has_the_embedding_of_the_whole(case: Case | Design, config) -> None:
    architecture = architecture_of(case)
    theta, built = networks(architecture), model(config)
    whole = built.encode(theta, architecture).model
    asked: list[str] = []

    def tensor(name: str) -> Tensor:
        asked.append(name)
        return tensor_of(architecture.tensor[name], theta[1])

    found = built.encode_streamed(tensor, architecture).model
    assert relative(found[0] - whole[1], whole) < 1e-9
    assert relative(found[0] - whole[0], whole) > 1e-6
    assert set(asked) == {spec.name for spec in architecture.stored}


def test_an_encoder_that_needs_all_numbers_says_so() -> None:
    architecture = architecture_of(CASES[0])
    with pytest.raises(ValueError, match="RawEncoder needs all of a network's numbers"):
        model(RawEncoderConfig()).encode_streamed(lambda name: torch.zeros(()), architecture)


@torch.no_grad()
def test_a_large_network_is_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = architecture_of(CASES[5])
    theta, built = networks(architecture), model()
    whole = built.encode(theta, architecture).model
    monkeypatch.setattr(message_passing, "CHUNK", 100)
    sizes: list[int] = []
    rows = message_passing._exchange_rows

    def counted(numbers: Tensor, *others) -> tuple[Tensor, Tensor]:
        sizes.append(numbers.shape[1])
        return rows(numbers, *others)

    monkeypatch.setattr(message_passing, "_exchange_rows", counted)
    chunked = built.encode(theta, architecture).model
    assert max(sizes) == 1
    assert relative(chunked - whole, whole) < 1e-9


def test_quantiles_of_many_numbers_ignore_their_order() -> None:
    numbers = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    shuffled = numbers[:, torch.randperm(100_000, generator=torch.Generator().manual_seed(1))]
    found, again = (moments_module.moments([n]) for n in (numbers, shuffled))
    assert (found - again)[:, :2].abs().max() < 1e-6 and torch.equal(found[:, 2:], again[:, 2:])
    exact = moments_module.quantiles(numbers)
    assert (found[:, 2:] - exact).abs().max() < 0.004
