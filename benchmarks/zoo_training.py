"""How many members a minute does each way of training a zoo make, and how far is its floor?

    OMP_NUM_THREADS=1 python benchmarks/zoo_training.py --recipes digits_mlp --members 512
    python benchmarks/zoo_training.py --sections plain,drawn --ways stacked,vmap --device cuda

The same members are trained one after another (`train_member`, one thread), by a pool of two
processes (likewise, one thread each), stacked in launches of several sizes
(`train_members_stacked`) on one and on two threads or on CUDA, and stacked by `torch.func.vmap`
instead. Section `plain` takes a recipe's designs with one batch size, one activation and no
dropout, so that all members fit one stack; section `drawn` takes members as the recipe draws
them, which make many stacks.

Times are medians over repetitions, which take turns; processor time beside wall time, as on a
shared machine it says more. The floor is the time of the counted floating-point operations at
the rate of a large matrix product on one core (or the GPU). Before any timing, some members are
trained both ways in float64 and must agree to 1e-9; the differences in float32 are reported.
`mnist` needs $GRAPHREP_DATA.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from graphrep.config import compose
from graphrep.zoo import (
    Checkpoint,
    ClassifierRecipe,
    Images,
    Member,
    NetworkConfig,
    build_network,
    draw_member,
    parse_recipe,
    train_member,
)
from graphrep.zoo.classifiers import stacked
from graphrep.zoo.classifiers.stacked import can_stack, train_members_stacked
from graphrep.zoo.classifiers.train import num_train_rows
from graphrep.zoo.kinds import prepare

PLAIN = ["zoo.search.batch_size=[32]", "zoo.search.dropout=null", "zoo.search.activation=[]"]
CHECKED = 8  # members trained both ways in float64
Trained = list[list[Checkpoint]]


@dataclass(kw_only=True)
class Way:
    """One way of training all members, and what its repetitions took."""

    name: str
    threads: int
    device: str = "cpu"
    train: Callable[[], tuple[Trained, float]]  # with the processor seconds
    wall_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    trained: Trained = field(default_factory=list)  # by the last repetition

    @property
    def busy_s(self) -> float:
        """Seconds of the processor that does the arithmetic."""
        return median(self.processor_s if self.device == "cpu" else self.wall_s)


def main(
    recipes: Annotated[str, typer.Option(help="classifier recipes of conf/zoo")] = (
        "digits_mlp,digits_cnn,mnist_cnn"
    ),
    sections: Annotated[str, typer.Option(help="plain, drawn or both")] = "plain",
    members: int = 512,
    sizes: Annotated[str, typer.Option(help="networks of a launch; 0 for the default")] = (
        "0,8,32,128,512"
    ),
    epochs: int = 4,
    train_limit: int = 1500,
    repetitions: int = 3,
    device: Annotated[str, typer.Option(help="of the stacks: cpu or cuda")] = "cpu",
    ways: Annotated[str, typer.Option(help="loop is always measured")] = "pool,stacked,two,vmap",
    json_file: Annotated[Path | None, typer.Option("--json", help="raw figures")] = None,
) -> None:
    torch.set_num_threads(1)
    machine = _machine(device)
    print(machine)
    rates = {name: _product_rate(torch.device(name)) for name in {"cpu", device}}
    for name, rate in rates.items():
        print(f"a matrix product on {name} runs at {rate / 1e9:.0f} GFLOP/s")
    figures: list[dict[str, Any]] = []
    for section in sections.split(","):
        for name in recipes.split(","):
            overrides = [
                f"zoo={name}",
                f"zoo.num_models={members}",
                f"zoo.epochs={epochs}",
                "zoo.checkpoints=[1]",
                "zoo.checkpoint_every=0",
                f"zoo.train_limit={train_limit}",
                "zoo.test_limit=500",
            ]
            overrides += PLAIN if section == "plain" else []
            recipe = parse_recipe(compose(overrides)["zoo"])
            assert isinstance(recipe, ClassifierRecipe)
            rows = _measure(
                recipe, [int(size) for size in sizes.split(",")], repetitions, device, ways, rates
            )
            figures += [{"section": section, "recipe": name, **row} for row in rows]
            table = pd.DataFrame(rows).drop(columns=["wall_s", "processor_s"])
            print(f"\n{name}, {section}: {_describe(recipe)}")
            print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
            if json_file is not None:
                content = {"machine": machine, "product_rates": rates, "figures": figures}
                json_file.write_text(json.dumps(content, indent=1))


def _measure(
    recipe: ClassifierRecipe,
    sizes: Sequence[int],
    repetitions: int,
    device: str,
    wanted: str,
    rates: dict[str, float],
) -> list[dict[str, Any]]:
    """A row a way."""
    images = prepare(recipe)
    assert isinstance(images, Images)
    drawn = [draw_member(recipe, index) for index in range(recipe.num_models)]
    epochs = recipe.kept_epochs
    precise = _check_agreement([m for m in drawn if can_stack(m, images)], images, epochs, device)
    operations = sum(_operations(member, images, epochs) for member in drawn)
    with ProcessPoolExecutor(2, get_context("spawn"), _start_worker, (images,)) as pool:
        list(pool.map(_train_one, [(drawn[0], epochs)] * 4))  # imports are not what is measured
        ways = _ways(drawn, images, epochs, sizes, device, wanted.split(","), pool)
        for _ in range(repetitions):
            for way in ways:
                started = time.perf_counter()
                way.trained, processor_s = way.train()
                way.wall_s.append(time.perf_counter() - started)
                way.processor_s.append(processor_s)
    return [
        {
            "way": way.name,
            "threads": way.threads,
            "members a minute": 60 * len(drawn) / median(way.wall_s),
            "times the loop": median(ways[0].wall_s) / median(way.wall_s),
            "a processor minute": 60 * len(drawn) / median(way.processor_s),
            "times the loop's": median(ways[0].processor_s) / median(way.processor_s),
            "over the floor": way.busy_s * rates[way.device] / operations,
            "float64 differs by": precise if "stack" in way.name else 0.0,
            "first epoch by": _difference(way.trained, ways[0].trained, 0),
            "end by": _difference(way.trained, ways[0].trained, -1),
            "wall_s": way.wall_s,
            "processor_s": way.processor_s,
        }
        for way in ways
    ]


def _ways(
    members: Sequence[Member],
    images: Images,
    epochs: Sequence[int],
    sizes: Sequence[int],
    device: str,
    wanted: Sequence[str],
    pool: ProcessPoolExecutor,
) -> list[Way]:
    def loop() -> tuple[Trained, float]:
        started = time.process_time()
        return [train_member(m, images, epochs) for m in members], time.process_time() - started

    def in_pool() -> tuple[Trained, float]:
        done = list(pool.map(_train_one, [(m, epochs) for m in members], chunksize=8))
        return [trained for trained, _ in done], sum(seconds for _, seconds in done)

    def in_stacks(size: int, threads: int, call: Callable[..., Tensor] | None = None) -> Way:
        def train() -> tuple[Trained, float]:
            started = time.process_time()
            with patch.object(stacked, "call_stacked", call) if call else nullcontext():
                trained = train_members_stacked(
                    members,
                    images,
                    epochs,
                    device=device,
                    stack_size=size or None,
                    num_threads=threads,
                )
            return trained, time.process_time() - started

        name = f"{'vmap' if call else 'stacked'} {size or 'by default'} {device}"
        return Way(name=name, threads=threads, device=device, train=train)

    ways = [Way(name="loop", threads=1, train=loop)]
    if "pool" in wanted:
        ways.append(Way(name="pool of 2", threads=2, train=in_pool))
    if "stacked" in wanted:
        ways += [in_stacks(size, 1) for size in sizes if size <= len(members)]
    if "two" in wanted and device == "cpu":
        ways.append(in_stacks(0, 2))
    if "vmap" in wanted and not any(m.network.dropout or m.network.batch_norm for m in members):
        ways += [in_stacks(size, 1, _call_mapped) for size in (32, 128) if size <= len(members)]
    return ways


def _call_mapped(
    module: nn.Module, values: dict[str, Tensor], images: Tensor, weights: Tensor, masks: Any = ()
) -> Tensor:
    """What `call_stacked` gives, by torch's own vmap; without dropout and batch norm."""
    assert not list(masks)
    names = [name for name, _ in module.named_parameters()]
    mapped = vmap(lambda own, x: functional_call(module, own, (x,)))
    return mapped({name: values[name] for name in names}, images).transpose(1, 2)


