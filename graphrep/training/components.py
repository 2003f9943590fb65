"""Fit a trained model's components to the population that it was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..architecture import Architecture
from ..model import WeightModel
from ..scaling import Thetas

MOST = 4096  # networks that components are fitted to; rows at equal distances stand for all
PART = 64  # networks encoded at a time


@torch.no_grad()
def fit_components(
    model: WeightModel, groups: Iterable[tuple[Architecture, Thetas]]
) -> WeightModel:
    """Where the model's settings ask for components: from networks in rows, without labels.

    A model whose components are fitted already is left as it is.
    """
    if model.components is None or model.is_condensed:
        return model
    listed = list(groups)
    step = -(-sum(len(theta) for _, theta in listed) // MOST)
    like, is_learned, found = next(model.parameters()), model.is_learned(), []
    for architecture, theta in listed:
        for rows in torch.arange(0, len(theta), step).split(PART):
            told = model.encode_weights(theta[rows].to(like), architecture, tokens=False).model
            found.append(told[:, : model.learned_dim][:, is_learned].cpu())
    model.components.fit(torch.cat(found))
    return model
