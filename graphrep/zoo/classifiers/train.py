"""How a network is trained and judged: the one training loop over images.

Everything follows from seeds and one thread, so that a member's weights are
the same bits whichever process trains it. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import Images
from .config import Member
from .initialisation import initialise
from .networks import build_network
from .optimisers import build_optimiser


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's values and metrics after one epoch of its training."""

    epoch: int
    state_dict: dict[str, Tensor]
    train_accuracy: float  # over the member's own part of the train images
    train_loss: float
    test_accuracy: float
    test_loss: float
    diverged: bool  # some value or loss is not finite

    @property
    def generalisation_gap(self) -> float:
        """Train accuracy minus test accuracy."""
        return self.train_accuracy - self.test_accuracy


def train_member(member: Member, images: Images, epochs: Collection[int]) -> list[Checkpoint]:
    """Train one network and keep it at each of `epochs`; 0 is its start.

    A network whose values cease to be finite is carried on and flagged.
    """
    generator = torch.Generator().manual_seed(member.seed + 1)
    rows = own_train_rows(member, images)
    checkpoints = []
    with single_thread(), torch.random.fork_rng(devices=[]):
        module = build_network(member.network, images.input_shape, images.num_classes)
        initialise(
            module, member.init, gain=member.init_gain, std=member.init_std, seed=member.seed
        )
        module.to(images.train_images.dtype)
        torch.manual_seed(member.seed + 2)  # dropout
        _lay_out(module, torch.channels_last)  # up to twice as fast for small CNNs
        optimiser = build_optimiser(
            module,
            member.optimiser,
            member.learning_rate,
            weight_decay=member.weight_decay,
            momentum=member.momentum,
        )
        for epoch in range(max(epochs) + 1):
            if epoch > 0:
                batches = epoch_order(rows, member.batch_size, generator).split(member.batch_size)
                _fit(module, optimiser, images, batches, member.label_smoothing)
            if epoch in epochs:
                checkpoints.append(_checkpoint(module, epoch, rows, images))
    return checkpoints


def own_train_rows(member: Member, images: Images) -> Tensor:
    """Positions of the train images that a member sees, ascending."""
    generator = torch.Generator().manual_seed(member.seed)
    order = torch.randperm(len(images.train_labels), generator=generator)
    return order[: num_train_rows(member, images)].sort().values


def num_train_rows(member: Member, images: Images) -> int:
    """How many of the train images a member sees."""
    return max(1, round(member.train_fraction * len(images.train_labels)))


def train_steps(
    module: nn.Module,
    images: Images,
    *,
    optimiser: str,
    learning_rate: float,
    num_steps: int,
    batch_size: int,
    seed: int,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> None:
    """Train a module in place on the train images, for instance to fine-tune a sampled one.

    The same seed gives the same batches to every module. The module is left
    in the mode that it came in, with gradients cleared.

    Raises:
        ValueError: unknown optimiser.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _lay_out(module, torch.channels_last)
        built = build_optimiser(
            module, optimiser, learning_rate, weight_decay=weight_decay, momentum=momentum
        )
        rows = torch.arange(len(images.train_labels))
        batches = _endless_batches(rows, batch_size, generator)
        _fit(module, built, images, islice(batches, num_steps))
        _lay_out(module, torch.contiguous_format)
        module.zero_grad(set_to_none=True)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    rows: Tensor | None = None,
    batch_size: int = 512,
) -> tuple[float, float]:
    """Accuracy and mean cross-entropy in evaluation mode; the module's mode is restored.

    Args:
        images: [N, C, H, W], scaled as the module expects.
        labels: int64 [N].
        rows: Positions of the images to use; None for all.
    """
    was_training = module.training
    module.eval()
    correct, loss = 0, 0.0
    rows = torch.arange(len(labels)) if rows is None else rows
    for batch in rows.split(batch_size):
        y = labels[batch]
        logits = module(images[batch].contiguous(memory_format=torch.channels_last))
        correct += int((logits.argmax(1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
    module.train(was_training)
    return correct / len(rows), loss / len(rows)


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for torch's own loops: several would sum in another order."""
    with limited_threads(1):
        yield


@contextmanager
def limited_threads(num_threads: int) -> Iterator[None]:
    """This number of threads for torch's own loops."""
    others = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(others)


def epoch_order(rows: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """One epoch's images, to be cut into batches; the last one may be short.

    A last batch of one, which batch norm cannot take, is left out.
    """
    order = rows[torch.randperm(len(rows), generator=generator)]
    leaves_one = len(order) > batch_size and (len(order) - 1) % batch_size == 0
    return order[:-1] if leaves_one else order


def judged(
    epoch: int,
    state_dict: dict[str, Tensor],
    train: tuple[float, float],
    test: tuple[float, float],
) -> Checkpoint:
    """A checkpoint from accuracy and loss over the train and the test images."""
    finite = all(bool(value.isfinite().all()) for value in state_dict.values())
    return Checkpoint(
        epoch=epoch,
        state_dict=state_dict,
        train_accuracy=train[0],
        train_loss=train[1],
        test_accuracy=test[0],
        test_loss=test[1],
        diverged=not (finite and math.isfinite(train[1]) and math.isfinite(test[1])),
    )


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    module.to(memory_format=memory_format)  # type: ignore[call-overload]


def _fit(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Images,
    batches: Iterable[Tensor],
    label_smoothing: float = 0.0,
) -> None:
    was_training = module.training
    module.train()
    for batch in batches:
        x = images.train_images[batch].contiguous(memory_format=torch.channels_last)
        y = images.train_labels[batch]
        F.cross_entropy(module(x), y, label_smoothing=label_smoothing).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    module.train(was_training)


def _endless_batches(rows: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from epoch_order(rows, batch_size, generator).split(batch_size)


def _checkpoint(module: nn.Module, epoch: int, rows: Tensor, images: Images) -> Checkpoint:
    train = evaluate(module, images.train_images, images.train_labels, rows=rows)
    test = evaluate(module, images.test_images, images.test_labels)
    state_dict = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }
    return judged(epoch, state_dict, train, test)
