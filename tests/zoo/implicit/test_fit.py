"""Fitting a stack: the same as fitting one after another, whoever else is in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from graphrep.zoo.implicit.fit import SLICE, fit
from graphrep.zoo.implicit.siren import Siren, render

LEARNING_RATE = 2e-3


def sirens(num: int, hidden: tuple[int, ...], channels: int, first_seed: int = 0) -> list[Siren]:
    return [
        Siren(hidden, channels).initialise(torch.Generator().manual_seed(first_seed + i))
        for i in range(num)
    ]


def flat(siren: Siren) -> Tensor:
    return parameters_to_vector(siren.parameters()).detach().clone()


def new_pixels(num: int, channels: int, height: int = 7, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(num, channels, height, width, generator=generator)


def fit_alone(siren: Siren, pixels: Tensor, num_steps: int) -> tuple[Tensor, float]:
    """The obvious loop over one module: parameters and the error at the end."""
    optimiser = torch.optim.Adam(siren.parameters(), lr=LEARNING_RATE)
    places = torch.cartesian_prod(
        *(torch.linspace(-1, 1, size, dtype=pixels.dtype) for size in pixels.shape[1:])
    )
    wanted = pixels.flatten(1).T
    for _ in range(num_steps):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(siren(places), wanted).backward()
        optimiser.step()
    with torch.no_grad():
        return flat(siren), float(torch.nn.functional.mse_loss(siren(places), wanted))


@pytest.mark.parametrize(("hidden", "channels"), [((8, 6), 1), ((7,), 2), ((5, 9, 4), 3)], ids=str)
def test_a_stack_equals_one_after_another(hidden: tuple[int, ...], channels: int) -> None:
    num = 3
    modules = [siren.double() for siren in sirens(num, hidden, channels)]
    pixels = new_pixels(num, channels).double()
    start = torch.stack([flat(siren) for siren in modules])
    thetas, errors = fit(
        start,
        pixels,
        hidden=hidden,
        omega=30.0,
        learning_rate=LEARNING_RATE,
        steps=(0, 1, 12),
    )
    assert thetas[0].equal(start)
    alone = [fit_alone(siren, image, 12) for siren, image in zip(modules, pixels, strict=True)]
    assert (thetas[-1] - torch.stack([theta for theta, _ in alone])).abs().max() < 1e-9
    assert errors[-1].tolist() == pytest.approx([error for _, error in alone], rel=1e-9)
    assert (thetas[-1] - start).abs().max() > 1e-2  # all of this has moved
    (other,) = sirens(1, hidden, channels, first_seed=50)
    elsewhere, _ = fit_alone(other.double(), pixels[0], 12)
    assert (thetas[-1, 0] - elsewhere).abs().max() > 1e-2


@pytest.mark.parametrize("hidden", [(32, 32), (7, 5)], ids=str)
def test_bits_do_not_depend_on_who_else_is_fitted(hidden: tuple[int, ...]) -> None:
    """Alone, in a part of a slice, and among several slices."""
    num = 2 * SLICE + 3
    start = torch.stack([flat(siren) for siren in sirens(num, hidden, 1)])
    pixels = new_pixels(num, 1)

    def fitted(rows: slice) -> Tensor:
        thetas, _ = fit(
            start[rows],
            pixels[rows],
            hidden=hidden,
            omega=30.0,
            learning_rate=LEARNING_RATE,
            steps=(30,),
        )
        return thetas[0]

    among = fitted(slice(num))
    for first in (0, SLICE, 2 * SLICE):  # where slices begin, as chunks do
        assert fitted(slice(first, first + 1))[0].equal(among[first])
        assert fitted(slice(first, first + 3)).equal(among[first : first + 3])
    assert not among[0].equal(among[1])


def test_errors_are_those_of_the_images_that_members_render() -> None:
    pixels = new_pixels(1, 1, 8, 8)
    (siren,) = sirens(1, (32, 32), 1)
    thetas, errors = fit(
        flat(siren)[None],
        pixels,
        hidden=(32, 32),
        omega=30.0,
        learning_rate=LEARNING_RATE,
        steps=(0, 20),
    )
    for theta, error in zip(thetas[:, 0], errors[:, 0], strict=True):
        torch.nn.utils.vector_to_parameters(theta, siren.parameters())
        assert float((render(siren, 8, 8) - pixels[0]).square().mean()) == pytest.approx(
            float(error), rel=1e-4
        )
    assert errors[0, 0] > 5 * errors[1, 0]
