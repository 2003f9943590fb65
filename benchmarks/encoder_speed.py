"""How fast are the encoders, next to PNA on explicit edges and to a stock token transformer?

    OMP_NUM_THREADS=1 python benchmarks/encoder_speed.py [--json] [--quick]

One thread. Each case runs in a process of its own: the median of processor milliseconds (on a
shared machine wall time says less; it is beside), least and most, and the peak of memory above
the process with network, encoder and scaled weights in place. What is timed is the encoder on
scaled weights, as the peers' figures leave out how their graphs are made; scaling and
`Representation.encode` have rows of their own. Without `tokens` the
model embedding alone is asked for, which is all that the peers give. A backward is that
of the mean square of what came out, to all weights of the encoder.

Rivals, in the same run (encoder_rivals.py): `pna` is the explicit-edge baseline of this package,
which does at nodes much of what the published one does at edges; `PyG` has the published shape,
made of PyG's `PNAConv`, and `PyG-pairs` makes features of all pairs of nodes as the published code
does; `torch` is a token transformer of torch's own layers. Labelled as stored:
figures of the published code on this kind of machine, from the peers' facts.
The floor of a case is the larger of its matrix products at the rate of a large product and its
inputs, weights and outputs at the rate of a copy, both measured at the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from encoder_figures import BATCH, WIDE, against_baselines, figures, stored, tables
from encoder_measures import Row, in_process, machine, measure, with_floor, work
from encoder_rivals import LibraryPNA, LibraryTransformer
from torch import Tensor, nn

from graphrep.architecture import Architecture
from graphrep.decoders import DecoderConfig, TokenDecoder
from graphrep.encoders import (
    Batch,
    Embedding,
    EncoderConfig,
    HyperRepresentationConfig,
    TokenEncoderConfig,
    build_encoder,
)
from graphrep.graph import to_graph
from graphrep.model import ModelConfig, WeightModel
from graphrep.progress import show_progress
from graphrep.representation import Representation
from graphrep.scaling import Scaling
from graphrep.settings import Settings
from graphrep.tokens import TokenGrid, token_grid
from graphrep.zoo import NetworkConfig, build_network

SUBJECTS = {BATCH: (32, 16), "5 k": (1, 16), "75 k": (1, 64), WIDE: (1, 256)}  # channels
LIBRARY = ("PyG", "PyG-pairs")
MIXED = ((16, 16, 16), (8, 16), (32,), (12, 12, 12, 12), (24, 8), (20, 20))
STORED = {False: 1624.0, True: 403.0}  # tokens a processor second, published code, float32
WINDOW, ROWS, TOKEN_SIZE, LATENT_DIM = 64, 32, 289, 64  # shape of the stored figures
SHAPE: dict[str, Any] = {"model_dim": 256, "num_heads": 8, "num_layers": 8, "max_tokens": 512}


def main(
    encoders: Annotated[
        str, typer.Option(help="by comma")
    ] = "graph,token,pna,PyG,PyG-pairs,hyperrep,statistics",
    sections: Annotated[str, typer.Option(help="by comma")] = "encoder,reference,scaling,mixed",
    subjects: Annotated[str, typer.Option(help="by comma; all if empty")] = "",
    repeats: int = 25,
    quick: Annotated[bool, typer.Option(help="few repeats, nothing wide")] = False,
    override: Annotated[list[str] | None, typer.Option(help="of conf/, as encoder.x=1")] = None,
    output: Path = Path("runs/encoder_speed"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    names, chosen = encoders.split(","), subjects.split(",") if subjects else list(SUBJECTS)
    chosen = [s for s in chosen if not quick or s != WIDE]
    jobs = [
        {**job, "repeats": 9 if quick else repeats, "override": override or []}
        for section in sections.split(",")
        for job in jobs_of(section, names, chosen)
    ]
    here, rows = machine(), stored(chosen) if "encoder" in sections else []
    found: Row = {}
    output.mkdir(parents=True, exist_ok=True)
    with show_progress("encoder speed", len(jobs)) as bar:
        for job in jobs:
            row = in_process(run, job)
            rows.append(with_floor(row, here, row.get("precision", "float32")))
            compared = against_baselines(rows)
            found = {"machine": here, "rows": compared, "figures": figures(compared)}
            (output / "results.json").write_text(json.dumps(found, indent=1))
            bar()
    print(json.dumps(found) if as_json else tables(found))


def jobs_of(section: str, encoders: list[str], subjects: list[str]) -> list[Row]:
    """What is measured: a process each."""
    match section:
        case "encoder":
            return [
                {"section": section, "subject": s, "encoder": e, "tokens": t, "backward": b}
                for s in subjects
                for t in ((False, True) if s == BATCH else (False,))
                for b in (False, True)
                for e in encoders
                if not (b and e == "statistics" and not t)  # nothing in it is learned
                and not (t and e in LIBRARY)  # has none
            ]
        case "reference":
            return [
                {"section": section, "encoder": e, "precision": p, "backward": b}
                for p in ("float32", "bfloat16")
                for b in (False, True)
                for e in ("token", "torch")
            ]
        case "scaling":
            return [{"section": section, "subject": s} for s in subjects]
        case "mixed":
            return [
                {"section": section, "encoder": e} for e in encoders if e not in ("pna", *LIBRARY)
            ]
    raise ValueError(f"sections must be of encoder, reference, scaling, mixed, got '{section}'")


def run(job: Row) -> Row:
    """Measure one job, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    match job["section"]:
        case "encoder":
            return encode(job)
        case "reference":
            return reference(job)
        case "scaling":
            return scale(job)
        case _:
            return mix(job)


