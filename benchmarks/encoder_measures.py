"""Fresh processes, medians, peaks and floors, for encoder_speed.py and encoder_scale.py.

Knows how to measure; knows no encoder.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from process_memory import memory
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

MB = 1e6
Row = dict[str, Any]


def in_process(function: Callable[[Row], Row], job: Row, timeout_s: float = 300) -> Row:
    """What a function makes of a job in a process of its own, beside the job itself.

    The process is forked from one that has imported what the script imports and done nothing.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(function, job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(timeout_s) else {"failed": f"over {timeout_s:.0f} s"}
    except EOFError:  # killed, as by a lack of memory
        process.join()
        found = {"failed": f"ended with code {process.exitcode}"}
    process.kill()
    process.join()
    return {**job, **found}


def _answer(function: Callable[[Row], Row], job: Row, pipe: Connection) -> None:
    try:
        pipe.send(function(job))
    except Exception as error:  # one case less is no reason to lose the others
        pipe.send({"failed": f"{type(error).__name__}: {error}"[:200]})


def measure(function: Callable[[], Any], repeats: int, seconds: float = 10) -> Row:
    """Median milliseconds of processor and wall, and the peak above what was there before.

    The first call, which fills caches, is timed apart; at least one more follows, and up to
    `repeats` while they take less than `seconds` together.
    """
    base, _ = memory(reset=True)
    wall, cpu = [], []
    while len(wall) < 2 or (len(wall) <= repeats and sum(wall[1:]) < seconds):
        start = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {
        "cpu_ms": 1e3 * median(cpu[1:]),
        "least_ms": 1e3 * min(cpu[1:]),
        "most_ms": 1e3 * max(cpu[1:]),
        "wall_ms": 1e3 * median(wall[1:]),
        "first_ms": 1e3 * wall[0],
        "repeats": len(wall) - 1,
        "peak_mb": (memory()[1] - base) / MB,
    }


class Moved(TorchDispatchMode):
    """Bytes that torch's operations read and write, one by one, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            for value in tree_leaves((args, kwargs, found)):
                if isinstance(value, Tensor):
                    self.num_bytes += value.numel() * value.element_size()
        return found


def work(function: Callable[[], Any]) -> Row:
    """Operations of the matrix products, and the bytes that all operations move."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops, Moved() as moved:
        function()
    return {"gflop": flops.get_total_flops() / 1e9, "moved_mb": moved.num_bytes / MB}


def machine() -> Row:
    """What one thread of this machine does: matrix products, copies; best of some tries."""
    torch.set_num_threads(1)
    found: Row = {}
    for kind in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, 1024, 1024).to(kind)
        rate = 2 * 1024**3 / _least(lambda a=a, b=b: a @ b) / 1e9
        found[f"{str(kind).removeprefix('torch.')}_gflop_s"] = rate
    source, target = torch.ones(2, 1 << 24)
    found["memory_gb_s"] = 2 * source.nbytes / _least(lambda: target.copy_(source)) / 1e9
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = Path("/proc/loadavg").read_text().split()[0]
    about = f"torch {torch.__version__}, Python {platform.python_version()}; load {load}"
    return {**found, "about": f"{names[0]} x {len(names)}, {about}, {time.strftime('%Y-%m-%d')}"}


def _least(function: Callable[[], Any]) -> float:
    function()
    found = []
    for _ in range(15):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def with_floor(row: Row, machine: Row, precision: str = "float32") -> Row:
    """A row with the least time that its operations, or its unavoidable bytes, would take.

    `least_mb` counts inputs, weights and outputs once; what operations pass on to each other
    is `moved_mb`, which a fused implementation would not move.
    """
    if "gflop" not in row:
        return row
    product = row["gflop"] / machine[f"{precision}_gflop_s"]
    floor_ms = 1e3 * max(product, row["least_mb"] / 1e3 / machine["memory_gb_s"])
    return {**row, "floor_ms": floor_ms, "of_floor": floor_ms / row["cpu_ms"]}
