"""How well sampled networks work: against their anchors, random initialisation and the zoo.

The test images are halved: anchors, and the best of the zoo and of the samples, are
chosen on one half, and every accuracy that is reported is of the other. "Zoo" are the
networks of the last epoch, of the training split's commonest architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph import ParameterGraph
from ..representation import Representation
from ..sampling import METHODS
from ..symmetry import align
from ..zoo import Images, Zoo, evaluate
from ..zoo.population import higher_is_better, last_rows, main_metric
from .behaviour import FinetuningConfig, condition_batch_norm, finetune, novelty

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What is sampled and how it is judged; see conf/evaluation/*.yaml."""

    num_samples: int = 20  # a method
    anchor_share: float = 0.3  # of the training networks of one architecture, the best
    bandwidth: float = 0.2  # of the kernel density, in deviations of a latent
    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)

    def __post_init__(self) -> None:
        if self.num_samples < 1 or not 0 < self.anchor_share <= 1 or self.bandwidth <= 0:
            raise ValueError(
                "sampling needs num_samples >= 1, anchor_share in (0, 1] and bandwidth > 0, got "
                f"{self.num_samples}, {self.anchor_share} and {self.bandwidth}"
            )


@dataclass(frozen=True, eq=False)
class Ground:
    """What all encoders' samples are compared with; made once a zoo and seed."""

    anchors: list[ParameterGraph]
    build: Callable[[ParameterGraph], nn.Module]
    images: Images  # its test part is the half that is reported on
    choosing: tuple[Tensor, Tensor]  # images and labels of the other half
    accuracies: pd.DataFrame  # source, accuracy, choosing: zoo, anchors, random init
    scratch: pd.DataFrame  # start, step, accuracy
    anchor_novelty: dict[str, float]  # among the anchors themselves

    @property
    def baselines(self) -> dict[str, float]:
        """The numbers that a sampler must beat."""
        mean = self.accuracies.groupby("source")["accuracy"].mean()
        last = self.scratch[self.scratch["step"] == self.scratch["step"].max()]
        zoo = self.accuracies[self.accuracies["source"] == "zoo"]
        return {
            "random_init_accuracy": float(mean["random init"]),
            "scratch_accuracy": float(last["accuracy"].mean()),
            "zoo_best_accuracy": best_of(zoo),
            "zoo_mean_accuracy": float(mean["zoo"]),
            "anchors_mean_accuracy": float(mean["anchors"]),
        }


def best_of(rows: pd.DataFrame) -> float:
    """Reported accuracy of the network that is best on the half that chooses."""
    return float(rows["accuracy"].iloc[int(rows["choosing"].to_numpy().argmax())])


def prepare(zoo: Zoo, config: SamplingConfig, seed: int) -> Ground:
    """Choose anchors, measure zoo, random initialisation and training from scratch.

    Raises:
        ValueError: no trained network in the training split.
    """
    import pandas as pd

    graphs, anchors, module = choose_anchors(zoo, config.anchor_share)
    images = zoo.images()
    half = len(images.test_labels) // 2
    reported = replace(
        images, test_images=images.test_images[half:], test_labels=images.test_labels[half:]
    )

    choosing = images.test_images[:half], images.test_labels[:half]

    def build(graph: ParameterGraph) -> nn.Module:
        return graph.load_into(copy.deepcopy(module))

    records: list[dict[str, Any]] = []

    def measure(source: str, members: Sequence[nn.Module]) -> None:
        for module in members:
            row: dict[str, Any] = {"source": source, "encoder": ""}
            row["accuracy"] = evaluate(module, reported.test_images, reported.test_labels)[0]
            row["choosing"] = evaluate(module, *choosing)[0]
            records.append(row)

    measure("zoo", [build(g) for g in graphs])
    measure("anchors", [build(g) for g in anchors])
    fresh = []
    with torch.random.fork_rng(devices=[]):
        for number in range(config.num_samples):
            torch.manual_seed(seed * 1000 + number)
            fresh.append(_reinitialised(copy.deepcopy(module)))
            condition_batch_norm(
                fresh[-1], images.train_images, config.finetuning.batch_norm_passes
            )
    measure("random init", fresh)
    scratch = [
        {"start": "from scratch", "step": step, "accuracy": accuracy}
        for number, module in enumerate(fresh)
        for step, accuracy in finetune(
            module, reported, config.finetuning, seed * 1000 + number
        ).items()
    ]
    among = novelty(anchors, anchors, build, reported.test_images, same=True)
    return Ground(
        anchors,
        build,
        reported,
        choosing,
        pd.DataFrame(records),
        pd.DataFrame(scratch),
        {"weights": float(np.mean(among.weights)), "behaviour": float(np.mean(among.behaviour))},
    )


