"""Several processes that train one model together, as torchrun starts them.

gloo between CPUs, nccl between GPUs. Alone, everything here does nothing. Knows
neither models nor networks.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
TIMEOUT = timedelta(days=1)  # for a process that makes a zoo first; torchrun sees whether one died


@dataclass(frozen=True)
class Processes:
    """Those that train together; `rank` is this one's number among `num`."""

    rank: int = 0
    num: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process logs, shows progress and writes files; one alone does."""
        return self.rank == 0

    def share(self, item: T) -> T:
        """What the leading process holds; waits for all."""
        if self.num == 1:
            return item
        listed: list[Any] = [item]
        dist.broadcast_object_list(listed, src=0)
        return listed[0]

    def gather(self, item: T) -> list[T]:
        """What each process holds, in the order of ranks; every process gets all."""
        if self.num == 1:
            return [item]
        listed: list[Any] = [None] * self.num
        dist.all_gather_object(listed, item)
        return listed

    def add(self, value: Tensor) -> Tensor:
        """The sum of all processes' values, in place."""
        if self.num > 1:
            dist.all_reduce(value)
        return value

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes, whichever parameters a batch uses.

        All begin with the values that the leading process has; buffers are constants of training.

        Raises:
            ValueError: several processes, and means over a batch, which no process has whole.
        """
        if self.num == 1:
            return module
        if any(isinstance(part, nn.BatchNorm1d) for part in module.modules()):
            raise ValueError(
                f"a norm over the batch needs one process, and there are {self.num}; take "
                "objective.head.norm=layer"
            )
        return nn.parallel.DistributedDataParallel(
            module, forward_sync_buffers=False, find_unused_parameters=True
        )


def join_processes(device: str = "cpu") -> Processes:
    """The processes that torchrun started, joined when first asked for; else this one alone.

    Args:
        device: As `choose_device` takes it; nccl joins those that have GPUs.
    """
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        chosen = choose_device(device)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(_leave)
    return Processes(dist.get_rank(), dist.get_world_size())


def choose_device(name: str) -> torch.device:
    """cpu, cuda (this process's own GPU) or, of auto, the better that torch finds.

    Raises:
        ValueError: cuda, and torch finds no GPU.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError(
            "training.device is cuda, but torch finds no GPU; take training.device=cpu"
        )
    if name == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
