"""What every objective of training is: losses of a batch, and modules of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...encoders import Batch
from ...model import WeightModel
from ..networks import Rows
from .views import ViewConfig, make_view


class Objective(nn.Module):
    """Losses of networks under a model; owns what is trained for the objective alone.

    All random numbers of a batch come from the generator that is handed in (on the CPU),
    so that a resumed run draws what an unbroken one does.
    """

    config: Any  # its settings, a dataclass
    decodes = False  # whether the decoder learns, so that networks can be sampled
    condenses = True  # whether the model's components are fitted after training

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Scalars by name; `loss` is what is minimised, a mean over the networks in `rows`."""
        raise NotImplementedError


def reorders(wanted: bool | None, model: WeightModel) -> bool:
    """Whether units are reordered: as wanted, or with None for encoders that see orders."""
    return not model.encoder.invariant if wanted is None else wanted


def changed_batch(
    model: WeightModel, rows: Rows, config: ViewConfig, generator: torch.Generator
) -> Batch:
    """The networks as a view shows them, without tokens; drawn anew every time."""
    if not (config.permute or config.noise or config.mask_ratio or config.erase):
        return plain_batch(model, rows)
    size = model.config.token_size
    view = make_view(rows.theta, rows.architecture, model.values, config, size, generator)
    hides = config.mask_ratio or config.erase  # all seen is what encoders know best
    visible = view.visible if hides else None
    return Batch(rows.architecture, view.values, size, visible, tokens=False)


def embed_rows(
    model: WeightModel, rows: Rows, view: ViewConfig | None, generator: torch.Generator
) -> Tensor:
    """Model embeddings [B, D] of a view, or with None as a trained representation gives them."""
    theta, architecture, answers = rows.theta, rows.architecture, rows.answers
    if view is None:
        return model.encode(theta, architecture, tokens=False, answers=answers).model
    learned = model.embed(changed_batch(model, rows, view, generator)).model
    if model.config.magnitude_slots:
        learned = model.beside_magnitudes(learned, model.form(theta, architecture), architecture)
    return model.beside_answers(learned, theta, architecture, answers)


def plain_batch(model: WeightModel, rows: Rows, *, tokens: bool = False) -> Batch:
    """The networks as they are, nothing hidden."""
    values = model.values(rows.theta, rows.architecture)
    return Batch(rows.architecture, values, model.config.token_size, tokens=tokens)
