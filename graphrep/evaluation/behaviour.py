"""Sampled networks in the real module, on real images: accuracy, fine-tuning, novelty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..graph import ParameterGraph
from ..symmetry import align
from ..zoo import Images, evaluate, train_steps

NEAREST = 5  # candidates that are aligned, by distance and again by behaviour


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """How sampled networks and those from scratch are trained on."""

    steps: tuple[int, ...] = (10, 50)  # accuracy is taken after each
    optimiser: str = "adam"
    learning_rate: float = 3e-3
    batch_size: int = 32
    batch_norm_passes: int = 200  # forward passes that settle running statistics


def condition_batch_norm(
    module: nn.Module, images: Tensor, num_passes: int, batch_size: int = 64
) -> None:
    """Settle running statistics by forward passes in train mode, no weight moves.

    Does nothing to a module without batch norm. Source: SANE, arXiv:2406.09997.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not any(m.track_running_stats for m in norms):
        return
    training = module.training
    module.eval()
    for norm in norms:
        norm.train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(num_passes):
            rows = torch.randint(len(images), (batch_size,), generator=generator)
            module(images[rows])
    module.train(training)


def finetune(
    module: nn.Module, images: Images, config: FinetuningConfig, seed: int
) -> dict[int, float]:
    """Test accuracy at step 0 and after each number of steps, training in place."""
    found = {0: evaluate(module, images.test_images, images.test_labels)[0]}
    done = 0
    for number, steps in enumerate(sorted(config.steps)):
        train_steps(
            module,
            images,
            optimiser=config.optimiser,
            learning_rate=config.learning_rate,
            num_steps=steps - done,
            batch_size=config.batch_size,
            seed=seed + number,
        )
        done = steps
        found[steps] = evaluate(module, images.test_images, images.test_labels)[0]
    return found


@torch.no_grad()
def predictions(module: nn.Module, images: Tensor) -> Tensor:
    """Classes that a network predicts, int64 [N]."""
    module.eval()
    return torch.cat([module(part).argmax(1) for part in images.split(512)])


@dataclass(frozen=True)
class Novelty:
    """How far networks are from the nearest of others, in weights (aligned) and behaviour.

    `weights`: relative distance |a - b| / |b| after alignment to b, the least over the
    nearest few before alignment and the nearest few in behaviour, so at most too large;
    `behaviour`: share of test images on which predictions differ. One number a network.
    """

    weights: tuple[float, ...]
    behaviour: tuple[float, ...]


def novelty(
    graphs: Sequence[ParameterGraph],
    others: Sequence[ParameterGraph],
    build: Callable[[ParameterGraph], nn.Module],
    images: Tensor,
    *,
    same: bool = False,
) -> Novelty:
    """Distance of each network to the nearest of `others`.

    Args:
        build: The module with a graph's values loaded.
        same: `graphs` and `others` are one list; a network is not its own neighbour.
    """
    said = torch.stack([predictions(build(g), images) for g in graphs])
    theirs = said if same else torch.stack([predictions(build(g), images) for g in others])
    weights, behaviour = [], []
    for i, graph in enumerate(graphs):
        rivals = [j for j in range(len(others)) if not (same and i == j)]
        disagreement = (theirs[rivals] != said[i]).float().mean(1)
        behaviour.append(float(disagreement.min()))
        plain = torch.tensor([float((graph.theta - others[j].theta).norm()) for j in rivals])
        close = {rivals[k] for k in plain.argsort()[:NEAREST].tolist()}
        close |= {rivals[k] for k in disagreement.argsort()[:NEAREST].tolist()}
        distances = [
            float((align(graph, others[j]).theta - others[j].theta).norm() / others[j].theta.norm())
            for j in close
        ]
        weights.append(min(distances))
    return Novelty(tuple(weights), tuple(behaviour))
