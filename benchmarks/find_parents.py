"""Does an embedding find what a network was made from? Planted copies, looked for in their zoo.

    python -m benchmarks.find_parents ZOO [--model NAME=PATH ...] [--steps 0] [--json FILE]

Of each of some held-out models one trained checkpoint is the parent, and copies are made of
it: permuted, noised, fine-tuned, pruned, quantised, some of these together, rescaled (each unit
by 0.2 to 5 or a sign, where its function allows that) and widened (a quarter of the units of
each layer copied, with shares of what goes out, which computes the same). Each copy is looked
for among all checkpoints of the zoo, for each encoder and metric. Reported are the rank of the
parent's model (by its nearest checkpoint, among models) and of the very checkpoint (among
checkpoints): mean reciprocal rank and share at rank 1, with 95 % intervals over parents, and
the median rank. Encoders are saved models, or new ones trained for --steps on the zoo's
training split (0: the weights' scale is fitted, nothing else is learned).
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn

from graphrep import ParameterGraph, Representation, Zoo, random_permutation
from graphrep.embedding import embed_table
from graphrep.evaluation.comparison import train_representation
from graphrep.model import ModelConfig, WeightModel
from graphrep.neighbours import METRICS, Space
from graphrep.settings import Settings
from graphrep.symmetry import rescale, split_units
from graphrep.symmetry.copies import can_merge
from graphrep.tracking import Run
from graphrep.training.rescalings import learn_rescalings
from graphrep.zoo import Images
from graphrep.zoo.classifiers.train import train_steps

NUM_RESAMPLES = 1000
Graphs = list[ParameterGraph]


def main(
    zoo: Path,
    model: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a saved model")] = None,
    encoders: Annotated[str, typer.Option(help="new ones, by comma; '' for none")] = (
        "graph,token,statistics,raw"
    ),
    steps: Annotated[int, typer.Option(help="of training the new ones")] = 0,
    override: Annotated[list[str] | None, typer.Option(help="key=value of conf/")] = None,
    parents: Annotated[int, typer.Option(help="how many models have copies")] = 100,
    metrics: str = ",".join(METRICS),
    seed: int = 0,
    output: Annotated[Path | None, typer.Option("--json", help="write all figures here")] = None,
) -> None:
    torch.set_num_threads(1)
    population = Zoo.open(zoo)
    rows = choose_parents(population, parents, seed)
    print(f"{len(population)} checkpoints, {len(rows)} parents", flush=True)
    started = time.perf_counter()
    copies = make_copies(population, rows, seed)
    others = {kind: differ(population, rows, graphs) for kind, graphs in copies.items()}
    copies = {
        kind: [g for g, other in zip(graphs, others[kind], strict=True) if other]
        for kind, graphs in copies.items()
        if others[kind].any()
    }
    print(f"copies: {time.perf_counter() - started:.0f} s", flush=True)
    for kind, other in others.items():
        if not other.all():
            print(f"{kind}: {other.sum()} of {len(rows)} copies; the rest would be their parents")
    found: list[dict[str, Any]] = []
    for name, representation in representations(
        population, model or [], encoders, steps, override or [], seed
    ).items():
        started = time.perf_counter()
        table = embed_table(representation, [population.url])
        columns = [c for c in table if c not in population.properties]
        here = table[columns].to_numpy()
        embed_s = time.perf_counter() - started
        learn_rescalings(representation.model, population)
        for parent, wide in zip(rows[others["widened"]], copies["widened"], strict=True):
            known = representation.model.rescalings.get(
                population.graphs[int(parent)].architecture.fingerprint
            )
            if known is not None:
                representation.model.learn_rescalings([known.resized(wide.architecture)])
        embedded = {kind: np.asarray(representation.encode(g)) for kind, g in copies.items()}
        for metric in metrics.split(","):
            space = Space(metric, [here])
            for kind, values in embedded.items():
                distance = pairwise_distances(space(values), space(here), metric=space.distance)
                own = rows[others[kind]]
                scores = score(distance, own, population.properties["model"].to_numpy(), seed)
                found.append({"encoder": name, "metric": metric, "copy": kind, **scores})
        one = pd.DataFrame([row for row in found if row["encoder"] == name])
        print(f"\n{name} ({embed_s:.0f} s to embed the zoo)\n{as_text(one)}", flush=True)
    print(f"\nmean over the kinds of copies\n{means(pd.DataFrame(found)).to_string()}")
    if output:
        about = {"zoo": population.name, "parents": len(rows), "steps": steps, "seed": seed}
        output.write_text(json.dumps({**about, "rows": found}, indent=1) + "\n")


def choose_parents(zoo: Zoo, num: int, seed: int) -> np.ndarray:
    """Of each of `num` models of the test split one trained checkpoint whose values are finite."""
    table = zoo.properties
    usable = table[(table["split"] == "test") & (table["epoch"] > 0) & ~table["diverged"]]
    chosen = usable.groupby("model").sample(1, random_state=seed).index.to_numpy()
    if len(chosen) < 2:
        raise ValueError(f"{zoo.url}: the test split has {len(chosen)} models to choose from")
    return np.random.default_rng(seed).permutation(chosen)[:num]


def make_copies(zoo: Zoo, rows: np.ndarray, seed: int) -> dict[str, Graphs]:
    """Copies of these networks by kind, in the order of `rows`."""
    graphs = [zoo.graphs[int(row)] for row in rows]
    modules = [zoo.network(int(row)) for row in rows]
    permuted = permute(graphs, seed)
    tuned = {steps: finetune(graphs, modules, zoo.images(), steps, seed) for steps in (20, 200)}
    return {
        "permuted": permuted,
        "noise 1 %": noise(graphs, 0.01, seed),
        "noise 5 %": noise(graphs, 0.05, seed),
        "noise 10 %": noise(graphs, 0.1, seed),
        "fine-tuned 20 steps": tuned[20],
        "fine-tuned 200 steps": tuned[200],
        "pruned 20 %": [each(g, partial(prune, share=0.2)) for g in graphs],
        "pruned 50 %": [each(g, partial(prune, share=0.5)) for g in graphs],
        "float16": [each(g, lambda value: value.half().float()) for g in graphs],
        "int8": [each(g, partial(quantise, bits=8)) for g in graphs],
        "4 bit": [each(g, partial(quantise, bits=4)) for g in graphs],
        "permuted, noise 5 %": noise(permuted, 0.05, seed + 1),
        "permuted, tuned 200": permute(tuned[200], seed + 2),
        "permuted, pruned 50 %": [each(g, partial(prune, share=0.5)) for g in permuted],
        "permuted, 4 bit": [each(g, partial(quantise, bits=4)) for g in permuted],
        "rescaled": rescaled(zoo, rows, seed),
        "widened": widened(graphs, seed),
    }


def differ(zoo: Zoo, rows: np.ndarray, graphs: Sequence[ParameterGraph]) -> np.ndarray:
    """Which copies are not their very parents, bool [parents]."""
    parents = (zoo.graphs[int(row)].theta for row in rows)
    pairs = zip(graphs, parents, strict=True)
    return np.array([not torch.equal(graph.theta, theta) for graph, theta in pairs])


def permute(graphs: Sequence[ParameterGraph], seed: int) -> Graphs:
    """Hidden units in another order: the same function."""
    generator = torch.Generator().manual_seed(seed)
    return [g.permute(random_permutation(g.architecture, generator)) for g in graphs]


def rescaled(zoo: Zoo, rows: np.ndarray, seed: int) -> Graphs:
    """Each unit multiplied by a number from 1/5 to 5 or a sign that cancels: the same function.

    Where an architecture has no rescaling (GELU, tanh before max pooling) a copy is its parent,
    and is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    known = learn_rescalings(WeightModel(ModelConfig(canonical=True)), zoo).rescalings
    result = []
    for row in rows:
        graph = zoo.graphs[int(row)]
        scales = {}
        for factor in known[graph.architecture.fingerprint]:
            drawn = 2 * torch.rand(factor.size, generator=generator, dtype=torch.float64) - 1
            positive = factor.kind == "positive"
            scales[factor] = 5**drawn if positive else torch.where(drawn < 0, -1.0, 1.0).double()
        result.append(rescale(graph, scales))
    return result