_images: Images | None = None  # of a worker process


def _start_worker(images: Images) -> None:
    global _images
    torch.set_num_threads(1)
    _images = images


def _train_one(task: tuple[Member, Sequence[int]]) -> tuple[list[Checkpoint], float]:
    assert _images is not None
    started = time.process_time()
    trained = train_member(task[0], _images, task[1])
    return trained, time.process_time() - started


def _check_agreement(
    members: Sequence[Member], images: Images, epochs: Sequence[int], device: str
) -> float:
    """Largest difference of theta between the loop and stacks in float64; it must be rounding."""
    wide = replace(
        images,
        train_images=images.train_images.double(),
        test_images=images.test_images.double(),
    )
    chosen = members[:CHECKED]
    expected = [train_member(member, wide, epochs) for member in chosen]
    found = train_members_stacked(chosen, wide, epochs, device=device)
    difference = max(
        float((a - b).abs().max())
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(_thetas(one), _thetas(other), strict=True)
    )
    if difference > 1e-9:
        raise AssertionError(f"stacks and loop differ by {difference} in float64")
    return difference


def _difference(found: Trained, expected: Trained, place: int) -> float:
    """Median over members of the largest difference of theta, at one of the checkpoints."""
    return median(
        float((_thetas(one)[place] - _thetas(other)[place]).abs().max())
        for one, other in zip(found, expected, strict=True)
    )


