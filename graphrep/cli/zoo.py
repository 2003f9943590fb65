"""`graphrep zoo`: make, import, look at, check and export populations of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Overrides, say

app = typer.Typer(
    no_args_is_help=True,
    help="Populations of networks: create, import, show, verify, export.",
)

ZooPath = Annotated[str, typer.Argument(metavar="ZOO", help="folder or fsspec URL of a zoo")]


@app.command()
def create(
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(help="folder or URL to make it in; by default one below runs/zoos"),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="pool: processes of this machine; ray: a Ray cluster")
    ] = "pool",
) -> None:
    """Make a zoo from a recipe: graphrep zoo create recipe=digits_cnn recipe.num_models=300

    Interrupt and repeat the command to go on. Recipes stand in conf/zoo/; X_small is a
    variant of X that takes minutes.
    """
    from ..settings import Settings
    from ..workflows import make_zoo

    made = make_zoo(Settings.load(_as_settings(overrides or [])), output, engine)
    say(f"{made}\nzoo: {made.url}\nlook at it: graphrep zoo show {made.url}")


@app.command(name="import")
def import_(
    format: Annotated[
        str,
        typer.Argument(
            help="modelzoos, unterthiner, sane, checkpoints, stable_baselines or huggingface"
        ),
    ],
    source: Annotated[str, typer.Argument(help="file, folder or glob of the foreign zoo")],
    output: Annotated[str, typer.Option(help="folder or URL of the new zoo")],
    name: Annotated[str, typer.Option(help="of the new zoo")] = "",
    licence: Annotated[str, typer.Option(help="of the foreign zoo")] = "unknown",
    dtype: Annotated[
        str, typer.Option(help="of the stored weights: float32, or float16 for half the size")
    ] = "float32",
    properties: Annotated[
        Path | None,
        typer.Option(help="checkpoints: a CSV, JSON or Parquet table with a row a file"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="what builds the modules where files do not tell: package.module:factory"
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(help="shape of an example input of the model, such as 1,3,32,32"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="of the format's reader, name=value, such as epochs=21,25"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the splits, where the source has none")] = 0,
) -> None:
    """Bring a foreign zoo in: graphrep zoo import modelzoos tune_zoo_mnist/ --output mnist

    Interrupt and repeat the command to go on. What cannot be taken is listed with its
    reason in the new zoo's skipped.csv.
    """
    from ..zoo.formats import open_reader
    from ..zoo.importing import import_zoo, read_skipped

    options = {"properties": properties, "model": model, "input_shape": input or None}
    reader = open_reader(format, source, **{**options, **_options(option or [])})
    zoo = import_zoo(reader, output, name=name, licence=licence, dtype=dtype, seed=seed)
    say(str(zoo))
    if skipped := read_skipped(zoo):
        say(f"skipped {len(skipped)}, listed in {zoo.url}/skipped.csv; the first:")
        for item in skipped[:5]:
            say(f"  {item.name}: {item.reason}")
    say(f"look at it: graphrep zoo show {zoo.url}")


@app.command()
def show(
    path: ZooPath,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...", help="with --log: tracking.experiment=... and so on"
        ),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="record a page of plots in MLflow")] = False,
) -> None:
    """Print a population: members, properties with histograms, missing values, duplicates."""
    from ..workflows import log_zoo
    from ..zoo import Zoo
    from ..zoo.show import population_text

    if overrides and not log:
        raise ValueError(f"settings such as {overrides[0]} count with --log alone")
    zoo = Zoo.open(path)
    say(population_text(zoo))
    if log:
        say(log_zoo(zoo, overrides or []))


@app.command()
def verify(path: ZooPath) -> None:
    """Read every byte of a zoo and compare with the hashes that were kept; exit 1 if any differ."""
    from ..progress import show_progress
    from ..zoo.store.verify import num_files, verify_zoo

    with show_progress("verify", num_files(path)) as advance:
        problems = verify_zoo(path, advance)
    for problem in problems:
        say(problem)
    if problems:
        say(f"{path}: {len(problems)} problems")
        raise typer.Exit(1)
    say(f"{path}: sound")


@app.command()
def export(
    path: ZooPath,
    output: Annotated[Path, typer.Option(help="folder to write, new or empty")],
    format: Annotated[
        str,
        typer.Option(help="safetensors or pt: a file a network; sane: its tokens; npy: one matrix"),
    ] = "safetensors",
    where: Annotated[
        str | None, typer.Option(help='rows to take, such as "test_accuracy > 0.9 and epoch > 3"')
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test")] = None,
    epoch: Annotated[str | None, typer.Option(help="last, best, or a number")] = None,
    standardise: Annotated[
        bool, typer.Option(help="sane: by layer, with the training split's moments")
    ] = True,
) -> None:
    """Write networks of a zoo as others read them: graphrep zoo export ZOO --output out"""
    from ..zoo import Zoo
    from ..zoo.export import export_zoo, select_rows

    zoo = Zoo.open(path)
    chosen = zoo.select(select_rows(zoo, where=where, split=split, epoch=epoch))
    num = export_zoo(chosen, format, output, standardise=standardise)
    say(f"{num} networks: {output}")


def _as_settings(overrides: list[str]) -> list[str]:
    """`recipe=x` and `recipe.key=value` for the group that conf/ calls zoo."""
    return [
        "zoo" + o.removeprefix("recipe") if o.startswith(("recipe=", "recipe.")) else o
        for o in overrides
    ]


def _options(given: list[str]) -> dict[str, object]:
    """name=value pairs; values as YAML has them, so that false is a boolean."""
    import yaml

    pairs = [text.partition("=") for text in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"--option {wrong[0]}: write name=value")
    return {name: yaml.safe_load(value) for name, _, value in pairs}