def choose_anchors(
    zoo: Zoo, share: float
) -> tuple[list[ParameterGraph], list[ParameterGraph], nn.Module]:
    """Training networks of the commonest architecture, the best of them, and their module.

    Networks are those of the last epoch; the best are chosen on the first half of
    the test images, at least two, and aligned to the first of them.

    Raises:
        ValueError: no finished network in the training split.
    """
    training = zoo.split("train")
    table = training.properties
    usable = table[(table["epoch"] == table["epoch"].max()) & ~table["diverged"]]
    if usable.empty:
        raise ValueError(f"{zoo.path}: the training split has no finished network to sample near")
    architecture = usable["architecture"].mode()[0]
    rows = usable.index[usable["architecture"] == architecture].tolist()
    images, module = zoo.images(), training.network(rows[0])
    half = len(images.test_labels) // 2
    choosing = images.test_images[:half], images.test_labels[:half]
    graphs = [training.graphs[row] for row in rows]
    accuracies = [evaluate(g.load_into(copy.deepcopy(module)), *choosing)[0] for g in graphs]
    best = np.argsort(accuracies)[::-1][: max(2, round(share * len(graphs)))]
    first, *rest = (graphs[i] for i in best)
    return graphs, [first, *(align(g, first) for g in rest)], module


def best_networks(zoo: Zoo, share: float) -> list[ParameterGraph]:
    """The best of the commonest architecture in the training split, aligned to the first.

    By the metric that the zoo keeps, of each model's last checkpoint; at least two. Needs
    no images, so it serves zoos of any kind.

    Raises:
        ValueError: the training split has no finished network, or the zoo no metric.
    """
    training = zoo.split("train")
    table = training.properties
    metric = main_metric(table)
    if metric is None:
        raise ValueError(f"{zoo.url}: no column says how good its networks are")
    last = table.iloc[last_rows(table)]
    usable = last[np.isfinite(last[metric].to_numpy(np.float64))]
    if usable.empty:
        raise ValueError(f"{zoo.url}: the training split has no finished network to sample near")
    usable = usable[usable["architecture"] == usable["architecture"].mode()[0]]
    usable = usable.sort_values(metric, ascending=not higher_is_better(metric), kind="stable")
    rows = usable.index[: max(2, round(share * len(usable)))].tolist()
    first, *rest = (training.graphs[row] for row in rows)
    return [first, *(align(graph, first) for graph in rest)]


def _reinitialised(module: nn.Module) -> nn.Module:
    """Torch's default initialisation, drawn anew."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return module


@dataclass(frozen=True, eq=False)
class SampleStudy:
    """One encoder's samples: a row a sample, and the curves of fine-tuning."""

    table: pd.DataFrame  # method, accuracy, choosing, finetuned_accuracy, novelty_*
    curves: pd.DataFrame  # start, step, accuracy
    graphs: dict[str, list[ParameterGraph]]

    def scores(self, method: str) -> dict[str, float]:
        """Means over one method's samples, the best accuracy, and novelty."""
        rows = self.table[self.table["method"] == method]
        return {
            "mean_accuracy": float(rows["accuracy"].mean()),
            "best_accuracy": best_of(rows),
            "finetuned_accuracy": float(rows["finetuned_accuracy"].mean()),
            "novelty_weights": float(rows["novelty_weights"].mean()),
            "novelty_behaviour": float(rows["novelty_behaviour"].mean()),
        }


def study(
    representation: Representation, ground: Ground, config: SamplingConfig, name: str, seed: int
) -> SampleStudy:
    """Sample by every method, load into the real module, test, fine-tune, compare with anchors."""
    import pandas as pd

    def build(graph: ParameterGraph) -> nn.Module:
        module = ground.build(graph)
        passes = config.finetuning.batch_norm_passes
        condition_batch_norm(module, ground.images.train_images, passes)
        return module

    representation.fit_anchors(ground.anchors)
    records, curves = [], []
    kept: dict[str, list[ParameterGraph]] = {}
    for method in METHODS:
        graphs = representation.sample(
            config.num_samples, method=method, bandwidth=config.bandwidth, seed=seed
        )
        kept[method] = graphs
        new = novelty(graphs, ground.anchors, build, ground.images.test_images)
        for number, graph in enumerate(graphs):
            module = build(graph)
            on_half, _ = evaluate(module, *ground.choosing)
            found = finetune(module, ground.images, config.finetuning, seed * 1000 + number)
            records.append(
                {
                    "method": method,
                    "sample": number,
                    "accuracy": found[0],
                    "choosing": on_half,
                    "finetuned_accuracy": found[max(found)],
                    "novelty_weights": new.weights[number],
                    "novelty_behaviour": new.behaviour[number],
                }
            )
            start = f"{name}, {method}"
            curves += [{"start": start, "step": s, "accuracy": a} for s, a in found.items()]
    return SampleStudy(pd.DataFrame(records), pd.DataFrame(curves), kept)
