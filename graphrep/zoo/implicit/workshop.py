"""SIRENs of a recipe as records: images chosen, a stack of networks fitted, traced once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from ...graph import to_graph
from ..classifiers.train import single_thread
from ..images import Images
from ..record import Record
from .fit import fit
from .recipe import SirenRecipe
from .siren import build_siren, places


class SirenWorkshop:
    """Fits the members of one recipe, a chunk at once."""

    def __init__(self, recipe: SirenRecipe, images: Images) -> None:
        """Raises ValueError for a recipe with more members than images."""
        self.recipe = recipe
        self.images = images
        self.labels: Tensor = getattr(images, f"{recipe.part}_labels")
        self.order = recipe.image_order(len(self.labels))
        self.design: dict[str, Any] = {
            "kind": recipe.kind,
            "hidden": list(recipe.hidden),
            "omega": recipe.omega,
            "image_shape": list(images.input_shape),
        }
        label = "-".join(["siren", *map(str, recipe.hidden)])
        with torch.random.fork_rng(devices=[]), single_thread():
            torch.manual_seed(0)
            self._siren = build_siren(self.design)
            self.architecture = to_graph(self._siren, places(2, 2), name=label).architecture

    def make(self, indices: Sequence[int]) -> list[Record]:
        """The members of these indices; see `graphrep.zoo.recipe.Workshop`."""
        recipe = self.recipe
        steps = recipe.kept_steps
        chosen = self.order[torch.tensor(indices)]
        with single_thread():
            thetas, errors = fit(
                torch.stack([self._start(index) for index in indices]),
                self.brightness(chosen),
                hidden=recipe.hidden,
                omega=recipe.omega,
                learning_rate=recipe.learning_rate,
                steps=steps,
            )
        thetas, errors = thetas.transpose(0, 1).contiguous(), errors.T
        return [
            Record(
                name=f"{recipe.name}-{index:06d}",
                architecture=self.architecture,
                theta=thetas[i],
                rows=_metrics(steps, thetas[i], errors[i]),
                properties={
                    "label": int(self.labels[image]),
                    "image": image,
                    "image_set": recipe.images,
                    "image_part": recipe.part,
                    "seed": recipe.start_seed(index),
                    "shared_start": recipe.shared_start,
                    "hidden": "-".join(map(str, recipe.hidden)),
                    "omega": recipe.omega,
                    "learning_rate": recipe.learning_rate,
                },
                design=self.design,
            )
            for i, (index, image) in enumerate(zip(indices, chosen.tolist(), strict=True))
        ]

    def brightness(self, rows: Tensor) -> Tensor:
        """Images of the recipe's part as they were before standardising: [N, C, H, W] in 0..1."""
        standardised: Tensor = getattr(self.images, f"{self.recipe.part}_images")[rows]
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.images.mean, self.images.std))
        return (standardised * std + mean).clamp_(0, 1)

    def _start(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.recipe.start_seed(index))
        return parameters_to_vector(self._siren.initialise(generator).parameters()).detach()


def _metrics(steps: Sequence[int], thetas: Tensor, errors: Tensor) -> list[dict[str, Any]]:
    """A row a checkpoint; thetas [K, P], mean squared errors [K]."""
    finite = thetas.isfinite().all(1) & errors.isfinite()
    columns = zip(
        steps, errors.tolist(), (-10 * errors.log10()).tolist(), finite.tolist(), strict=True
    )
    return [
        {
            "epoch": step,  # every step sees the whole image
            "step": step,
            "mse": mse,
            "psnr": psnr,  # dB; the peak is 1
            "diverged": not is_finite,
        }
        for step, mse, psnr, is_finite in columns
    ]
