"""Which method says most about networks from their weights, on which zoo?

    python benchmarks/compare_encoders.py /zoos/digits_cnn /zoos/mnist_cnn --seeds 0,1,2

Every method (graphrep.evaluation.methods), trained without labels and read by a linear
probe, and trained on the property; floors s(W) and W beside them; on each zoo, seed and
division (graphrep.evaluation.divisions). Writes results.csv, summary.csv,
differences.csv, report.md and figures/ under --output, and a flat MLflow run a cell and
one of the summary. Interrupted or called with more zoos, methods or seeds, it does what is
missing. All encoders take the same steps on the same networks in the same order.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from graphrep.evaluation.cells import Cell, JudgingConfig, open_zoo
from graphrep.evaluation.divisions import ZOO, divide, first_models
from graphrep.evaluation.findings import read_findings
from graphrep.evaluation.label_efficiency import LabelConfig
from graphrep.evaluation.methods import Method, choose_methods
from graphrep.evaluation.readers import Setup
from graphrep.evaluation.report import record_report, write_report
from graphrep.evaluation.schedule import run_cells
from graphrep.settings import Settings
from graphrep.tracking import Tracker
from graphrep.zoo import Zoo


def main(
    zoos: Annotated[list[str], typer.Argument(help="folders or URLs")],
    methods: Annotated[str, typer.Option(help="names or families by comma; all if empty")] = "",
    modes: Annotated[
        str,
        typer.Option(help="self_supervised, untrained, features, end_to_end, boosting; by comma"),
    ] = "",
    variant: Annotated[
        list[str] | None, typer.Option(help="'name = method key=value ...': with other settings")
    ] = None,
    seeds: str = "0,1,2",
    splits: Annotated[
        str,
        typer.Option(help="zoo, models:100, labels:100, unseen:learning_rate, unseen:width ..."),
    ] = ZOO,
    steps: Annotated[int, typer.Option(help="of training without labels")] = 2000,
    end_to_end_steps: Annotated[int, typer.Option(help="of training on the property")] = 2000,
    supervised: Annotated[
        str, typer.Option(help="properties to train on, by comma; the zoo's main one if empty")
    ] = "",
    transfer: Annotated[bool, typer.Option(help="judge each model on all other zoos too")] = False,
    joint: Annotated[bool, typer.Option(help="also one model of all zoos together")] = False,
    alone: Annotated[bool, typer.Option(help="a model of each zoo")] = True,
    max_models: Annotated[int, typer.Option(help="of a zoo; 0 for all")] = 0,
    label_draws: int = 10,
    override: Annotated[list[str] | None, typer.Option(help="key=value of conf/, for all")] = None,
    workers: Annotated[int, typer.Option(help="processes of one thread")] = 1,
    output: Path = Path("runs/compare_encoders"),
) -> None:
    opened = {path: open_zoo(path) for path in zoos}
    if len({zoo.name for zoo in opened.values()}) < len(opened):
        raise typer.BadParameter("two of the zoos have the same name, so results would mix")
    chosen = choose_methods(_list(methods), _list(modes), variant or [])
    base = Settings.load(override or [])
    judging = JudgingConfig(
        properties=base.evaluation.probes.wanted,
        supervised=tuple(_list(supervised)),
        labels=LabelConfig(num_draws=label_draws),
        max_models=max_models,
    )
    sources = [(path,) for path in zoos] if alone else []
    sources += [tuple(zoos)] if joint and len(zoos) > 1 else []
    runs = any(method.runs_networks for method in chosen)
    bare = {path for path in zoos if runs and not _tells_modules(opened[path])}
    cells = []
    for division in _list(splits):
        for source in sources:
            if not all(_applies(opened[path], division, max_models) for path in source):
                continue
            for seed in map(int, _list(seeds)):
                for method in chosen:
                    if seed != int(_list(seeds)[0]) and not method.seeded:
                        continue
                    if method.runs_networks and not bare.isdisjoint(source):
                        continue
                    targets = tuple(zoos) if transfer and division == ZOO else source
                    num = end_to_end_steps if method.mode == "end_to_end" else steps
                    cell = Cell(
                        zoos=source,
                        targets=targets,
                        method=method,
                        seed=seed,
                        judging=judging,
                        setup=_setup(method, seed, num, override or []),
                        division=division,
                    )
                    cells.append((cell, cell.folder(output)))
    if not cells:
        raise typer.BadParameter("nothing to compare: every zoo or method was left out (see above)")
    benchmark_id = _benchmark_id(output)
    say = partial(print, flush=True)
    failed = run_cells(cells, base.tracking, benchmark_id=benchmark_id, workers=workers, say=say)
    report = write_report(read_findings([folder for _, folder in cells]), output)
    names = [zoo.name for zoo in opened.values()]
    record_report(output, Tracker(base.tracking), names, benchmark_id)
    print(report.read_text())
    print(f"report: {report}")
    if failed:
        print("\n".join(f"failed: {title}: {error}" for title, error in failed.items()))
        raise typer.Exit(1)


def _setup(method: Method, seed: int, num_steps: int, overrides: list[str]) -> Setup | None:
    """What conf/ says, with a method's overrides, then those of all."""
    if not method.trained:
        return None
    settings = Settings.load([*method.overrides, *overrides])
    training = replace(settings.training, seed=seed, num_steps=num_steps)
    return Setup(model=settings.model, objective=settings.objective, training=training)


def _applies(zoo: Zoo, division: str, max_models: int) -> bool:
    """Whether a zoo can be divided so: one without widths to tell apart is left out."""
    try:
        divide(first_models(zoo, max_models) if max_models else zoo, division)
    except ValueError as error:
        print(f"{zoo.name}: left out of '{division}' ({error})")
        return False
    return True


def _tells_modules(zoo: Zoo) -> bool:
    """Whether a zoo's networks can be run: one of bare weights is left out of what runs them."""
    try:
        zoo.network(0)
    except ValueError as error:
        print(f"{zoo.name}: left out of methods that run networks ({error})")
        return False
    return True


def _benchmark_id(output: Path) -> str:
    """One name for all runs of this comparison, kept so that a resumed one goes on in it."""
    path = output / "benchmark_id"
    if not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(f"compare-encoders-{time.strftime('%Y%m%d-%H%M%S')}")
    return path.read_text()


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    typer.run(main)
