"""How fast a zoo of any size opens and serves rows, against the floor of reading its bytes.

    python -m benchmarks.zoo_store [--rows 100000] [--small-rows 1000000] [--json FILE]

Makes zoos of random values (a design with 2,464 numbers and a tiny one), then measures, medians
over repetitions in one process and one thread: opening (a new process, imports left out), one
random row, a batch of 256 random rows with cold and warm mappings, against copying as many bytes
of the same files by pread into a buffer (the page cache's bandwidth through a read call).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graphrep import to_graph
from graphrep.architecture import Architecture
from graphrep.zoo import Record, Theta, Zoo, append_to
from graphrep.zoo.store import layout

OPENING = """
import sys, time
import pandas, pyarrow.parquet, torch, safetensors
from graphrep.zoo import Zoo
started = time.perf_counter()
zoo = Zoo.open(sys.argv[1])
opened = time.perf_counter()
zoo.graphs[len(zoo) // 2].theta
print(opened - started, time.perf_counter() - opened, len(zoo))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of 2,464 numbers")
    parser.add_argument("--small-rows", type=int, default=1_000_000, help="of a tiny design")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="keep the zoos here")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        figures: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
        figures["cores"] = os.cpu_count()
        for name, rows, design in (
            ("field", options.rows, field_cnn()),
            ("tiny", options.small_rows, tiny()),
        ):
            path = folder / f"{name}-{rows}-{options.dtype}"
            started = time.perf_counter()
            if not (path / layout.HEADER_FILE).exists():
                write(path, design, rows, options.dtype)
            figures[name] = {
                "rows": rows,
                "numbers_a_row": design.num_parameters,
                "write_s": time.perf_counter() - started,
                **measure_opening(path, options.repetitions),
                **measure_reading(Zoo.open(path), options.repetitions),
            }
            print(json.dumps({name: figures[name]}, indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def field_cnn() -> Architecture:
    """The field's small CNN: 2,464 numbers."""
    module = nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(6, 4, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 10)),
    )
    return to_graph(module, torch.zeros(2, 1, 28, 28), name="cnn").architecture


def tiny() -> Architecture:
    """As few numbers as a network can have and still hide something."""
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    return to_graph(module, torch.zeros(2, 2), name="tiny").architecture


def write(path: Path, architecture: Architecture, num_rows: int, dtype: str) -> None:
    """A zoo of random values, ten checkpoints a model."""
    generator = torch.Generator().manual_seed(0)

    def records(start: int, num: int) -> Iterator[Record]:
        for model in range(start, start + num):
            yield Record(
                name=f"model-{model:07d}",
                architecture=architecture,
                theta=torch.randn(10, architecture.num_parameters, generator=generator),
                rows=[
                    {"epoch": e, "test_accuracy": e / 10, "test_loss": 1 / (1 + e)}
                    for e in range(10)
                ],
                properties={"learning_rate": model * 1e-6, "optimiser": "adam", "seed": model},
            )

    with append_to(path, dtype=dtype) as writer:
        for start in range(0, num_rows // 10, 2000):
            writer.add(list(records(start, min(2000, num_rows // 10 - start))))


def measure_opening(path: Path, repetitions: int) -> dict[str, float]:
    """Seconds to open the zoo and to read one row, in new processes."""
    opening, first = [], []
    for _ in range(min(repetitions, 5)):
        command = [sys.executable, "-c", OPENING, str(path)]
        found = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
        opening.append(float(found[0]))
        first.append(float(found[1]))
    return {"open_s": statistics.median(opening), "first_row_s": statistics.median(first)}


def measure_reading(zoo: Zoo, repetitions: int) -> dict[str, float]:
    """Rows one by one and in batches, beside the floor."""
    stream = np.random.default_rng(0)
    figures: dict[str, float] = {}
    (group,) = zoo.groups()
    row_bytes = group.theta[torch.tensor([0])].element_size() * group.theta.shape[1]
    stored = 2 if zoo.header["dtype"] == "float16" else 4
    rows = stream.integers(len(zoo), size=2000).tolist()
    figures["row_us"] = 1e6 * median(lambda: [zoo.graphs[r] for r in rows], repetitions) / len(rows)
    cold, warm, floor = [], [], []
    for _ in range(repetitions):
        batches = [torch.from_numpy(stream.integers(len(zoo), size=256)) for _ in range(20)]
        (fresh,) = Zoo.open(zoo.url).groups()  # nothing of it is mapped yet
        cold.append(seconds(partial(read_batches, fresh.theta, batches)))
        warm.append(seconds(partial(read_batches, fresh.theta, batches)))
        floor.append(
            read_by_calls(zoo, [b.numpy() for b in batches], stored * group.theta.shape[1])
        )
    for name, found in (("cold", cold), ("warm", warm)):
        figures[f"batch_{name}_ms"] = 1e3 * statistics.median(found) / 20
        figures[f"batch_{name}_GBps"] = 20 * 256 * row_bytes / statistics.median(found) / 1e9
    figures["pread_GBps"] = (
        20 * 256 * stored * group.theta.shape[1] / statistics.median(floor) / 1e9
    )
    figures["sequential_read_GBps"] = sequential(zoo)
    return figures


def read_batches(theta: Theta, batches: list[torch.Tensor]) -> None:
    """Each batch is dropped before the next, as training does."""
    for rows in batches:
        theta[rows]


def read_by_calls(zoo: Zoo, batches: list[np.ndarray], row_bytes: int) -> float:
    """Seconds to read the same rows by one pread each into one buffer."""
    ((fingerprint, entry),) = zoo.header["architectures"].items()
    files, starts = [], [0]
    for number, rows in entry["shards"]:
        files.append(os.open(zoo.path / layout.shard_file(fingerprint, number), os.O_RDONLY))
        starts.append(starts[-1] + rows)
    buffer = np.empty((256, row_bytes), np.uint8)
    plan = []
    for rows in batches:
        shards = np.searchsorted(starts, rows, side="right") - 1
        places = rows - np.asarray(starts)[shards]
        plan.append(list(zip(shards.tolist(), (places * row_bytes).tolist(), strict=True)))
    views = [memoryview(row) for row in buffer]

    def read() -> None:
        for rows in plan:
            for view, (shard, offset) in zip(views, rows, strict=True):
                os.preadv(files[shard], [view], 4096 + offset)

    read()
    elapsed = seconds(read)
    for file in files:
        os.close(file)
    return elapsed


def sequential(zoo: Zoo) -> float:
    """GB a second of reading whole files from the page cache into one buffer."""
    files = [f for f in sorted((zoo.path / layout.WEIGHTS).iterdir())][:50]
    buffer = bytearray(max(f.stat().st_size for f in files))

    def read() -> None:
        for file in files:
            with open(file, "rb", buffering=0) as opened:
                opened.readinto(buffer)

    read()
    return sum(f.stat().st_size for f in files) / median(read, 5) / 1e9


def median(work: Callable[[], object], repetitions: int) -> float:
    return statistics.median(seconds(work) for _ in range(repetitions))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
