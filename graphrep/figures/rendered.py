"""What implicit networks show: the image of each, checkpoint after checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rendered_images(
    images: Sequence[Sequence[np.ndarray]], titles: Sequence[str], steps: Sequence[str]
) -> Figure:
    """A column a network, a row a checkpoint.

    Args:
        images: Of each network its checkpoints' images, each [C, H, W] with values 0 to 1
            (C 1 for grey, 3 for colours); values outside are clipped.
        titles: Of the networks.
        steps: Of the checkpoints.

    Raises:
        ValueError: the numbers of networks, checkpoints and their names differ.
    """
    from matplotlib.figure import Figure

    if len(images) != len(titles) or any(len(row) != len(steps) for row in images):
        raise ValueError(
            f"{len(titles)} titles and {len(steps)} steps do not name {len(images)} networks with "
            f"{sorted({len(row) for row in images})} checkpoints"
        )
    with style():
        figure = Figure(figsize=(0.9 * len(titles) + 0.7, 0.95 * len(steps) + 0.35))
        axes = figure.subplots(len(steps), len(titles), squeeze=False)
        for column, (title, checkpoints) in enumerate(zip(titles, images, strict=True)):
            axes[0][column].set_title(title, fontsize=8)
            for row, image in enumerate(checkpoints):
                ax = axes[row][column]
                shown = np.clip(np.moveaxis(image, 0, -1), 0, 1)
                ax.imshow(
                    shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1
                )
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(False)
                if column == 0:
                    ax.set_ylabel(steps[row], fontsize=8)
    return figure
