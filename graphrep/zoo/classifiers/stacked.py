"""Training of many networks at once: their parameters are rows of one tensor.

A step is one call of all networks and one update of all rows, however many there are.
Each member has its own start, images, batches, dropout masks and hyper-parameters, and
becomes what `train_member` makes of it up to rounding: the same numbers are drawn from the
same generators, and rows never meet. Members with fewer images rest until the others have
finished the epoch; short last batches are filled up with images that do not count.

On the CPU this pays where one network's step is mostly overhead: MLPs, and CNNs on images of
a few pixels; on larger images the loop's convolutions are as fast, and a stack of one or two
is slower than the loop (benchmarks/zoo_training.py). An accelerator is asked for no number
within an epoch; only dropout masks come from the CPU. Knows no files.

Letters in shapes: S networks, K those of them that have a batch left, P parameters of one
network, B images of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from ..images import Images
from .config import Member
from .initialisation import initialise
from .networks import build_network
from .stacked_batches import num_batches, stacked_batches
from .stacked_dropout import DropoutMasks
from .stacked_operations import call_stacked, largest_operation
from .stacked_optimisers import StackedOptimiser
from .train import (
    Checkpoint,
    epoch_order,
    judged,
    limited_threads,
    num_train_rows,
    own_train_rows,
    train_member,
)

STACKED_KINDS = ("mlp", "cnn", "resnet")
# Numbers of one operation of one launch, patches of convolutions included: about what a core's
# caches hold, and 1 GiB in float32.
_AT_ONCE = {"cpu": 2**20, "cuda": 2**28}
_LEAST = 8  # networks of a stack, or images of each that are judged at once


def can_stack(member: Member, images: Images) -> bool:
    """Whether a member can be trained in a stack.

    All MLPs, CNNs and ResNets can, except where batch norm would see a single image.
    """
    sees_one = min(member.batch_size, num_train_rows(member, images)) == 1
    return member.network.kind in STACKED_KINDS and not (member.network.batch_norm and sees_one)


def train_members_stacked(
    members: Sequence[Member],
    images: Images,
    epochs: Collection[int],
    *,
    device: str | torch.device = "cpu",
    stack_size: int | None = None,
    num_threads: int = 1,
) -> list[list[Checkpoint]]:
    """Train many members at once; each is kept at each of `epochs`, 0 being its start.

    Members of one design (but for dropout) and batch size make stacks; those that
    `can_stack` refuses are trained one after another, on the CPU.

    Args:
        device: Of the stacks; checkpoints come back to the CPU.
        stack_size: Networks trained at once, at most. None for as many as the caches of a core
            or a part of the GPU's memory hold.
        num_threads: Of torch on the CPU. With one, a call gives the same bits every time.

    Returns:
        Each member's checkpoints, as `train_member` gives them up to rounding: in float32
        a start of 1e-7 grows as training is chaotic, in float64 they agree to 1e-9.
    """
    device = torch.device(device)
    results: dict[int, list[Checkpoint]] = {}
    here = _on_device(images, device)
    with limited_threads(num_threads), torch.random.fork_rng(devices=[]):
        for places in _stacks(members, images, device, stack_size):
            stack = _Stack([members[i] for i in places], images, here)
            results.update(zip(places, stack.train(epochs), strict=True))
    for i, member in enumerate(members):
        if i not in results:
            results[i] = train_member(member, images, epochs)
    return [results[i] for i in range(len(members))]


def _stacks(
    members: Sequence[Member], images: Images, device: torch.device, size: int | None
) -> Iterator[list[int]]:
    """Positions of members that are trained at once, those with most images first."""
    groups = defaultdict(list)
    for i, member in enumerate(members):
        if can_stack(member, images):
            design = replace(member.network, dropout=0.0)
            groups[design, member.batch_size].append(i)
    for (design, batch_size), places in groups.items():
        places.sort(key=lambda i: -num_train_rows(members[i], images))
        module = build_network(design, images.input_shape, images.num_classes)
        num = size or max(_LEAST, _images_at_once(module, images, device) // batch_size)
        for start in range(0, len(places), num):
            yield places[start : start + num]


def _images_at_once(module: nn.Module, images: Images, device: torch.device) -> int:
    """Images of all networks of a launch."""
    at_once = _AT_ONCE.get(device.type, _AT_ONCE["cuda"])
    return at_once // largest_operation(module, images.test_images[:1].float())


def _on_device(images: Images, device: torch.device) -> Images:
    return replace(
        images,
        train_images=images.train_images.to(device),
        train_labels=images.train_labels.to(device),
        test_images=images.test_images.to(device),
        test_labels=images.test_labels.to(device),
    )


class _Stack:
    """Members of one design and batch size, those with most images first."""

    def __init__(self, members: Sequence[Member], images: Images, here: Images) -> None:
        """
        Args:
            images: On the CPU.
            here: The same where the stack is trained.
        """
        self.members = members
        self.images = here
        self.device, self.dtype = here.train_images.device, here.train_images.dtype
        self.batch_size = members[0].batch_size
        self.rows = [own_train_rows(member, images) for member in members]
        self.module = build_network(members[0].network, images.input_shape, images.num_classes)
        num_images = _images_at_once(self.module, images, self.device)
        self.judged_at_once = max(_LEAST, num_images // len(members))
        self.names = list(self.module.state_dict())
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        starts = []
        for m in members:
            initialise(self.module, m.init, gain=m.init_gain, std=m.init_std, seed=m.seed)
            starts.append(parameters_to_vector(self.module.parameters()).detach())
        self.theta = torch.stack(starts).to(self.device, self.dtype)  # [S, P]
        self.buffers = {
            name: torch.stack([buffer] * len(members)).to(
                self.device, self.dtype if buffer.is_floating_point() else None
            )
            for name, buffer in self.module.named_buffers()
        }
        self.optimiser = StackedOptimiser(members, self.theta)
        self.masks = DropoutMasks(
            self.module.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            images.train_images[:2].float().contiguous(memory_format=torch.channels_last),
            probabilities=[member.network.dropout for member in members],
            seeds=[member.seed + 2 for member in members],
            batch_size=self.batch_size,
            dtype=self.dtype,
        )
        smoothing = [member.label_smoothing for member in members]
        self.smooths = any(smoothing)
        self.smoothing = torch.tensor(smoothing, dtype=torch.float64).unsqueeze(1).to(self.theta)

    def train(self, epochs: Collection[int]) -> list[list[Checkpoint]]:
        """All members' checkpoints."""
        generators = [torch.Generator().manual_seed(m.seed + 1) for m in self.members]
        checkpoints: list[list[Checkpoint]] = [[] for _ in self.members]
        for epoch in range(max(epochs) + 1):
            if epoch > 0:
                self._train_epoch(
                    epoch,
                    [
                        epoch_order(rows, self.batch_size, generator)
                        for rows, generator in zip(self.rows, generators, strict=True)
                    ],
                )
            if epoch in epochs:
                for kept, checkpoint in zip(checkpoints, self._judge(epoch), strict=True):
                    kept.append(checkpoint)
        return checkpoints

    def _train_epoch(self, epoch: int, orders: Sequence[Tensor]) -> None:
        self.module.train()
        steps = [num_batches(len(order), self.batch_size) for order in orders]
        self.optimiser.plan([(epoch - 1) * num for num in steps], max(steps))
        batches = stacked_batches(orders, self.batch_size, self.device)
        for place, batch in enumerate(batches):
            num = len(batch.sizes)
            weights = batch.weights(self.dtype)
            parameters = {n: p.detach().requires_grad_() for n, p in self._parameters(num).items()}
            logits = call_stacked(
                self.module,
                parameters | {name: buffer[:num] for name, buffer in self.buffers.items()},
                _look_up(self.images.train_images, batch.rows),
                weights,
                self.masks.draw(batch.sizes, self.device),
            )
            labels = _look_up(self.images.train_labels, batch.rows)
            losses = self._losses(logits, labels) * weights
            gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
            gradient = torch.cat([part.flatten(1) for part in gradients], 1)
            self.optimiser.step(self.theta[:num], gradient, place)

    def _judge(self, epoch: int) -> list[Checkpoint]:
        """All members as they are now."""
        images = self.images
        everything = [torch.arange(len(images.test_labels))] * len(self.members)
        train = self._evaluate(images.train_images, images.train_labels, self.rows)
        test = self._evaluate(images.test_images, images.test_labels, everything)
        values = self._parameters(len(self.members)) | self.buffers
        values = {name: value.cpu() for name, value in values.items()}
        return [
            judged(epoch, {name: values[name][i].clone() for name in self.names}, train[i], test[i])
            for i in range(len(self.members))
        ]

    @torch.no_grad()
    def _evaluate(
        self, images: Tensor, labels: Tensor, rows: Sequence[Tensor]
    ) -> list[tuple[float, float]]:
        """Accuracy and mean cross-entropy of each network over its rows."""
        self.module.eval()
        values = self._parameters(len(rows)) | self.buffers
        correct = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        loss = torch.zeros(len(rows), dtype=torch.float64, device=self.device)
        for batch in stacked_batches(rows, self.judged_at_once, self.device):
            num = len(batch.sizes)
            logits = call_stacked(
                self.module,
                {name: value[:num] for name, value in values.items()},
                _look_up(images, batch.rows),
                batch.weights(self.dtype),
            )
            y = _look_up(labels, batch.rows)
            losses = F.cross_entropy(logits, y, reduction="none")
            correct[:num] += (batch.counted & (logits.max(1).indices == y)).sum(1)
            loss[:num] += losses.where(batch.counted, 0).sum(1)
        lengths = [len(own) for own in rows]
        return [
            (c / length, total / length)
            for c, total, length in zip(correct.tolist(), loss.tolist(), lengths, strict=True)
        ]

    def _parameters(self, num: int) -> dict[str, Tensor]:
        """Views of theta: each parameter of the first networks, [K, ...]."""
        parts = self.theta[:num].split([shape.numel() for shape in self.shapes.values()], 1)
        return {
            name: part.unflatten(1, shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each image, [K, B], with each network's label smoothing."""
        hard = F.cross_entropy(logits, labels, reduction="none")
        if not self.smooths:
            return hard
        even = F.cross_entropy(logits, labels, reduction="none", label_smoothing=1.0)
        return torch.lerp(hard, even, self.smoothing[: len(logits)])


def _look_up(items: Tensor, places: Tensor) -> Tensor:
    return items.index_select(0, places.flatten()).unflatten(0, places.shape)