def network(*widths: int) -> Architecture:
    """Convolutions 3x3 on one channel, global pooling, ten classes: the small CNN zoo's."""
    config = NetworkConfig(hidden=widths, pooling="none", head="global")
    return to_graph(build_network(config, (1, 28, 28), 10), torch.randn(1, 1, 28, 28)).architecture


def settings_of(encoder: str, overrides: list[str]) -> ModelConfig:
    return Settings.load([f"encoder={encoder}", *overrides]).model


def wide_enough(config: EncoderConfig, grid: TokenGrid) -> EncoderConfig:
    """With positions for all tokens of a network, which conf/ has for small ones."""
    if not isinstance(config, TokenEncoderConfig | HyperRepresentationConfig):
        return config
    tokens, layers, rows = (int(n) + 1 for n in grid.position.amax(0))
    return replace(config, max_tokens=tokens, max_layers=max(16, layers), max_rows=max(256, rows))


def encode(job: Row) -> Row:
    """One encoder on scaled weights."""
    num, width = SUBJECTS[job["subject"]]
    architecture = network(width, width, width)
    values = torch.randn(num, architecture.num_parameters)
    encoder: nn.Module
    if job["encoder"] in LIBRARY:
        encoder = LibraryPNA(architecture, values, all_pairs=job["encoder"] == "PyG-pairs")
        step = trained_step(encoder, lambda: encoder().square().mean(), job["backward"])
    else:
        model = settings_of(job["encoder"], job["override"])
        config = wide_enough(model.encoder, token_grid(architecture, model.token_size))
        encoder = build_encoder(config, model.token_size, model.latent_dim)
        batch = Batch(architecture, values, model.token_size, tokens=job["tokens"])
        step = trained_step(encoder, lambda: mean_square(encoder(batch)), job["backward"])
    found = measure(step, job["repeats"])
    least = bytes_of(encoder, values, job["backward"])
    about = {"networks": num, "parameters": architecture.num_parameters}
    return {**about, "encoder_parameters": size(encoder), **found, **work(step), "least_mb": least}


def mean_square(found: Embedding) -> Tensor:
    loss = found.model.square().mean()
    return loss + found.tokens.square().mean() if found.tokens.numel() else loss


def trained_step(
    encoder: nn.Module, loss: Callable[[], Tensor], backward: bool
) -> Callable[[], None]:
    def step() -> None:
        with torch.set_grad_enabled(backward):
            encoder.zero_grad(set_to_none=True)
            value = loss()
            if backward:
                value.backward()

    encoder.train(backward)
    return step


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def bytes_of(module: nn.Module, values: Tensor, backward: bool) -> float:
    """MB of inputs and weights, read once; twice for a backward, which writes gradients too."""
    weights = 4 * size(module)
    return (values.nbytes * (1 + backward) + weights * (1 + 2 * backward)) / 1e6


