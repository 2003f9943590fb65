"""What do large networks cost to embed: time and memory against the number of weights?

    OMP_NUM_THREADS=1 python benchmarks/encoder_scale.py [--cases widths,resnet18,gpt2] [--json]

From weights as they are stored to the model embedding, scaling included. Each case runs in a
process of its own, after the process holds network, weights (once) and encoder; peaks are above
that. Deriving the architecture is not part of the time and has a column of its own.

- `widths`: one CNN of five widths, 49 k to 49 M weights; exponents of processor time and of peak
  memory against weights, fitted to their logarithms. 1 would be linear.
- `resnet18`: ResNet-18 for 1000 classes (11.7 M weights), one thread.
- `gpt2`: GPT-2 small's shape (124 M weights), two threads; as one vector of weights, and with
  tensors asked for one by one, which needs no copy of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import linear_regression
from time import perf_counter
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from conversion_designs import build
from encoder_measures import MB, Row, in_process, machine, measure, with_floor, work
from torch import Tensor, nn

from graphrep.architecture import Architecture, trace
from graphrep.encoders import TokenEncoderConfig
from graphrep.graph import ParameterGraph
from graphrep.model import WeightModel
from graphrep.progress import show_progress
from graphrep.settings import Settings
from graphrep.tokens import token_grid
from graphrep.zoo import NetworkConfig, build_network

WIDTHS = (52, 123, 292, 692, 1640)
LARGE = {"resnet18": "resnet-18", "gpt2": "gpt2"}  # designs of conversion_designs.py
THREADS = {"gpt2": 2}


def main(
    cases: Annotated[str, typer.Option(help="by comma")] = "widths,resnet18,gpt2",
    encoders: Annotated[str, typer.Option(help="by comma")] = "graph,statistics",
    repeats: int = 3,
    override: Annotated[list[str] | None, typer.Option(help="of conf/, as encoder.x=1")] = None,
    output: Path = Path("runs/encoder_scale"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    jobs = [
        {**job, "encoder": encoder, "repeats": repeats, "override": override or []}
        for case in cases.split(",")
        for job in jobs_of(case)
        for encoder in encoders.split(",")
    ]
    here, rows = machine(), []
    found: Row = {}
    output.mkdir(parents=True, exist_ok=True)
    with show_progress("encoder scale", len(jobs)) as bar:
        for job in jobs:
            rows.append(with_floor(in_process(run, job, timeout_s=600), here))
            about = {"exponents": exponents(rows), "figures": figures(rows)}
            found = {"machine": here, "rows": rows, **about}
            (output / "results.json").write_text(json.dumps(found, indent=1))
            bar()
    print(json.dumps(found) if as_json else tables(found))


def jobs_of(case: str) -> list[Row]:
    """What is measured: a process each."""
    match case:
        case "widths":
            return [{"case": case, "subject": f"width {w}", "width": w} for w in WIDTHS]
        case "resnet18":
            return [{"case": case, "subject": case}]
        case "gpt2":
            return [{"case": case, "subject": case, "streamed": s} for s in (False, True)]
    raise ValueError(f"cases must be of widths, resnet18, gpt2, got '{case}'")


def run(job: Row) -> Row:
    """Measure one job, in this process."""
    torch.manual_seed(0)
    threads = THREADS.get(job["case"], 1)
    torch.set_num_threads(threads)
    module, inputs = subject(job)
    start = perf_counter()
    architecture = trace(module, inputs)
    traced_s = perf_counter() - start
    model = weight_model(job, architecture)
    state = {k: v.detach() for k, v in module.state_dict().items()}
    embed = streamed(model, architecture, state) if job.get("streamed") else None
    if embed is None:
        theta = ParameterGraph.from_state_dict(architecture, state).theta.unsqueeze(0)
        embed = whole(model, architecture, theta)
    del module, state  # the weights are there once
    found = measure(embed, job["repeats"], seconds=60)
    num = architecture.num_parameters
    least = (4 * num + 4 * sum(p.numel() for p in model.encoder.parameters())) / MB
    about = {"threads": threads, "parameters": num, "trace_s": traced_s, "least_mb": least}
    return {**about, **found, **work(embed)}


def subject(job: Row) -> tuple[nn.Module, Any]:
    """A network with random weights, and small example inputs."""
    if job["case"] in LARGE:
        return build(LARGE[job["case"]])
    config = NetworkConfig(hidden=(job["width"],) * 3, pooling="none", head="global")
    return build_network(config, (1, 28, 28), 10).eval(), torch.randn(1, 1, 28, 28)


def weight_model(job: Row, architecture: Architecture) -> WeightModel:
    """With an untrained encoder as conf/ has it, and positions for as many tokens as there are."""
    config = Settings.load([f"encoder={job['encoder']}", *job["override"]]).model
    if isinstance(config.encoder, TokenEncoderConfig):
        position = token_grid(architecture, config.token_size).position
        names = ("max_tokens", "max_layers", "max_rows")
        most = {name: int(n) + 1 for name, n in zip(names, position.amax(0), strict=True)}
        config = replace(config, encoder=replace(config.encoder, **most))
    return WeightModel(config).eval()


def whole(model: WeightModel, architecture: Architecture, theta: Tensor) -> Callable[[], Any]:
    @torch.no_grad()
    def embed() -> Any:
        return model.encode(theta, architecture, tokens=False).model

    return embed


def streamed(
    model: WeightModel, architecture: Architecture, state: dict[str, Tensor]
) -> Callable[[], Any]:
    @torch.no_grad()
    def embed() -> Any:
        return model.encode_streamed(state.__getitem__, architecture).model

    return embed


def exponents(rows: list[Row]) -> list[Row]:
    """Slopes of log(cost) against log(weights), by encoder; and between the two largest."""
    found = []
    measured = [r for r in rows if r["case"] == "widths" and "cpu_ms" in r]
    for encoder in dict.fromkeys(r["encoder"] for r in measured):
        chosen = sorted((r for r in measured if r["encoder"] == encoder), key=_parameters)
        if len(chosen) < 3:
            continue
        for cost in ("cpu_ms", "peak_mb"):
            x = [log(_parameters(r)) for r in chosen]
            y = [log(max(r[cost], 1e-3)) for r in chosen]
            last = (y[-1] - y[-2]) / (x[-1] - x[-2])
            slope = linear_regression(x, y).slope
            found.append({"encoder": encoder, "cost": cost, "exponent": slope, "largest two": last})
    return found


def _parameters(row: Row) -> int:
    return int(row["parameters"])


def figures(rows: list[Row]) -> list[Row]:
    """What was asked for, and whether it is met."""
    asked = [
        ("resnet18", "wall_ms", 4_000, "ResNet-18, one thread, s"),
        ("gpt2", "wall_ms", 40_000, "GPT-2 small, two threads, s"),
        ("gpt2", "peak_mb", 1_500, "GPT-2 small, GB above its weights"),
    ]
    found = []
    for case, name, limit, figure in asked:
        for row in rows:
            if (row["case"], row["encoder"]) == (case, "graph") and name in row:
                way = ", tensor by tensor" * bool(row.get("streamed"))
                value = {"found": row[name] / 1e3, "asked": f"< {limit / 1e3:.3g}"}
                found.append({"figure": figure + way, **value, "met": row[name] < limit})
    return found


def tables(found: Row) -> str:
    columns = (
        "subject", "encoder", "streamed", "threads", "parameters", "cpu_ms", "wall_ms", "first_ms",
        "peak_mb", "trace_s", "gflop", "moved_mb", "floor_ms", "of_floor", "failed",
    )  # fmt: skip
    table = pd.DataFrame(found["rows"])
    kept = [c for c in columns if c in table and table[c].notna().any()]
    parts = [found["machine"]["about"]]
    parts += [f"{k} {v:.0f}" for k, v in found["machine"].items() if k != "about"]
    parts.append(table[kept].to_string(index=False, float_format="%.3g"))
    for name in ("exponents", "figures"):
        if found[name]:
            rows = pd.DataFrame(found[name])
            parts.append(f"\n{name}\n{rows.to_string(index=False, float_format='%.3g')}")
    return "\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
