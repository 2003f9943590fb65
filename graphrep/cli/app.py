"""The command line: wires configuration, zoo, models, evaluation and tracking together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .output import Overrides, print_table, say
from .zoo import app as zoo_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Networks are data: make zoos of trained networks, learn representations of them, "
        "predict properties from weights, sample new weights. Settings are given as "
        "group=choice (encoder=token) or key=value (training.num_steps=500); `--debug` "
        "anywhere shows the traceback of an error."
    ),
)

app.add_typer(zoo_app, name="zoo")


@app.command()
def graph(
    file: Annotated[
        Path,
        typer.Argument(
            help="a checkpoint (.safetensors, .pt, .ckpt ..., an index of shards), .onnx, or a "
            "Hugging Face folder"
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="what builds the module: package.module:factory; without it, the file must "
            "bring its architecture along or hold a plain chain of layers",
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(help="shape of an example input, such as 1,3,32,32; once for each input"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...", help="with --log: tracking.experiment=... and so on"
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="draw the architecture (.png, .svg, .pdf)")
    ] = None,
    neurons: Annotated[
        Path | None, typer.Option(help="draw every unit and weight of a small network")
    ] = None,
    graphml: Annotated[
        Path | None, typer.Option(help="write the graph for Gephi, yEd ... (.graphml)")
    ] = None,
    level: Annotated[
        str, typer.Option(help="of the GraphML: neurons, or architecture for unit groups")
    ] = "neurons",
    json: Annotated[Path | None, typer.Option(help="write the architecture as JSON")] = None,
    summary: Annotated[bool, typer.Option(help="print tables of unit groups and blocks")] = False,
    log: Annotated[bool, typer.Option("--log", help="record all of it in MLflow")] = False,
) -> None:
    """Turn the network in a file into its parameter graph and say what was derived."""
    from ..views import write_views
    from ..workflows import graph_of_file, log_graph

    if overrides and not log:
        raise ValueError(f"settings such as {overrides[0]} count with --log alone")
    loaded = graph_of_file(file, model, input or [])
    for note in loaded.notes:
        say(note)
    found = loaded.graph
    if summary:
        say(f"{found.summary()}\n")
    say(found.report())
    written = write_views(
        found, picture=picture, neurons=neurons, graphml=graphml, level=level, json=json
    )
    for name, path in written.items():
        say(f"{name}: {path}")
    if log:
        say(log_graph(found, file, overrides or []))


@app.command()
def train(overrides: Overrides = None) -> None:
    """Train representations: graphrep train encoder=graph,token seed=1,2

    Several values of a key train one after another; zoo=[a,b] or zoo_path=[a,b] trains one
    model on several zoos. Repeat the command to resume. On several cores or GPUs:
    torchrun --nproc-per-node 2 -m graphrep train ...
    """
    from ..config import sweep
    from ..settings import Settings
    from ..training import join_processes
    from ..workflows import train_one

    for combination in sweep(overrides or []):
        settings = Settings.load(combination)
        folder, uri = train_one(settings)
        if join_processes(settings.training.device).leads:
            say(f"model: {folder}\n       {uri}")


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="a saved model: folder, runs:/... or models:/...")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="checkpoints, .onnx files and Hugging Face folders; or one zoo (folder or fsspec "
            "URL); or, to search it, a .parquet written before"
        ),
    ],
    output: Annotated[Path, typer.Option(help="Parquet file to write")] = Path(
        "embeddings.parquet"
    ),
    query: Annotated[
        list[str] | None,
        typer.Option(help="find what is nearest to it: a file (repeat it for more), or one zoo"),
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(
            help="how many to find for each query, 5 by default; without --query, of each of the "
            "networks themselves"
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="whitened (default), standardised or cosine")
    ] = None,
    found: Annotated[
        Path | None,
        typer.Option(help="file for what was found, .csv or .parquet; <output>-neighbours.csv"),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="of files that fit several: a name that the model knows, or a JSON file written "
            "by graphrep graph --json"
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="local: this process; ray: a Ray cluster")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="of Ray: processes; by default the cluster's CPUs")
    ] = None,
) -> None:
    """Embed files or a zoo into a table, one row a network, and find the nearest of others.

    Interrupt and repeat the command to go on.
    """
    from ..embedding import embed_table, embed_to_parquet
    from ..neighbours import METRICS, check_ending, nearest, summarise, write_neighbours

    there = len(inputs) == 1 and inputs[0].endswith(".parquet")
    searched = Path(inputs[0]) if there else output
    wanted = bool(query) or neighbours is not None
    if not wanted and (there or metric or found):
        raise ValueError("nothing to search for: give --query, or --neighbours alone")
    written = found or searched.with_name(f"{searched.stem}-neighbours.csv")
    check_ending(written)
    queries = embed_table(model, query, architecture=architecture) if query else None
    if not there:
        table = embed_to_parquet(
            model, inputs, output, architecture=architecture, engine=engine, num_workers=workers
        )
        say(f"{len(table)} networks, {len(table.columns)} columns: {output}")
    if wanted:
        num = 5 if neighbours is None else neighbours
        near = nearest(searched, queries, num, metric or METRICS[0])
        write_neighbours(near, written)
        print_table(summarise(near, searched), f"nearest in {searched}")
        say(f"all columns: {written}")


@app.command()
def probe(
    model: Annotated[str, typer.Argument(help="a saved model: folder, runs:/... or models:/...")],
    zoo: Annotated[Path, typer.Argument(help="folder of a zoo")],
    overrides: Overrides = None,
) -> None:
    """Predict a zoo's properties from embeddings: R2, Kendall tau, accuracy with intervals."""
    from ..settings import Settings
    from ..workflows import probe_zoo

    print_table(
        probe_zoo(model, zoo, Settings.load(overrides or [])), "probes on held-out networks"
    )


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="a saved model: folder, runs:/... or models:/...")],
    num: Annotated[int, typer.Option(help="how many networks")] = 10,
    method: Annotated[
        str, typer.Option(help="joint or independent, see graphrep.sampling")
    ] = "joint",
    bandwidth: Annotated[float, typer.Option(help="in deviations of a latent")] = 0.2,
    seed: int = 0,
    zoo: Annotated[Path | None, typer.Option(help="test the samples on this zoo's images")] = None,
    output: Annotated[Path, typer.Option(help="folder for the .safetensors files")] = Path(
        "samples"
    ),
) -> None:
    """Draw new networks near a model's anchors and write them as state dicts."""
    from ..workflows import sample_networks

    table = sample_networks(model, num, method, bandwidth, seed, zoo, output)
    print_table(table, f"{num} networks in {output}")


