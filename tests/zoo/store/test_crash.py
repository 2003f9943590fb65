"""A store whose writer is killed at any moment: it opens, and nothing finished is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from graphrep.zoo import Zoo, append_to, create_zoo
from graphrep.zoo.store import layout, shelf
from graphrep.zoo.store.folder import Folder
from graphrep.zoo.store.staging import Batch
from graphrep.zoo.store.verify import verify_zoo
from tests.zoo.store.made import architecture, make_record
from tests.zoo.tiny import folder_hashes, tiny_config

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

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


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Whether `work`, in a process of its own, was ended at its so-many-th change of a file."""
    pid = os.fork()
    if pid == 0:  # no exception and no clean-up: the process is gone at that moment
        count = 0

        def counted(change: Callable[..., object]) -> Callable[..., object]:
            def do(*arguments: object, **others: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    os._exit(7)
                return change(*arguments, **others)

            return do

        os.replace = counted(os.replace)  # type: ignore[assignment]
        Path.unlink = counted(Path.unlink)  # type: ignore[assignment,method-assign]
        Path.rmdir = counted(Path.rmdir)  # type: ignore[assignment,method-assign]
        try:
            work()
        except BaseException:
            os._exit(3)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 7)
    return code == 7


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_writer_that_dies_at_any_change_of_a_file_leaves_a_store_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(layout, "SHARD_ROWS", 3)
    names = [f"model-{n}" for n in range(7)]

    def add(path: Path, numbers: Iterable[int]) -> None:
        with append_to(path, dtype=dtype) as writer:
            for number in numbers:
                writer.add([make_record(number)])

    def there(path: Path) -> list[str]:
        return list(dict.fromkeys(Zoo.open(path).properties["name"]))

    add(tmp_path / "base", range(3))
    splits = dict(Zoo.open(tmp_path / "base").properties[["name", "split"]].values)
    step, died = 0, True
    while died:
        step += 1
        path = tmp_path / str(step)
        shutil.copytree(tmp_path / "base", path)
        died = dies_at(step, partial(add, path, range(3, 7)))
        found = there(path)
        assert found == names[: len(found)] and len(found) >= 3
        add(path, range(len(found), 7))
        zoo = Zoo.open(path)
        assert there(path) == names and verify_zoo(path) == [] and zoo.finished
        now = dict(zoo.properties[["name", "split"]].values)
        assert {name: now[name] for name in splits} == splits
        files = sorted(f"weights/{f.name}" for f in (path / "weights").iterdir())
        assert files == sorted(f for f in zoo.header["sha256"] if f.startswith("weights"))
        assert not (path / "members").exists()
    assert step > 15


def test_a_creation_that_dies_at_any_change_of_a_file_ends_in_the_same_bytes(
    tmp_path: Path,
) -> None:
    recipe = tiny_config(num_models=3, epochs=1, checkpoints=(1,), train_limit=50, test_limit=20)
    make = partial(create_zoo, recipe, num_workers=0, progress=False)
    whole = folder_hashes(make(tmp_path / "whole").path)
    step, died = 0, True
    while died:
        step += 1
        path = tmp_path / str(step)
        died = dies_at(step, partial(make, path))
        if (path / layout.HEADER_FILE).exists():
            assert len(Zoo.open(path).properties["model"].unique()) <= 3
        assert folder_hashes(make(path).path) == whole
    assert step > 10


def test_a_zoo_opens_whole_while_its_writer_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError), append_to(tmp_path) as writer:
        writer.add([make_record(n) for n in range(6)])
        raise RuntimeError
    listing = shelf.staged_batches

    def closes_meanwhile(folder: Folder, committed: int) -> list[Batch]:
        monkeypatch.setattr(shelf, "staged_batches", listing)
        with append_to(tmp_path):  # takes the staged models into the zoo
            pass
        return listing(folder, committed)

    monkeypatch.setattr(shelf, "staged_batches", closes_meanwhile)
    assert Zoo.open(tmp_path).properties["model"].nunique() == 6
    assert Zoo.open(tmp_path).finished


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
