"""From a model embedding to properties: what is predicted, on which scale, at what loss.

Every loss is divided by that of the best constant over the training split, so 1 is what
knowing nothing costs, 0 is perfect, and properties of any unit weigh the same. Knows no
encoder and no zoo.

Letters in shapes: B batch, D embedding, K targets, O outputs (a number has one, a category
one a class).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("share", "number", "logarithm", "category")
SHARE_LOSSES = ("squared", "entropy")
NORMS = ("layer", "batch")
LEAST_SPREAD = 0.05  # deviation from where on numbers within [0, 1] are taken for shares


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of `PropertyHead`."""

    hidden_dim: int = 128
    num_layers: int = 2  # hidden ones; 0 is a linear map
    dropout: float = 0.0  # probability, before every layer
    share_loss: str = "entropy"  # of numbers within [0, 1]: one of SHARE_LOSSES
    norm: str = "layer"  # of the embedding: one of NORMS

    def __post_init__(self) -> None:
        if self.hidden_dim < 1 or self.num_layers < 0:
            raise ValueError(
                "head.hidden_dim must be at least 1 and head.num_layers at least 0, got "
                f"{self.hidden_dim} and {self.num_layers}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"head.dropout must lie in [0, 1), got {self.dropout}")
        if self.share_loss not in SHARE_LOSSES:
            names = ", ".join(SHARE_LOSSES)
            raise ValueError(f"head.share_loss must be one of {names}, got '{self.share_loss}'")
        if self.norm not in NORMS:
            raise ValueError(f"head.norm must be one of {', '.join(NORMS)}, got '{self.norm}'")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A property to predict, and what the training split says of it.

    A `share` lies within [0, 1], such as an accuracy, and comes out of a sigmoid; of a
    `logarithm` the base is 10.
    """

    name: str
    kind: str  # one of KINDS
    centre: float = 0.0  # mean; of a logarithm, of the logarithms
    deviation: float = 1.0
    information: float = 1.0  # nats that knowing it saves: of a category its entropy
    known: float = 1.0  # share of the networks for which it is known
    categories: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()  # of the categories

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got '{self.kind}'")

    @property
    def num_outputs(self) -> int:
        return len(self.categories) if self.kind == "category" else 1

    @property
    def start(self) -> list[float]:
        """Outputs that say what is best without knowing the network."""
        match self.kind:
            case "share":
                return [float(np.log(self.centre / (1 - self.centre)))]
            case "category":
                return np.log(self.frequencies).tolist()
            case _:
                return [0.0]

    def losses(self, outputs: Tensor, target: Tensor, share_loss: str = "entropy") -> Tensor:
        """Loss of each network relative to the best constant's, 0 where the target is NaN.

        Args:
            outputs: [B, O of this target]. target: [B], of a logarithm the logarithm, of a
                category the number of the class.
        """
        known = torch.isfinite(target)
        value = torch.where(known, target, 0.0)
        match self.kind:
            case "category":
                found = F.cross_entropy(outputs, value.long(), reduction="none") / self.information
            case "share" if share_loss == "entropy":
                found = F.binary_cross_entropy_with_logits(outputs[:, 0], value, reduction="none")
                found = (found - _entropy(value)) / self.information
            case "share":
                found = ((outputs[:, 0].sigmoid() - value) / self.deviation).square()
            case _:
                found = (outputs[:, 0] - (value - self.centre) / self.deviation).square()
        return torch.where(known, found, 0.0)

    def natural(self, outputs: Tensor) -> Tensor:
        """Outputs [B, O] in natural units; of a category the probability of each class."""
        match self.kind:
            case "category":
                return outputs.softmax(1)
            case "share":
                return outputs.sigmoid()
            case "number":
                return outputs * self.deviation + self.centre
            case _:
                return 10 ** (outputs * self.deviation + self.centre)


def fit_target(name: str, values: np.ndarray, *, log: bool = False) -> Target:
    """A number's scale from its values over the training split, NaN where not known.

    Raises:
        ValueError: it is known for fewer than two networks, or constant.
    """
    values = numbers_of(values, log=log)
    there = values[np.isfinite(values)]
    if len(np.unique(there)) < 2:
        raise ValueError(
            f"property '{name}' is constant or missing over the training split ({len(there)} of "
            f"{len(values)} networks have it); take another"
        )
    centre, deviation = float(there.mean()), float(there.std())
    share = not log and there.min() >= 0 and there.max() <= 1 and deviation >= LEAST_SPREAD
    information = 1.0
    if share:
        certain, mean = torch.from_numpy(there), torch.tensor(centre, dtype=torch.float64)
        information = float(_entropy(mean) - _entropy(certain).mean())
    return Target(
        name=name,
        kind="logarithm" if log else "share" if share else "number",
        centre=centre,
        deviation=deviation,
        information=information,
        known=len(there) / len(values),
    )


def fit_category(name: str, labels: np.ndarray) -> Target:
    """A category's classes from the labels of the training split, None where not known.

    Raises:
        ValueError: all that are known are of one class.
    """
    there = np.array([label for label in labels if label is not None])
    classes, counts = np.unique(there, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"category '{name}' has {len(classes)} classes over the training split; take another"
        )
    frequencies = counts / counts.sum()
    return Target(
        name=name,
        kind="category",
        information=float(-(frequencies * np.log(frequencies)).sum()),
        known=len(there) / len(labels),
        categories=tuple(map(str, classes)),
        frequencies=tuple(map(float, frequencies)),
    )


def numbers_of(values: np.ndarray, *, log: bool) -> np.ndarray:
    """Finite float64 numbers, or their logarithms to base 10; else NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log10(values) if log else np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


class PropertyHead(nn.Module):
    """Model embeddings [B, D] -> outputs [B, O], side by side in the order of the targets.

    With `norm` batch (Ioffe, Szegedy 2015, arXiv:1502.03167) every number of the embedding is
    standardised over the batch, and once trained by the running mean and deviation: networks
    of one start differ by a thousandth of what their embeddings share, which a norm over the
    embedding leaves as it is. Batches are of one architecture, so it is meant for zoos of one.
    """

    def __init__(self, config: HeadConfig, targets: tuple[Target, ...], embedding_dim: int) -> None:
        super().__init__()
        if not targets:
            raise ValueError("a head needs properties to predict")
        self.config, self.targets = config, targets
        widths = [embedding_dim, *[config.hidden_dim] * config.num_layers]
        num_outputs = sum(target.num_outputs for target in targets)
        norms = {"layer": nn.LayerNorm, "batch": _BatchNorm}
        self.norm = norms[config.norm](embedding_dim)
        self.hidden = nn.ModuleList(nn.Linear(narrow, wide) for narrow, wide in pairwise(widths))
        self.out = nn.Linear(widths[-1], num_outputs)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([v for t in targets for v in t.start]))

    def forward(self, embedding: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Outputs; with a generator numbers are dropped, drawn from it."""
        inner = self.norm(embedding)
        for layer in self.hidden:
            inner = F.gelu(layer(self._drop(inner, generator)))
        outputs: Tensor = self.out(self._drop(inner, generator))
        return outputs

    def losses(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """By property, means over all rows [B]: of a known one 1 is what a constant costs.

        Rows where a property is not known count 0, and the rest the more, by the share of
        training for which it is: so the losses of two halves of a batch average to the whole's.

        Args:
            targets: [B, K] as `Target.losses` wants them.
        """
        found = {}
        parts = outputs.split([target.num_outputs for target in self.targets], 1)
        for target, part, column in zip(self.targets, parts, targets.unbind(1), strict=True):
            losses = target.losses(part, column, self.config.share_loss)
            found[target.name] = losses.mean() / target.known
        return found

    def natural(self, outputs: Tensor) -> Tensor:
        """Outputs [B, O] in natural units, categories as probabilities."""
        parts = outputs.split([target.num_outputs for target in self.targets], 1)
        return torch.cat([t.natural(p) for t, p in zip(self.targets, parts, strict=True)], 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """What each output is: the property, or of a category property=class."""
        return tuple(
            name
            for target in self.targets
            for name in (
                [f"{target.name}={label}" for label in target.categories]
                if target.kind == "category"
                else [target.name]
            )
        )

    def _drop(self, inner: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None or not self.config.dropout:
            return inner
        kept = torch.rand(inner.shape, generator=generator) >= self.config.dropout
        return inner * kept.to(inner) / (1 - self.config.dropout)


class _BatchNorm(nn.BatchNorm1d):
    """Also of small spreads; by the running statistics where a batch is a single network."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-8)

    def forward(self, values: Tensor) -> Tensor:
        own = self.training and len(values) > 1
        running = self.running_mean, self.running_var
        return F.batch_norm(values, *running, self.weight, self.bias, own, 0.1, self.eps)


def _entropy(share: Tensor) -> Tensor:
    """Of a coin that shows heads with this probability, in nats."""
    return -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
