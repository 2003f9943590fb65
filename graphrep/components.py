"""Principal components of what a model has learned, in place of its many numbers.

A probe weighs all numbers of an embedding alike, so a thousand learned ones drown the few
dozen that say how a network began. Fitted to the training split without labels, once the
model is trained; a part of the model from then on.

Letters in shapes: N networks, B of a batch, L learned numbers, K components.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

REACH = 5.0  # deviations beyond count as this many: a few extreme networks span no component


class Components(nn.Module):
    """Standardised, learned numbers [B, L] -> [B, K]."""

    fitted: Tensor
    centre: Tensor
    scale: Tensor
    directions: Tensor

    def __init__(self, num_learned: int, num_components: int) -> None:
        """Until it is fitted it says 0 for every network."""
        super().__init__()
        self.num_components = num_components
        self.is_fitted = False  # as `fitted`, where reading that would wait for a device
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("centre", torch.zeros(num_learned))
        self.register_buffer("scale", torch.ones(num_learned))
        self.register_buffer("directions", torch.zeros(num_components, num_learned))
        self.register_load_state_dict_post_hook(_note_fitted)

    def fit(self, learned: Tensor) -> Components:
        """From networks in rows, [N, L]; fewer networks than components leave the last ones 0."""
        from sklearn.decomposition import PCA

        rows = learned.double().cpu()
        deviation = rows.std(0, correction=0)
        flat = deviation <= 1e-9 * rows.abs().mean(0)
        self.centre.copy_(rows.mean(0))
        self.scale.copy_(torch.where(flat, torch.inf, deviation))
        num = min(self.num_components, *rows.shape)
        found = PCA(num, svd_solver="full").fit(self._standard(rows).numpy())
        self.directions.zero_()[:num] = torch.from_numpy(found.components_).to(self.directions)
        self.fitted.fill_(True)
        self.is_fitted = True
        return self

    def forward(self, learned: Tensor) -> Tensor:
        return self._standard(learned) @ self.directions.to(learned).T

    def _standard(self, learned: Tensor) -> Tensor:
        away = learned - self.centre.to(learned)
        return (away / self.scale.to(learned)).clamp(-REACH, REACH)


def _note_fitted(components: Components, keys: object) -> None:
    components.is_fitted = bool(components.fitted)