@app.command()
def benchmark(
    overrides: Overrides = None,
    encoders: Annotated[str, typer.Option(help="which, by comma")] = "graph,token,statistics,raw",
    seeds: Annotated[str, typer.Option(help="which, by comma")] = "0",
    name: Annotated[
        str, typer.Option(help="folder below runs/; repeat it to resume")
    ] = "benchmark",
) -> None:
    """Compare encoders on one zoo: one recorded run each, and a summary in MLflow."""
    from ..workflows import compare

    try:
        numbers = [int(s) for s in seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds must be whole numbers by comma, got '{seeds}'") from error
    compare(overrides or [], encoders.split(","), numbers, name)


@app.command()
def demo(overrides: Overrides = None) -> None:
    """The whole way in a few minutes: zoo, both encoders and their floors, new networks."""
    from ..settings import Settings
    from ..workflows import compare

    settings = ["zoo=digits_demo", "training=demo", *(overrides or [])]
    seed = Settings.load(settings).seed
    settings = [f"zoo.seed={seed}", *settings]
    name = "demo" if seed == 0 else f"demo-seed{seed}"
    compare(settings, ["graph", "token", "statistics", "raw"], [seed], name)


@app.command()
def ui(
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="of the local server")] = 5000,
) -> None:
    """Serve MLflow's pages on the local store and print the link to the newest comparison."""
    from ..settings import Settings
    from ..tracking import serve_ui

    serve_ui(Settings.load(overrides or []).tracking, port)


def main() -> None:
    """Run a command; an error is one message, with a traceback only under --debug."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted; repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, ConnectionError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
