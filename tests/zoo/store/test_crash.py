"""A store whose writer is killed at any moment: it opens, and nothing finished is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from graphrep.zoo import Zoo, append_to
from graphrep.zoo.store.verify import verify_zoo
from tests.zoo.store.made import architecture, make_record
from tests.zoo.tiny import folder_hashes

NUM = 60  # models, in ten openings of the store
TRIES = 60


def write(path: Path, report: object = None) -> None:
    """Add the models that are missing, six an opening; `report` hears of each that is kept."""
    while True:
        with append_to(path, name="made") as writer:
            first = writer.num_models
            for number in range(first, min(first + 6, NUM)):
                writer.add([make_record(number)])
                if report:
                    report.send(number)  # type: ignore[attr-defined]
        if first + 6 >= NUM:
            return


def killed_after(path: Path, seconds: float) -> set[int]:
    """Write in a process that is killed after so long; the models it said were kept."""
    context = multiprocessing.get_context("fork")  # all imports are there already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=write, args=(path, theirs))
    process.start()
    theirs.close()
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = set()
    while ours.poll():
        try:
            kept.add(ours.recv())
        except EOFError:
            break
    return kept


def check(path: Path, kept: set[int]) -> int:
    """The store opens, holds every kept model with its values, and no other."""
    if not (path / "zoo.json").exists():
        assert not kept
        return 0
    zoo = Zoo.open(path)
    models = zoo.properties["model"].tolist()
    assert kept <= set(models)
    assert sorted(set(models)) == list(range(len(set(models))))  # none lost between others
    assert len(models) == 2 * len(set(models))  # none twice
    for row, (model, epoch) in enumerate(zip(models, zoo.properties["epoch"], strict=True)):
        made = make_record(model)
        assert zoo.graphs[row].theta.equal(made.theta[epoch])
        assert zoo.graphs[row].buffers["1.num_batches_tracked"] == model + epoch
    return len(set(models))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_writer_killed_at_random_moments_loses_nothing_and_leaves_a_store_that_opens(
    tmp_path: Path,
) -> None:
    architecture(3), architecture(5)  # traced before any child begins
    unbroken = tmp_path / "unbroken"
    started = time.monotonic()
    write(unbroken)
    whole = time.monotonic() - started
    stream = random.Random(0)
    path, tries, lengths, finished = tmp_path / "broken", 0, [], 0
    while tries < TRIES:
        kept = killed_after(path, stream.uniform(0, 0.3 * whole))
        tries += 1
        lengths.append(check(path, kept))
        assert all(not p.startswith("weights") for p in verify_zoo(path)) if lengths[-1] else True
        if lengths[-1] == NUM:  # begin another, so that every moment is hit
            finished += 1
            path = tmp_path / f"broken{finished}"
    assert len(set(lengths)) > 8, "the kills fell on too few moments to show anything"
    write(path)
    assert check(path, set(range(NUM))) == NUM
    assert verify_zoo(path) == []
    assert set(folder_hashes(path)) >= {"zoo.json", "splits.parquet", "properties.parquet"}


def test_the_check_notices_a_lost_a_doubled_and_a_changed_model(tmp_path: Path) -> None:
    with append_to(tmp_path / "lost") as writer:
        writer.add([make_record(0), make_record(1)])
    with pytest.raises(AssertionError):
        check(tmp_path / "lost", {0, 1, 2})
    with append_to(tmp_path / "changed") as writer:
        writer.add([make_record(0), make_record(1, theta=make_record(4).theta)])
    with pytest.raises(AssertionError):
        check(tmp_path / "changed", {0, 1})
    assert check_passes(tmp_path / "lost")


def check_passes(path: Path) -> bool:
    return check(path, {0, 1}) == 2
