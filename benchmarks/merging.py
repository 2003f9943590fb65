"""Are two trained networks one after alignment? The loss barrier between them, before and after.

    python benchmarks/merging.py --pairs 2 --output runs/merging

Trains pairs of networks from different seeds (start and order of batches), walks the straight
line from one to the other as trained, after weight matching and after activation matching, and
for batch norm also with statistics made anew at each point. MNIST where $GRAPHREP_DATA is set,
scikit-learn's digits elsewhere. What --output holds already, networks and measured pairs, is
not made again, so give other settings another folder. Writes
merging.csv (a row a pair and method), curves.csv, merging.md and merging.png.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphrep import ParameterGraph, align, to_graph
from graphrep.figures.style import GREY, PALETTE, panels, style
from graphrep.files import write_whole
from graphrep.progress import show_progress
from graphrep.symmetry.merging import Barrier, loss_barrier, reset_statistics
from graphrep.zoo import (
    Images,
    NetworkConfig,
    build_network,
    evaluate,
    initialise,
    load_images,
    train_steps,
)
from graphrep.zoo.classifiers.train import single_thread


@dataclass(frozen=True, kw_only=True)
class Design:
    """A network and how it is trained: the rate falls to a tenth for the last quarter."""

    network: NetworkConfig
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    num_steps: int = 500
    num_judged: int = 2000  # train images, and as many test images, that judge a network
    shrink: int = 1  # images are averaged over squares of so many pixels


DESIGNS = {
    "mlp-64": Design(network=NetworkConfig(kind="mlp", hidden=(64, 64, 64))),
    "mlp-512": Design(network=NetworkConfig(kind="mlp", hidden=(512, 512, 512))),
    "cnn": Design(network=NetworkConfig(kind="cnn", hidden=(32, 64)), num_steps=400),
    "resnet": Design(
        network=NetworkConfig(
            kind="resnet", hidden=(64, 64), batch_norm=True, bias=False, head="global"
        ),
        optimiser="adamw",
        learning_rate=5e-3,
        weight_decay=0.1,
        num_steps=300,
        shrink=2,
        num_judged=1000,
    ),
}
METHODS = {
    "none": "as trained",
    "weights": "weights matched",
    "weights only": "weights matched, statistics left out",  # differs where there are any
    "activations": "activations matched",
}
BATCH_SIZE = 128
NUM_SAMPLES = 1024  # train images for activations and for statistics


def main(
    designs: Annotated[str, typer.Option(help="by comma; all if empty")] = "",
    pairs: int = 2,
    steps: Annotated[int, typer.Option(help="of training; 0: each design's own")] = 0,
    train_limit: int = 16_000,
    test_limit: int = 2_000,
    num_points: int = 11,
    output: Path = Path("runs/merging"),
) -> None:
    name = "mnist" if os.environ.get("GRAPHREP_DATA") else "digits"
    images = load_images(name, train_limit=train_limit, test_limit=test_limit)
    output.mkdir(parents=True, exist_ok=True)
    chosen = designs.split(",") if designs else list(DESIGNS)
    rows, points = _earlier(output / "merging.csv"), _earlier(output / "curves.csv")
    with show_progress("networks", 2 * pairs * len(chosen)) as bar, single_thread():
        for design in chosen:
            for pair in range(pairs):
                seeds = (2 * pair, 2 * pair + 1)
                if any(row["design"] == design and row["pair"] == pair for row in rows):
                    continue
                own = shrunk(images, DESIGNS[design].shrink)
                graphs = []
                for seed in seeds:
                    graphs.append(trained(design, seed, own, steps, output))
                    bar()
                for row, barrier in measure(design, *graphs, own, num_points):
                    rows.append({"design": design, "pair": pair, **row})
                    points += _points(rows[-1], barrier)
                report(pd.DataFrame(rows), pd.DataFrame(points), name, output)


def shrunk(images: Images, factor: int) -> Images:
    """Images averaged over squares, where they stay larger than the digits' 8 pixels."""
    if factor == 1 or images.input_shape[-1] <= 8:
        return images
    return replace(
        images,
        train_images=F.avg_pool2d(images.train_images, factor),
        test_images=F.avg_pool2d(images.test_images, factor),
    )


def network(design: str, images: Images) -> nn.Module:
    return build_network(DESIGNS[design].network, images.input_shape, images.num_classes)


def trained(design: str, seed: int, images: Images, steps: int, output: Path) -> ParameterGraph:
    """A network of this seed, from its file or trained now."""
    module, recipe = network(design, images), DESIGNS[design]
    steps = steps or recipe.num_steps
    path = output / f"{images.name}-{design}-{len(images.train_labels)}-{steps}-{seed}.safetensors"
    if path.exists():
        module.load_state_dict(load_file(path))
    else:
        initialise(module, "default", seed=seed)
        last = steps // 4
        for number, (num, share) in enumerate(((steps - last, 1.0), (last, 0.1))):
            train_steps(
                module,
                images,
                optimiser=recipe.optimiser,
                learning_rate=share * recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                num_steps=num,
                batch_size=BATCH_SIZE,
                seed=seed + 1000 * number,
            )
        write_whole(path, lambda unfinished: save_file(module.state_dict(), unfinished))
    return to_graph(module.eval(), images.test_images[:2], name=design)