def widened(graphs: Sequence[ParameterGraph], seed: int) -> Graphs:
    """A quarter of the units of each group copied, with shares of what goes out."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for graph in graphs:
        units = [graph.architecture.unit[name] for name in can_merge(graph.architecture)]
        copies = {
            u.name: torch.randperm(u.size, generator=generator)[: max(1, u.size // 4)]
            for u in units
        }
        result.append(split_units(graph, copies, generator))
    return result


def noise(graphs: Sequence[ParameterGraph], share: float, seed: int) -> Graphs:
    """Normal noise on each tensor, its deviation a share of the tensor's root mean square."""
    generator = torch.Generator().manual_seed(seed)

    def add(value: Tensor) -> Tensor:
        size = value.square().mean().sqrt()
        return value + share * size * torch.randn(value.shape, generator=generator)

    return [each(g, add) for g in graphs]


def prune(value: Tensor, share: float) -> Tensor:
    """The smallest numbers of a matrix or kernel set to zero; vectors stay."""
    if value.dim() < 2:
        return value
    num = round(share * value.numel())
    result = value.flatten().clone()
    result[value.abs().flatten().argsort()[:num]] = 0
    return result.view(value.shape)


def quantise(value: Tensor, bits: int) -> Tensor:
    """Rounded to 2^bits levels about zero, one step for a whole tensor."""
    top = 2 ** (bits - 1) - 1
    step = float(value.abs().max()) / top
    if step == 0:
        return value
    return torch.fake_quantize_per_tensor_affine(value, step, 0, -top, top)