def reference(job: Row) -> Row:
    """The token encoder at the shape of the stored figures; backward with the decoder.

    Ours cuts its tokens out of the networks' weights and counts its loss on what is not padded;
    the library's is handed its tokens.
    """
    architecture = network(64, 64, 64)
    grid = token_grid(architecture, TOKEN_SIZE)
    values = torch.randn(ROWS, architecture.num_parameters)
    window = slice(0, WINDOW)
    batch = Batch(architecture, values, TOKEN_SIZE, window=window)
    target, real = grid.cut(values, window), grid.mask[window]
    ours = job["encoder"] == "token"
    encoder: nn.Module
    decoder: nn.Module
    if ours:
        encoder = build_encoder(TokenEncoderConfig(**SHAPE), TOKEN_SIZE, LATENT_DIM)
        decoder = TokenDecoder(DecoderConfig(**SHAPE), TOKEN_SIZE, LATENT_DIM)
    else:
        widths = [SHAPE[k] for k in ("model_dim", "num_heads", "num_layers")]
        encoder = LibraryTransformer(TOKEN_SIZE, LATENT_DIM, *widths)
        decoder = LibraryTransformer(LATENT_DIM, TOKEN_SIZE, *widths)
    half = torch.autocast("cpu", torch.bfloat16, enabled=job["precision"] == "bfloat16")

    def forward() -> Any:
        with torch.no_grad(), half:
            return encoder(batch if ours else target)

    def both() -> None:
        for module in (encoder, decoder):
            module.zero_grad(set_to_none=True)
        with half:
            if ours:
                decoded = decoder(encoder(batch).tokens, grid.position[window])
            else:
                decoded = decoder(encoder(target))
        error = (decoded.float() - target).square()
        (error[:, real] if ours else error).mean().backward()

    backward = job["backward"]
    for module in (encoder, decoder):
        module.train(backward)
    step = both if backward else forward
    found = measure(step, job["repeats"])
    rate = ROWS * WINDOW / found["cpu_ms"] * 1e3
    least = bytes_of(encoder, target, backward) + backward * bytes_of(decoder, target, True)
    about = {"encoder_parameters": size(encoder) + size(decoder), "least_mb": least}
    against = {"tokens_s": rate, "stored_tokens_s": STORED[backward]}
    return {**about, **found, **against, "speedup": rate / STORED[backward], **work(step)}


def scale(job: Row) -> Row:
    """asinh scaling of weights, which comes before every encoder."""
    num, width = SUBJECTS[job["subject"]]
    architecture, scaling = network(width, width, width), Scaling()
    theta = torch.randn(num, architecture.num_parameters)
    return measure(lambda: scaling(theta, architecture), job["repeats"])


def mix(job: Row) -> Row:
    """32 networks of six architectures in one call, next to a call for each architecture."""
    model = settings_of(job["encoder"], job["override"])
    groups = []
    for i, widths in enumerate(MIXED):
        config = NetworkConfig(hidden=widths, pooling="none", head="global")
        modules = [build_network(config, (1, 28, 28), 10) for _ in range(5 + (i < 2))]
        groups.append([to_graph(m, torch.randn(1, 1, 28, 28)) for m in modules])
    mixed = [g for members in zip(*(g[:5] for g in groups), strict=True) for g in members]
    mixed += [g[5] for g in groups[:2]]
    grids = [token_grid(g[0].architecture, model.token_size) for g in groups]
    largest = max(grids, key=lambda grid: grid.num_tokens)
    config = wide_enough(model.encoder, largest)
    representation = Representation(WeightModel(replace(model, encoder=config)))
    together = measure(lambda: representation.encode(mixed), 4 * job["repeats"])
    alone = [measure(lambda g=g: representation.encode(g), 4 * job["repeats"]) for g in groups]
    parts_ms = sum(found["cpu_ms"] for found in alone)
    return {**together, "groups_ms": parts_ms, "of_groups": together["cpu_ms"] / parts_ms}


if __name__ == "__main__":
    typer.run(main)