def measure(
    design: str, a: ParameterGraph, b: ParameterGraph, images: Images, num_points: int
) -> Iterator[tuple[dict, Barrier]]:
    """Each way of aligning b with a: what it costs and the line between them."""
    module = network(design, images)
    sample = torch.randperm(len(images.train_labels), generator=torch.Generator().manual_seed(0))
    batches = list(images.train_images[sample[:NUM_SAMPLES]].split(256))
    norm = DESIGNS[design].network.batch_norm
    for method in METHODS:
        start = time.perf_counter()
        match method:
            case "none":
                aligned = b
            case "weights":
                aligned = align(b, a)
            case "weights only":
                if not norm:
                    continue
                aligned = align(b, a, statistics=False)
            case "activations":
                aligned = align(b, a, "activations", model=module, inputs=batches)
        seconds = time.perf_counter() - start
        for reset in (False, True) if norm else (False,):
            barrier = loss_barrier(
                _evaluation(module, images, batches if reset else [], DESIGNS[design].num_judged),
                a,
                aligned,
                num_points,
            )
            row = {
                "method": method,
                "statistics": "reset" if reset else "interpolated",
                "distance": float((aligned.theta - a.theta).norm()),
                "align_s": seconds,
            }
            for part in ("train", "test"):
                for metric in ("loss", "accuracy"):
                    row[f"{part}_{metric}_barrier"] = barrier.height(f"{part}_{metric}")
                ends = barrier.metrics[f"{part}_accuracy"][[0, -1]]
                row[f"{part}_accuracy_ends"] = float(ends.mean())
                row[f"{part}_accuracy_middle"] = barrier.middle(f"{part}_accuracy")
            yield row, barrier


def _evaluation(
    module: nn.Module, images: Images, batches: list[Tensor], num: int
) -> Callable[[ParameterGraph], dict[str, float]]:
    """Loss and accuracy on train and test images, statistics made anew or not."""
    train_rows, test_rows = (
        torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[:num]
        for labels in (images.train_labels, images.test_labels)
    )

    def metrics(graph: ParameterGraph) -> dict[str, float]:
        graph.load_into(module)
        if batches:
            reset_statistics(module, batches)
        train = evaluate(module, images.train_images, images.train_labels, rows=train_rows)
        test = evaluate(module, images.test_images, images.test_labels, rows=test_rows)
        return {
            "train_accuracy": train[0],
            "train_loss": train[1],
            "test_accuracy": test[0],
            "test_loss": test[1],
        }

    return metrics


def _earlier(path: Path) -> list[dict]:
    """The rows of a table that a run before this one left."""
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def _points(row: dict, barrier: Barrier) -> list[dict]:
    about = {key: row[key] for key in ("design", "pair", "method", "statistics")}
    metrics = {name: values.tolist() for name, values in barrier.metrics.items()}
    return [
        {**about, "weight": weight, **{name: values[i] for name, values in metrics.items()}}
        for i, weight in enumerate(barrier.weights.tolist())
    ]


def report(rows: pd.DataFrame, points: pd.DataFrame, name: str, output: Path) -> None:
    """Tables and the picture, of what there is so far."""
    write_whole(output / "merging.csv", lambda path: rows.to_csv(path, index=False))
    write_whole(output / "curves.csv", lambda path: points.to_csv(path, index=False))
    groups = rows.groupby(["design", "method", "statistics"], sort=False)
    columns = [c for c in rows.columns if c not in ("design", "pair", "method", "statistics")]
    lines = ["| design | method | statistics | " + " | ".join(columns) + " |"]
    lines.append("|" + " --- |" * (3 + len(columns)))
    for key, found in groups:
        cells = [" / ".join(f"{value:.4g}" for value in found[column]) for column in columns]
        lines.append("| " + " | ".join([*map(str, key), *cells]) + " |")
    write_whole(output / "merging.md", lambda path: path.write_text("\n".join(lines) + "\n"))
    draw(points, name, output / "merging.png")


def draw(points: pd.DataFrame, name: str, path: Path) -> None:
    """Test loss along the lines, a panel a design, a line a pair and method."""
    colour = dict(zip(METHODS, (GREY, PALETTE[0], PALETTE[5], PALETTE[1]), strict=True))
    designs = list(dict.fromkeys(points["design"]))
    with style():
        figure, axes = panels(len(designs), columns=4, size=(3.2, 3.0), share=True)
        for ax, design in zip(axes, designs, strict=True):
            of_design = points[points["design"] == design]
            for (method, statistics, pair), line in of_design.groupby(
                ["method", "statistics", "pair"], sort=False
            ):
                ax.plot(
                    line["weight"],
                    line["test_loss"],
                    "--" if statistics == "reset" else "-",
                    color=colour[method],
                    lw=1.6,
                    label=METHODS[method] if pair == 0 and statistics != "reset" else None,
                )
            ax.set(title=design, xlabel="share of the second network")
        axes[0].set_ylabel("test loss (nats)")
        axes[0].set_ylim(bottom=0)
        handles, labels = axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle(
            f"Between networks trained on {name} (dashed: statistics reset)",
            x=0.01,
            ha="left",
        )
        write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150, format="png"))


if __name__ == "__main__":
    typer.run(main)