def finetune(
    graphs: Sequence[ParameterGraph],
    modules: Sequence[nn.Module],
    images: Images,
    num_steps: int,
    seed: int,
) -> Graphs:
    """Trained on by SGD on the zoo's training images, in batches of 32 at a rate of 0.01."""
    result = []
    for number, (graph, fresh) in enumerate(zip(graphs, modules, strict=True)):
        module = graph.load_into(copy.deepcopy(fresh))
        train_steps(
            module,
            images,
            optimiser="sgd",
            learning_rate=0.01,
            momentum=0.9,
            num_steps=num_steps,
            batch_size=32,
            seed=seed + number,
        )
        result.append(ParameterGraph.from_state_dict(graph.architecture, module.state_dict()))
    return result


def each(graph: ParameterGraph, change: Callable[[Tensor], Tensor]) -> ParameterGraph:
    """A network with every tensor of its parameters changed; statistics and buffers stay."""
    state = graph.state_dict()
    for spec in graph.architecture.stored:
        if spec.role == "parameter":
            state[spec.name] = change(state[spec.name])
    return ParameterGraph.from_state_dict(graph.architecture, state)


def representations(
    zoo: Zoo, saved: Sequence[str], encoders: str, steps: int, overrides: Sequence[str], seed: int
) -> dict[str, Representation]:
    """Saved models, and new ones of these encoders, by name."""
    result = {}
    for item in saved:
        name, equals, path = item.partition("=")
        if not equals:
            raise ValueError(f"--model takes NAME=PATH, got '{item}'")
        result[name] = Representation.from_pretrained(path)
    for encoder in [e for e in encoders.split(",") if e]:
        settings = Settings.load(
            [
                f"encoder={encoder}",
                f"seed={seed}",
                f"training.num_steps={max(1, steps)}",
                *overrides,
            ]
        )
        if steps == 0:
            torch.manual_seed(seed)
            model = learn_rescalings(WeightModel(settings.model), zoo)
            model.fit_scaling((g.architecture, g.theta) for g in zoo.split("train").groups())
            result[f"{encoder}, untrained"] = Representation(model)
            continue
        with tempfile.TemporaryDirectory() as folder:
            result[f"{encoder}, {steps} steps"], *_ = train_representation(
                zoo,
                settings.model,
                settings.objective,
                settings.training,
                Path(folder) / "training",
                Run(),
            )
    return result


def score(
    distance: np.ndarray, parents: np.ndarray, models: np.ndarray, seed: int
) -> dict[str, Any]:
    """How high the parents stand: distance [copies, checkpoints], a row a parent.

    A rank counts what is nearer, and half of what is exactly as near.
    """
    own = distance[np.arange(len(parents)), parents]
    checkpoint_rank = rank(distance, own)
    order = np.argsort(models, kind="stable")
    starts = np.flatnonzero(np.append(True, models[order][1:] != models[order][:-1]))
    by_model = np.minimum.reduceat(distance[:, order], starts, axis=1)
    place = np.searchsorted(models[order][starts], models[parents])
    model_rank = rank(by_model, by_model[np.arange(len(parents)), place])
    result: dict[str, Any] = {}
    for what, ranks in (("model", model_rank), ("checkpoint", checkpoint_rank)):
        result[f"{what}_median_rank"] = float(np.median(ranks))
        for name, values in (("mrr", 1 / ranks), ("first", ranks == 1)):
            result[f"{what}_{name}"] = float(values.mean())
            result[f"{what}_{name}_interval"] = interval(values.astype(float), seed)
    return result


def rank(distance: np.ndarray, own: np.ndarray) -> np.ndarray:
    """1 + how many of [copies, others] are nearer than own [copies], equals counting half."""
    nearer = (distance < own[:, None]).sum(1)
    equal = (distance == own[:, None]).sum(1) - 1
    return 1 + nearer + equal / 2


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % of means over resampled parents."""
    stream = np.random.default_rng(seed)
    drawn = values[stream.integers(len(values), size=(NUM_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def as_text(table: pd.DataFrame) -> str:
    """For people: one line a metric and kind of copy."""
    lines = []
    for row in table.to_dict("records"):
        line = {"metric": row["metric"], "copy": row["copy"]}
        for what in ("model", "checkpoint"):
            for name in ("first", "mrr"):
                low, high = row[f"{what}_{name}_interval"]
                line[f"{what} {name}"] = f"{row[f'{what}_{name}']:.2f} ({low:.2f}-{high:.2f})"
            line[f"{what} rank"] = f"{row[f'{what}_median_rank']:g}"
        lines.append(line)
    return pd.DataFrame(lines).to_string(index=False)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Over all kinds of copies alike: a row an encoder and metric."""
    columns = ["model_first", "model_mrr", "checkpoint_first", "checkpoint_mrr"]
    return table.groupby(["encoder", "metric"], sort=False)[columns].mean().round(3)


if __name__ == "__main__":
    typer.run(main)
