"""Losses and gradients stay finite, or the run stops with the batches at fault on file.

A step's numbers stay on the device until someone looks, so that a GPU need not be waited
for at every step. Files are a pair, `not_finite-<step>.safetensors` with the networks and
`.json` with the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..architecture import Architecture
from ..files import write_json, write_whole
from .config import TrainingConfig
from .distributed import Processes
from .draws import generator_of, seed_of
from .networks import Rows
from .order import BatchOrder, Choice
from .step import Losses

FORMAT = 1


@dataclass(frozen=True, eq=False)
class BadBatch:
    """A batch of a step that was not finite, as training saw it before its views were drawn."""

    step: int
    number: int  # of the batch, through the whole training
    seed: int  # of the training
    losses: dict[str, float]
    rows: Rows

    def generator(self) -> torch.Generator:
        """What the objective drew from."""
        return generator_of(self.seed, self.number)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of a step until the next look."""

    step: int
    choices: Sequence[Choice]  # of all processes
    own: Sequence[Choice]
    losses: Sequence[Losses]  # of the own ones
    norm: Tensor

    @property
    def loss(self) -> Tensor:
        """Sum over the own networks."""
        pairs = zip(self.own, self.losses, strict=True)
        return torch.stack([found["loss"] * len(choice) for choice, found in pairs]).sum()


class Watch:
    """Looks at losses and gradients of past steps, all processes together."""

    def __init__(
        self, order: BatchOrder, config: TrainingConfig, processes: Processes, folder: Path
    ) -> None:
        self.order, self.config, self.folder, self.team = order, config, folder, processes
        self.seen: list[_Seen] = []

    def note(
        self,
        step: int,
        choices: Sequence[Choice],
        own: Sequence[Choice],
        losses: Sequence[Losses],
        norm: Tensor,
    ) -> None:
        """Keep a step's numbers without reading them."""
        self.seen.append(_Seen(step, choices, own, losses, norm))

    def look(self) -> None:
        """Read all that was noted since the last look.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; names the first such step
                and the file with its batches.
        """
        losses = self.team.add(torch.stack([s.loss for s in self.seen]))
        norms = torch.stack([s.norm for s in self.seen]).to(losses)
        seen, self.seen = self.seen, []
        good = torch.isfinite(losses) & torch.isfinite(norms)
        if bool(good.all()):
            return
        place = int((~good).int().argmax())
        first = seen[place]
        loss = float(losses[place]) / sum(map(len, first.choices))
        path = self._save(first)
        what = (
            f"loss is {loss}" if not math.isfinite(loss) else f"gradient is {float(norms[place])}"
        )
        raise FloatingPointError(
            f"the {what} at step {first.step}; its batches are in {path} "
            f"(graphrep.training.load_bad_batches), the last checkpoint is kept in "
            f"{self.folder}. Try a lower training.learning_rate than {self.config.learning_rate}"
            + (", or training.precision=float32." if self.config.precision != "float32" else ".")
        )

    def _save(self, seen: _Seen) -> Path:
        """Write the batches with a loss that is not finite, or all if the gradient alone is not."""
        path = self.folder / f"not_finite-{seen.step}.json"
        numbers = [{name: float(v) for name, v in found.items()} for found in seen.losses]
        own = {c.number: found for c, found in zip(seen.own, numbers, strict=True)}
        found = {number: f for part in self.team.gather(own) for number, f in part.items()}
        bad = [n for n, losses in found.items() if not all(map(math.isfinite, losses.values()))]
        if self.team.leads:
            batches = [
                BadBatch(seen.step, c.number, self.config.seed, found[c.number], self.order.read(c))
                for c in seen.choices
                if c.number in (bad or found)
            ]
            save_bad_batches(path, batches, float(seen.norm))
        self.team.share(None)  # torchrun stops everyone as soon as one has raised
        return path


def save_bad_batches(path: Path, batches: Sequence[BadBatch], gradient_norm: float) -> None:
    """Write batches of one step as `path` (.json) and a .safetensors beside it, each whole."""
    from safetensors.torch import save_file

    tensors = {
        f"{batch.number}.{name}": value.contiguous()
        for batch in batches
        for name, value in batch.rows.tensors.items()
    }
    write_whole(path.with_suffix(".safetensors"), lambda file: save_file(tensors, file))
    content = {
        "format": FORMAT,
        "step": batches[0].step,
        "seed": batches[0].seed,
        "gradient_norm": gradient_norm,
        "batches": [
            {
                "number": batch.number,
                "generator_seed": seed_of(batch.seed, batch.number),
                "losses": batch.losses,
                "architecture": json.loads(batch.rows.architecture.to_json()),
            }
            for batch in batches
        ],
    }
    write_json(path, content, indent=1)


def load_bad_batches(path: Path) -> list[BadBatch]:
    """The inverse of `save_bad_batches`: what a run that stopped left at `path` (.json).

    Raises:
        ValueError: no such files, damaged ones, or ones of another version.
    """
    from safetensors.torch import load_file

    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        tensors = load_file(path.with_suffix(".safetensors"))
        return [_batch(content, batch, tensors) for batch in content["batches"]]
    except Exception as error:
        raise ValueError(f"{path}: not the batches of a run that stopped: {error}") from error


def _batch(content: dict[str, Any], batch: dict[str, Any], tensors: dict[str, Tensor]) -> BadBatch:
    prefix = f"{batch['number']}."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    architecture = Architecture.from_json(json.dumps(batch["architecture"]))
    return BadBatch(
        step=content["step"],
        number=batch["number"],
        seed=content["seed"],
        losses=batch["losses"],
        rows=Rows(architecture=architecture, **own),
    )
