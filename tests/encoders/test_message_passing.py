"""Message passing in chunks and by recomputation equals the plain one; predictions move along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graphrep
from graphrep.architecture.reorder import reorder_theta
from graphrep.encoders import Batch, message_passing
from graphrep.encoders.message_passing import Functions, Said, channels, exchange

from ..architectures import Case
from ..encoding import architecture_of, every_case, model, networks, relative
from ..nested import Design


def drawn(t: int = 7, s: int = 5, k: int = 3, E: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "numbers": (2, t, s, k),
        "kernel": (k, E),
        "target": (2, t, 3),
        "source": (2, s, 3),
        "target_bend": (2, t, E - 2),
        "source_bend": (2, s, E - 2),
    }
    return {
        name: torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for name, size in sizes.items()
    }


def exchanged(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros(4, dtype=torch.float64)
    functions = Functions(leaves["kernel"], zeros, 2)
    target = Said(leaves["target"], leaves["target_bend"])
    source = Said(leaves["source"], leaves["source_bend"])
    return exchange(leaves["numbers"], None, functions, target, source)


@pytest.mark.parametrize("keep", [2**24, 0], ids=["kept", "made anew"])
@pytest.mark.parametrize("chunk", [1, 41, 90])
def test_chunks_of_rows_give_the_same_sums_and_gradients(
    monkeypatch: pytest.MonkeyPatch, chunk: int, keep: int
) -> None:
    whole, parts = drawn(), drawn()
    expected = exchanged(whole)
    sum(part.sin().sum() for part in expected).backward()
    monkeypatch.setattr(message_passing, "CHUNK", chunk)
    monkeypatch.setattr(message_passing, "KEEP", keep)
    found = exchanged(parts)
    sum(part.sin().sum() for part in found).backward()
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
        assert other.std() > 0.1
    with torch.no_grad():  # results are put in place
        for one, other in zip(exchanged(parts), expected, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12)
    for name, leaf in parts.items():
        gradient, wanted = leaf.grad, whole[name].grad
        assert gradient is not None and wanted is not None
        assert torch.allclose(gradient, wanted, rtol=0, atol=1e-12)
        assert wanted.abs().max() > 0.1


def test_sums_are_those_of_a_plain_loop() -> None:
    leaves = drawn()
    came, went = exchanged(leaves)
    mixed = leaves["numbers"] @ leaves["kernel"]
    bent = mixed[..., 2:] + leaves["target_bend"].unsqueeze(2) + leaves["source_bend"].unsqueeze(1)
    said = torch.cat([mixed[..., :2], torch.nn.functional.gelu(bent)], -1)
    for i in range(7):
        expected = sum(said[0, i, j].outer(leaves["source"][0, j]) for j in range(5))
        assert isinstance(expected, Tensor)
        assert torch.allclose(came[0, i], expected)
    for j in range(5):
        expected = sum(said[1, i, j].outer(leaves["target"][1, i]) for i in range(7))
        assert isinstance(expected, Tensor)
        assert torch.allclose(went[1, j], expected)


@every_case
@torch.no_grad()
def test_predicted_numbers_move_along_with_their_units(case: Case | Design) -> None:
    architecture = architecture_of(case)
    theta, encoder = networks(architecture), model().encoder
    permutation = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    moved = reorder_theta(architecture, theta, permutation)
    before, after = (
        encoder(Batch(architecture, values, 8, tokens=False, predict=True)).numbers
        for values in (theta, moved)
    )
    opaque = torch.isnan(before)
    assert torch.equal(opaque, opaque[:1].expand_as(opaque)) and not opaque.all()
    expected = reorder_theta(architecture, before, permutation)
    assert relative((after - expected).nan_to_num(), before.nan_to_num()) < 1e-9


@torch.no_grad()
def test_a_hidden_number_does_not_show_in_what_is_predicted() -> None:
    from ..architectures import CASES

    architecture = architecture_of(CASES[5])
    theta, encoder = networks(architecture), model().encoder
    visible = torch.rand(theta.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    other = torch.where(visible, theta, theta + 3)

    def predicted(values: Tensor, seen: Tensor) -> Tensor:
        batch = Batch(architecture, values * seen, 8, seen, tokens=False, predict=True)
        return encoder(batch).numbers

    assert torch.equal(predicted(theta, visible), predicted(other, visible))
    everything = torch.ones_like(visible)
    assert not torch.equal(predicted(theta, everything), predicted(other, everything))


@pytest.mark.parametrize("asked", ["numbers", "kernel", "target", "source"])
def test_channels_have_gradients_whatever_asks_for_them(asked: str) -> None:
    """In place only where nothing does; frozen kernels with units that learn are something."""
    torch.manual_seed(0)
    given = {
        "numbers": torch.randn(2, 3, 4, 5, dtype=torch.float64),
        "kernel": torch.randn(5, 6, dtype=torch.float64),
        "target": torch.randn(2, 3, 4, dtype=torch.float64),
        "source": torch.randn(2, 4, 4, dtype=torch.float64),
    }

    def found(values: Tensor) -> Tensor:
        own = {**given, asked: values}
        functions = Functions(own["kernel"], torch.zeros(6, dtype=torch.float64), 2)
        return channels(own["numbers"], None, functions, own["target"], own["source"])

    plain = found(given[asked])
    assert torch.autograd.gradcheck(found, given[asked].clone().requires_grad_())
    assert torch.allclose(found(given[asked].clone().requires_grad_()), plain, atol=1e-12)
