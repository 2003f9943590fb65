"""Creating a zoo: models made by worker processes, each kept as soon as it is done.

An interrupted creation resumes with the models that are missing and ends in
the same files, bit for bit, as an unbroken one, for any number of workers and
either engine. Knows neither training nor the store's files in detail.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

from ..progress import Advance, show_progress
from .images import Images, open_images, save_images
from .kinds import open_workshop, prepare
from .pool import make_in_pool
from .recipe import Recipe, Workshop, check_choice
from .store import layout
from .store.consolidate import consolidate, draw_splits, remove_staged, write_splits
from .store.folder import Folder, open_folder
from .store.staging import staged_batches, write_batch
from .store.zoo import Zoo

ENGINES = ("pool", "ray")


def create_zoo(
    recipe: Recipe,
    path: str | os.PathLike[str],
    *,
    num_workers: int | None = None,
    engine: str = "pool",
    progress: bool = True,
) -> Zoo:
    """Make the zoo that `recipe` describes in the folder `path`.

    Interrupt it at will: the same call resumes. A finished zoo of the same
    recipe is opened. Call it under `if __name__ == "__main__":` in a script,
    as worker processes import the script.

    Args:
        path: A folder, or an fsspec URL that all workers can reach.
        num_workers: Processes; 0 makes all in this one. None takes the recipe's,
            else one a core (of the cluster, with ray).
        engine: "pool" for processes of this machine, "ray" for a Ray cluster
            (RAY_ADDRESS, else one that is started here with `num_workers` CPUs).
        progress: Show a bar with rate and time left on stderr.

    Raises:
        ValueError: `path` holds something else or a zoo of another recipe, another
            process writes to it, the images cannot be read, or a network does not
            suit them.
        RuntimeError: a model failed; its index and hyper-parameters are named.
    """
    check_choice("engine", engine, ENGINES)
    folder = open_folder(path)
    wanted = recipe.num_workers if num_workers is None else num_workers
    if engine == "ray" and wanted is None:
        num_workers = None  # the cluster's CPUs
    else:
        num_workers = _resolve_workers(wanted)
    if num_workers != 0 and str(folder).startswith("memory://"):
        raise ValueError(f"{folder}: lives in this process alone, so it needs num_workers=0")
    if engine == "ray" and num_workers == 0:
        raise ValueError("engine ray needs num_workers of 1 or more")
    with folder.exclusive():
        if not _is_finished(folder, recipe):
            try:
                _make_missing(recipe, folder, num_workers, engine, progress)
            except KeyboardInterrupt as interrupt:
                interrupt.add_note(f"{folder}: finished models are kept; the same call resumes")
                raise
            consolidate(folder, finished=True)
        remove_staged(folder)
    return Zoo.open(path)


def _make_missing(
    recipe: Recipe, folder: Folder, num_workers: int | None, engine: str, progress: bool
) -> None:
    """Fill the staging area with the chunks of models that it lacks."""
    images = prepare(recipe)
    _begin(folder, recipe, images)
    missing = missing_chunks(recipe, folder)
    num_missing = sum(len(chunk) for chunk in missing)
    num_done = recipe.num_models - num_missing
    with show_progress(f"zoo {recipe.name}", recipe.num_models, num_done, progress) as advance:
        count = _counter(advance, num_done)
        if num_workers == 0:
            workshop = open_workshop(recipe, images)
            for chunk in missing:
                make_chunk(recipe, folder, workshop, chunk)
                count(chunk)
        elif missing:
            if images is not None:
                folder.write(layout.SHARED_IMAGES, lambda file: save_images(images, file))
            if num_workers is not None:
                num_workers = min(num_workers, len(missing))
            match engine:
                case "pool":
                    assert num_workers is not None
                    make_in_pool(recipe, str(folder), missing, num_workers, count)
                case "ray":
                    from .ray_engine import make_on_ray

                    make_on_ray(recipe, str(folder), missing, num_workers, count)


def missing_chunks(recipe: Recipe, folder: Folder) -> list[range]:
    """The models that are not staged yet, in the chunks in which they are made."""
    done = {index for batch in staged_batches(folder, 0) for index in batch.indices}
    num, size = recipe.num_models, layout.read_header(folder)["chunk"]
    chunks = (range(start, min(start + size, num)) for start in range(0, num, size))
    return [chunk for chunk in chunks if not done.issuperset(chunk)]


class ChunkMaker:
    """Makes and stages chunks of one recipe, in whichever process it stands."""

    def __init__(self, recipe: Recipe, path: str) -> None:
        self.recipe = recipe
        self.folder = open_folder(path)
        images = None
        if self.folder.exists(layout.SHARED_IMAGES):
            images = open_images(self.folder.local(layout.SHARED_IMAGES))
        self.workshop = open_workshop(recipe, images)

    def __call__(self, chunk: range) -> None:
        make_chunk(self.recipe, self.folder, self.workshop, chunk)


def make_chunk(recipe: Recipe, folder: Folder, workshop: Workshop, chunk: range) -> None:
    """Make the models of a chunk and keep them."""
    try:
        records = workshop.make(chunk)
    except Exception as error:
        note = "finished models are kept; the same call resumes"
        raise RuntimeError(
            f"zoo '{recipe.name}': model {_span(chunk)} failed: {error}\n  {note}"
        ) from error
    write_batch(folder, chunk.start, records, recipe.dtype)


def _span(chunk: range) -> str:
    return str(chunk.start) if len(chunk) == 1 else f"{chunk.start} to {chunk.stop - 1}"


def _counter(advance: Advance, done: int) -> Callable[[range], None]:
    def count(chunk: range) -> None:
        nonlocal done
        done += len(chunk)
        advance(done)

    return count


def _resolve_workers(wanted: int | None) -> int:
    if wanted is None:
        return len(os.sched_getaffinity(0))
    if wanted < 0:
        raise ValueError(f"num_workers must not be negative, got {wanted}")
    return wanted


def _is_finished(folder: Folder, recipe: Recipe) -> bool:
    """Whether the folder holds this very zoo, finished; raise if it holds another or none."""
    if not folder.exists(layout.HEADER_FILE):
        if others := folder.entries():
            raise ValueError(
                f"{folder}: not empty and not a zoo, it holds {', '.join(others[:5])}. "
                "Name a new or empty folder"
            )
        return False
    header = layout.read_header(folder)
    if header["recipe"] is None:
        raise ValueError(
            f"{folder}: holds a zoo that was imported from {header['source']}. Name another folder"
        )
    if different := _differences(header["recipe"], recipe.identity()):
        state = "a finished" if header["finished"] else "an unfinished"
        raise ValueError(
            f"{folder}: holds {state} zoo of another recipe:\n  "
            + "\n  ".join(different)
            + "\nName another folder, or repeat the settings of the first run"
        )
    return bool(header["finished"])


def _begin(folder: Folder, recipe: Recipe, images: Images | None) -> None:
    """Write what stands before any model is made, or check what an earlier run wrote."""
    facts: dict[str, Any] = {}
    if images is not None:
        facts = {
            "input_shape": list(images.input_shape),
            "num_classes": images.num_classes,
            "images_sha256": images.sha256(),
        }
    header = layout.new_header(
        name=recipe.name,
        dtype=recipe.dtype,
        licence=recipe.licence,
        fractions={"validation": recipe.validation_fraction, "test": recipe.test_fraction},
        seed=recipe.seed,
        recipe=recipe.identity(),
        facts=facts,
    )
    header["chunk"] = recipe.chunk
    if not folder.exists(layout.HEADER_FILE):
        split = draw_splits(header, [], recipe.num_models)
        layout.write_header(folder, header)
        write_splits(folder, split)
        return
    if not folder.exists(layout.SPLITS_FILE):
        write_splits(folder, draw_splits(header, [], recipe.num_models))
    earlier = layout.read_header(folder)
    if earlier["facts"] != header["facts"]:
        raise ValueError(
            f"{folder}: was begun with other images than are found now. Restore them, or name "
            "another folder"
        )
    if earlier["versions"] != header["versions"]:
        warnings.warn(
            f"{folder}: was begun with {earlier['versions']}, resumed with {header['versions']}: "
            "results may differ from those of an unbroken run",
            stacklevel=4,
        )


def _differences(there: Any, now: Any, place: str = "") -> list[str]:
    """A line for each setting that differs."""
    if isinstance(there, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted({*there, *now})
            for line in _differences(there.get(key), now.get(key), f"{place}.{key}".strip("."))
        ]
    return [] if there == now else [f"{place}: {there} there, {now} now"]