def _thetas(checkpoints: Sequence[Checkpoint]) -> list[Tensor]:
    return [
        torch.cat([value.flatten() for value in kept.state_dict.values()]) for kept in checkpoints
    ]


def _operations(member: Member, images: Images, epochs: Sequence[int]) -> float:
    """Floating-point operations of a member's training and of judging its checkpoints."""
    design = replace(member.network, dropout=0.0)
    forward, both = _operations_an_image(design, images.input_shape, images.num_classes)
    num_rows = num_train_rows(member, images)
    judged = len(epochs) * (num_rows + len(images.test_labels))
    return both * max(epochs) * num_rows + forward * judged


@cache
def _operations_an_image(
    design: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
) -> tuple[float, float]:
    """Forward, and forward with backward."""
    module = build_network(design, input_shape, num_classes)
    x, y = torch.zeros(16, *input_shape), torch.zeros(16, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        module(x)
    with FlopCounterMode(display=False) as both:
        F.cross_entropy(module(x), y).backward()
    return forward.get_total_flops() / len(x), both.get_total_flops() / len(x)


def _product_rate(device: torch.device) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    size = 1024 if device.type == "cpu" else 8192
    x = torch.randn(size, size, device=device)
    seconds = []
    for _ in range(15):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter() if device.type == "cuda" else time.process_time()
        x @ x
        if device.type == "cuda":
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        else:
            seconds.append(time.process_time() - started)
    return 2 * size**3 / median(seconds)


def _describe(recipe: ClassifierRecipe) -> str:
    network = recipe.networks[0]
    return (
        f"{recipe.num_models} members ({network.label}...), {recipe.epochs} epochs of up to "
        f"{recipe.train_limit} images, batches of {list(recipe.search.batch_size)}"
    )


def _machine(device: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    load = os.getloadavg()[0]
    return (
        f"{names[0]} x {len(names)}{gpu}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, load at the start {load:.1f}"
    )


if __name__ == "__main__":
    typer.run(main)
