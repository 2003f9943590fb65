"""What does it cost to make a parameter graph, once a design and once a further checkpoint?

    python benchmarks/graph_conversion.py --output runs/graph_conversion

Traces designs from a demo CNN to Mixtral-8x7B, each in processes of its own, so that time and
peak memory are those of a first use; reads further checkpoints of a known design next to plain
reads of the same bytes; times the views next to the time that their bytes take to move. One
torch thread. Wall medians with [least, greatest]; on a busy machine the processor time says
more. Writes a CSV a section and graph_conversion.md. A design may take 12 GB and 3 minutes.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pandas as pd
import typer
from conversion_designs import DESIGNS, build
from conversion_tables import report
from process_memory import memory

from graphrep.progress import show_progress

SLOW = "mixtral-8x7b (meta)"  # once is enough
MAX_MEMORY, MAX_SECONDS = 12 << 30, 180  # of one design, so that it harms nobody else
MB = 1e6


def main(
    output: Path = Path("runs/graph_conversion"),
    quick: Annotated[bool, typer.Option(help="one run each, nothing large")] = False,
    repeats: int = 3,
    designs: Annotated[str, typer.Option(help="by comma; all if empty")] = "",
    worker: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if worker:
        return _work(worker, quick)
    chosen = designs.split(",") if designs else DESIGNS[: 2 if quick else None]
    repeats = 1 if quick else repeats
    jobs = [
        f"trace:{name}"
        for number in range(repeats)
        for name in chosen
        if not number or name != SLOW
    ]
    jobs += ["further:demo cnn"] + ["further:gpt2"] * (not quick) + ["views"]
    rows: list[dict[str, Any]] = []
    machine = _machine()
    output.mkdir(parents=True, exist_ok=True)
    with show_progress("graph conversion", len(jobs)) as bar:
        for job in jobs:
            rows += _in_process(job, quick)
            report(pd.DataFrame(rows), machine, output)
            bar()
    print((output / "graph_conversion.md").read_text())


def _in_process(job: str, quick: bool) -> list[dict[str, Any]]:
    """Rows that a process of its own measured, or one that says why there are none."""
    command = [sys.executable, __file__, "--worker", job, *["--quick"] * quick]
    section, _, subject = job.partition(":")
    failed = {"section": section, "subject": subject, "quantity": "failed"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        return [{**failed, "note": f"stopped after {MAX_SECONDS} s"}]
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"killed, code {done.returncode}"]
        return [{**failed, "note": lines[-1].strip()[:160]}]
    return json.loads(done.stdout.splitlines()[-1])


def _work(job: str, quick: bool) -> None:
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    torch.set_num_threads(1)
    section, _, subject = job.partition(":")
    match section:
        case "trace":
            rows = trace_design(subject)
        case "further":
            rows = read_further(subject, 3 if quick else 9)
        case _:
            rows = view(quick)
    print(json.dumps([{"section": section, **row} for row in rows]))


def trace_design(name: str) -> list[dict[str, Any]]:
    """Tracing, checking and copying values in a fresh process; peaks are above the weights."""
    from graphrep.architecture.trace import trace
    from graphrep.architecture.verify import verify
    from graphrep.graph import ParameterGraph, to_graph

    module, inputs = build(name)
    rows: list[dict[str, Any]] = []
    base, _ = memory(reset=True)

    def step(quantity: str, function: Callable[[], Any]) -> Any:
        memory(reset=True)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            result = function()
        except (RuntimeError, MemoryError) as error:  # what other steps took is worth knowing
            rows.append({"subject": name, "quantity": "failed", "note": f"{quantity}: {error}"})
            return None
        row = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        peak_mb = (memory()[1] - base) / MB
        rows.append({"subject": name, "quantity": quantity, **row, "peak_mb": peak_mb})
        return result

    found = step("trace", lambda: trace(module, inputs))
    rows[0]["parameters"] = found.num_parameters
    costly = [str(note) for note in found.notes if note.unsupported]
    rows[0]["note"] = f"{len(costly)} symmetries lost, first {costly[0]}"[:160] if costly else ""
    checked = step("verify", lambda: verify(found, module, inputs))
    step("copy", lambda: ParameterGraph.from_state_dict(checked, module.state_dict()))
    step("again", lambda: to_graph(module, inputs))
    if all(row["quantity"] != "failed" for row in rows[:3]):
        total = {key: sum(row[key] for row in rows[:3]) for key in ("wall_s", "cpu_s")}
        peak = max(row["peak_mb"] for row in rows[:3])
        rows.append({"subject": name, "quantity": "to_graph", **total, "peak_mb": peak})
    return rows


def read_further(name: str, rounds: int) -> list[dict[str, Any]]:
    """Reading further checkpoints, next to plain reads of the same bytes in the same round."""
    import torch
    from safetensors.torch import load_file, save_file

    from graphrep.checkpoint import read_checkpoint
    from graphrep.graph import ParameterGraph, to_graph

    module, inputs = build(name)
    architecture = to_graph(module, inputs, verify=False).architecture
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("pt", "safetensors"):
            paths = [Path(folder) / f"{i}.{kind}" for i in range(200 if name == "demo cnn" else 1)]
            for path in paths:  # tied names once, as they are stored
                values = {t.name: module.state_dict()[t.name] for t in architecture.stored}
                torch.save(values, path) if kind == "pt" else save_file(values, path)
            size = paths[0].stat().st_size
            buffer = bytearray(size)

            def read_warm(path: Path, into: bytearray = buffer) -> None:
                with open(path, "rb", buffering=0) as file:
                    file.readinto(into)

            def tie(state: Any) -> Any:
                return {t.name: state[t.tied_to or t.name] for t in architecture.tensors}

            def read(path: Path) -> ParameterGraph:
                return _fill(architecture, tie(read_checkpoint(path).state_dict))

            state = tie(read_checkpoint(paths[0]).state_dict)
            ways: dict[str, Callable[[Path], Any]] = {
                "bytes": Path.read_bytes,
                "bytes into warm memory": read_warm,
                "library": load_file if kind != "pt" else _load_torch,
                "read_checkpoint": read_checkpoint,
                "from_state_dict": partial(_fill, architecture, state),
                "whole": read,
            }
            for number in range(rounds + 1):
                for way, function in ways.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    for path in paths:
                        function(path)
                    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                    row = {"wall_s": wall / len(paths), "cpu_s": cpu / len(paths)}
                    about = {"subject": f"{name} .{kind}", "quantity": way, "round": number}
                    if number:  # the first warms the page cache
                        rows.append({**about, **row, "bytes": size})
            for path in paths:
                path.unlink()
    return rows


def _fill(architecture: Any, state: Any, path: Path | None = None) -> Any:
    """Of a state dict that is there already, whatever the path."""
    from graphrep.graph import ParameterGraph

    return ParameterGraph.from_state_dict(architecture, state)


def _load_torch(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def view(quick: bool) -> list[dict[str, Any]]:
    """The explicit graph and what acts on values, next to the time that their bytes take."""
    import torch

    from graphrep.graph import ParameterGraph, to_graph
    from graphrep.interchange import topology
    from graphrep.symmetry import align, random_permutation

    source, target = torch.ones(2, 1 << 24)
    moves = []
    for _ in range(9):
        start = time.perf_counter()
        target.copy_(source)
        moves.append(2 * source.nbytes / (time.perf_counter() - start))
    rows: list[dict[str, Any]] = []
    import torch_geometric.data  # noqa: F401  its import is no part of a conversion

    for name in ("demo cnn", "small cnn", *["1.2 M cnn"] * (not quick)):
        module, inputs = build(name)
        graph = to_graph(module, inputs)
        a, edges = graph.architecture, graph.architecture.num_parameters
        order = random_permutation(a, torch.Generator().manual_seed(0))
        data, other, state = graph.to_pyg(), graph.permute(order), graph.state_dict()

        def first(graph: ParameterGraph = graph) -> None:
            topology.cache_clear()
            graph.to_pyg()

        def many(a: Any = a, state: Any = state) -> None:
            _ = [ParameterGraph.from_state_dict(a, state).to_pyg() for _ in range(32)]

        ways: dict[str, tuple[float, Callable[[], Any]]] = {  # bytes an edge, read and written
            "to_pyg, first": (68, first),
            "to_pyg": (48, graph.to_pyg),
            "from_pyg": (16, partial(ParameterGraph.from_pyg, data, a)),
            "permute": (8, partial(graph.permute, order)),
            "align": (8, partial(align, other, graph)),
            "to_networkx": (0, graph.to_networkx),
            "32 x (from_state_dict, to_pyg)": (32 * 56, many),
        }
        for way, (num_bytes, function) in ways.items():
            for _ in range(1 if way == "to_networkx" and edges > 1e6 else 3 if quick else 7):
                start, cpu = time.perf_counter(), time.process_time()
                function()
                row = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
                floor = {"parameters": edges, "floor_s": edges * num_bytes / median(moves)}
                rows.append({"subject": name, "quantity": way, **row, **floor})
    note = f"memory moves at {median(moves) / 1e9:.1f} GB/s, read and written"
    return [*rows, {"subject": "machine", "quantity": "memory", "note": note}]


def _machine() -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{names[0]} x {len(names)}, 1 torch thread, torch {torch.__version__}, "
        f"Python {platform.python_version()}; load at the start {load}"
    )


if __name__ == "__main__":
    typer.run(main)
