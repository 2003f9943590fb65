"""Pictures of what implicit networks show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphrep.figures.rendered import rendered_images
from graphrep.zoo import Zoo, create_zoo
from graphrep.zoo.implicit.recipe import SirenRecipe
from graphrep.zoo_page import render_some


def test_each_network_has_a_column_and_each_checkpoint_a_row() -> None:
    images = [[np.full((1, 4, 4), 0.25 * n + 0.1 * s) for s in range(2)] for n in range(3)]
    figure = rendered_images(images, ["a", "b", "c"], ["first", "last"])
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["first", "last"]
    shown = [float(np.asarray(ax.images[0].get_array()).mean()) for ax in figure.axes]
    assert shown == pytest.approx([0.0, 0.25, 0.5, 0.1, 0.35, 0.6])
    with pytest.raises(ValueError, match="2 titles and 2 steps do not name 3 networks"):
        rendered_images(images, ["a", "b"], ["first", "last"])


def test_a_zoo_of_sirens_shows_its_images_and_other_zoos_show_none(
    zoo: Zoo, tmp_path: Path
) -> None:
    recipe = SirenRecipe(name="inr", images="digits", num_models=4, steps=300, checkpoints=(0,))
    made = create_zoo(recipe, tmp_path, num_workers=0, progress=False)
    found = render_some(made, 3)
    assert found is not None and render_some(zoo) is None
    images, titles, steps = found
    assert (len(images), steps) == (3, ["step 0", "step 300"])
    pixels = made.images().train_images * made.images().std[0] + made.images().mean[0]
    for model, (start, end) in enumerate(images):
        true = pixels[int(made.properties["image"].iloc[2 * model])].numpy()
        assert np.abs(end - true).mean() < 0.05 < np.abs(start - true).mean()
        assert titles[model].startswith(f"{made.properties['label'].iloc[2 * model]}: ")
