"""How networks of a zoo are run in training: their module, inputs, and how they usually answer.

Inputs are what the networks were made for: train images of classifiers, places of implicit
images, and for policies, whose observations no zoo keeps, numbers from a normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..architecture import Architecture
from ..running import Behaviour, run_networks, runs_together
from ..zoo import Zoo
from ..zoo.implicit.siren import Siren
from ..zoo.policies.networks import PolicyNetwork

SAMPLE = 64  # networks that say what is usual of an architecture


def behaviours_of(
    zoos: list[Zoo], num_queries: int, num_usual: int = SAMPLE
) -> dict[str, Behaviour]:
    """How the networks of each architecture are run; always the same queries.

    Where zoos share an architecture, the queries are drawn from what each was made for.

    Args:
        num_usual: Networks of an architecture that say how far answers usually spread.

    Raises:
        ValueError: a zoo that tells no module, or no inputs of it.
    """
    modules: dict[str, nn.Module] = {}
    architectures: dict[str, Architecture] = {}
    inputs: dict[str, list[Tensor]] = {}
    samples: dict[str, list[Tensor]] = {}
    for zoo in zoos:
        seen: set[str] = set()
        # training says what is usual; architectures of other splits alone are asked as well
        for part in (zoo.split("train"), zoo):
            for group in part.groups():
                name = group.architecture.fingerprint
                if name in seen:
                    continue
                seen.add(name)
                architectures[name] = group.architecture
                if name not in modules:
                    modules[name] = part.network(int(group.rows[0])).eval()
                inputs.setdefault(name, []).append(inputs_of(part, modules[name], num_queries))
                step = max(1, len(group.theta) // num_usual)
                samples.setdefault(name, []).append(
                    group.theta[torch.arange(0, len(group.theta), step)]
                )
    found = {}
    for name, module in modules.items():
        shares = shares_of(num_queries, len(inputs[name]))
        drawn = [i[:share] for i, share in zip(inputs[name], shares, strict=True)]
        plain = Behaviour(module, torch.cat(drawn), classifies=classifies(module))
        theta = torch.cat(samples[name])
        with torch.no_grad():
            outputs = run_networks(plain, architectures[name], theta).flatten(2)
        together = runs_together(plain, architectures[name], theta[:2], outputs[:2])
        found[name] = replace(plain, spread=_spread(outputs), together=together)
    return found


def listed(zoos: Zoo | Sequence[Zoo]) -> list[Zoo]:
    """One zoo or several, as several."""
    return [zoos] if isinstance(zoos, Zoo) else list(zoos)


def zoo_module(zoo: Zoo, number: int) -> nn.Module:
    """The module of a network; random numbers elsewhere are not changed by its new weights."""
    with torch.random.fork_rng(devices=[]):
        return zoo.network(number)


def classifies(module: nn.Module) -> bool:
    """Whether a zoo's module puts out a logit a class."""
    return not isinstance(module, Siren | PolicyNetwork)


def inputs_of(zoo: Zoo, module: nn.Module, num: int) -> Tensor:
    """Inputs [num, ...] of a zoo's module, drawn with a fixed seed."""
    match module:
        case Siren():
            return torch.rand(num, 2, generator=_generator()) * 2 - 1
        case PolicyNetwork():
            first = module.layers[0] if len(module.layers) else module.output
            assert isinstance(first, nn.Linear)
            return torch.randn(num, first.in_features, generator=_generator())
        case _:
            return _images_of(zoo, num)


@lru_cache(maxsize=8)
def _images_of(zoo: Zoo, num: int) -> Tensor:
    """Once a zoo that is open, not an architecture: reading CIFAR takes a second."""
    images = zoo.images().train_images
    return images[torch.randperm(len(images), generator=_generator())[:num]]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _spread(outputs: Tensor) -> float:
    """How far outputs [M, Q, O] usually are from what networks answer on average: medians over
    networks, which those with huge outputs or none do not move."""
    finite = outputs[outputs.isfinite().all(2).all(1)]
    if not len(finite):
        return 1.0
    usual = finite.mean(1).median(0).values
    return max(float((finite - usual).square().mean((1, 2)).median()), 1e-6)


def shares_of(num: int, parts: int) -> list[int]:
    """`num` in `parts` whole numbers as even as can be."""
    return [num * (i + 1) // parts - num * i // parts for i in range(parts)]
