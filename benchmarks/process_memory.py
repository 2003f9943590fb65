"""Memory of this process, read from the kernel: what the benchmarks' peaks are taken with."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def memory(reset: bool = False) -> tuple[float, float]:
    """Bytes of this process: now, and at most since the last reset (or since its start)."""
    if reset:
        gc.collect()
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory would hide what is taken
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {line[0]: float(line[1]) * 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
    return found["VmRSS:"], found["VmHWM:"]
