"""Creating zoos: interruption, seeds, failures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphrep.zoo import ClassifierRecipe, Range, SearchSpace, Zoo, create, create_zoo
from graphrep.zoo.classifiers.workshop import ClassifierWorkshop
from graphrep.zoo.store import layout
from graphrep.zoo.store.folder import LocalFolder
from graphrep.zoo.store.staging import staged_batches
from tests.zoo.tiny import folder_hashes, tiny_config

SLOWED = """
import signal, sys, time
from pathlib import Path
from graphrep.zoo import create, create_zoo
from tests.zoo.tiny import tiny_config

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
make = create.make_chunk
def slowly(*arguments):
    make(*arguments)
    time.sleep(0.5)
create.make_chunk = slowly

if __name__ == "__main__":
    create_zoo(tiny_config(), sys.argv[1], num_workers=2, progress=False)
"""


def start_slowly(path: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """The tiny zoo in a process of its own with two workers that dawdle between members."""
    script = tmp_path / "slowly.py"
    script.write_text(SLOWED)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, script, path], env=environment, stderr=subprocess.PIPE)


def finished_members(path: Path) -> set[int]:
    """The models that are staged."""
    return {i for batch in staged_batches(LocalFolder(path), 0) for i in batch.indices}


def staged_file(path: Path, index: int) -> Path:
    return path / f"members/{index:08d}-1.safetensors"


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: object, seconds: float = 180) -> None:
    """Long, as Ray alone takes a minute to start on a busy machine."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_an_interrupted_and_resumed_zoo_equals_an_unbroken_one(
    zoo: Zoo, tmp_path: Path, blow: signal.Signals
) -> None:
    path = tmp_path / "broken"
    process = start_slowly(path, tmp_path)
    wait_until(lambda: process.poll() is not None or len(finished_members(path)) >= 2)
    workers = children(process.pid)
    process.send_signal(blow)
    process.communicate(timeout=30)
    assert process.returncode != 0
    wait_until(lambda: all(is_gone(pid) for pid in workers), 30)

    done = finished_members(path)
    assert 2 <= len(done) < 8, "the blow fell too early or too late to show anything"
    seen = Zoo.open(path)
    assert not seen.finished and zoo.finished
    assert set(seen.properties["model"]) == done  # finished members can be looked at already
    for row in range(len(seen)):
        model, epoch = seen.properties.loc[row, ["model", "epoch"]]
        whole = zoo.properties
        (same,) = whole.index[(whole["model"] == model) & (whole["epoch"] == epoch)]
        assert seen.graphs[row].theta.equal(zoo.graphs[same].theta)
        assert seen.properties.loc[row, "split"] == whole.loc[same, "split"]
    kept = {i: staged_file(path, i).stat().st_mtime_ns for i in done}
    trained: list[int] = []

    def count(workshop: ClassifierWorkshop, indices: range, make=ClassifierWorkshop.make) -> list:  # type: ignore[no-untyped-def,type-arg]
        trained.extend(indices)
        assert all(staged_file(path, i).stat().st_mtime_ns == t for i, t in kept.items())
        return make(workshop, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassifierWorkshop, "make", count)
        create_zoo(tiny_config(), path, num_workers=0, progress=False)
    assert sorted(trained) == sorted(set(range(8)) - done)
    assert folder_hashes(path) == folder_hashes(zoo.path)


def test_a_worker_that_is_killed_ends_the_run_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "zoo"
    process = start_slowly(path, tmp_path)
    wait_until(lambda: process.poll() is not None or finished_members(path))
    worker = next(pid for pid in children(process.pid) if is_training(pid))
    os.kill(worker, signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a worker process was killed, perhaps for want of memory" in stderr.decode()
    assert finished_members(path)


def is_training(pid: int) -> bool:
    """A worker, not the process that tracks resources for all of them."""
    return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_crash_between_any_two_writes_of_the_last_steps_is_mended(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = tmp_path / "staged"
    with monkeypatch.context() as patch:
        patch.setattr(create, "consolidate", crash)
        with pytest.raises(Crash):
            create_zoo(tiny_config(), staged, num_workers=0, progress=False)
    assert len(finished_members(staged)) == 8

    crashes = 0
    while True:
        path = tmp_path / f"crash{crashes}"
        shutil.copytree(staged, path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing_after(crashes, os.replace))
            try:
                create_zoo(tiny_config(), path, num_workers=0, progress=False)
            except Crash:
                crashes += 1
            else:
                break
        create_zoo(tiny_config(), path, num_workers=0, progress=False)
        assert folder_hashes(path) == folder_hashes(zoo.path)
    assert crashes >= 4  # at least two shards, the properties, the header


class Crash(Exception):
    """Stands for a process that dies."""


def crash(*arguments: object, **others: object) -> None:
    raise Crash


def failing_after(count: int, replace_file: object) -> object:
    def fail_or_replace(*arguments: object) -> None:
        nonlocal count
        if count == 0:
            raise Crash
        count -= 1
        replace_file(*arguments)  # type: ignore[operator]

    return fail_or_replace


def test_a_crash_before_the_staging_area_was_removed_is_mended(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "zoo"
    shutil.copytree(zoo.path, path)
    (path / "members").mkdir()
    (path / "members" / "00000003-1.safetensors").write_text("{}")
    assert len(Zoo.open(path)) == len(zoo)
    create_zoo(tiny_config(), path, num_workers=0, progress=False)
    assert folder_hashes(path) == folder_hashes(zoo.path)


def test_a_changed_size_of_chunks_does_not_double_models(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def stop_after_two(
        workshop: ClassifierWorkshop, indices: range, make=ClassifierWorkshop.make
    ) -> list:  # type: ignore[no-untyped-def,type-arg]
        if len(made) == 2:
            raise KeyboardInterrupt
        made.extend(indices)
        return make(workshop, indices)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ClassifierWorkshop, "make", stop_after_two)
        create_zoo(tiny_config(), tmp_path, num_workers=0, progress=False)
    assert finished_members(tmp_path) == {0, 1}
    monkeypatch.setattr(ClassifierRecipe, "chunk", property(lambda recipe: 3))  # a later version
    create_zoo(tiny_config(), tmp_path, num_workers=0, progress=False)
    assert folder_hashes(tmp_path) == folder_hashes(zoo.path)


def test_members_that_are_trained_in_stacks_are_the_same_up_to_rounding(
    zoo: Zoo, tmp_path: Path
) -> None:
    recipe = tiny_config(stack=3)
    one = create_zoo(recipe, tmp_path / "one", num_workers=0, progress=False)
    two = create_zoo(recipe, tmp_path / "two", num_workers=2, progress=False)
    assert folder_hashes(one.path) == folder_hashes(two.path)
    ours = ["name", "architecture", "split", "epoch", "learning_rate"]
    assert one.properties[ours].equals(zoo.properties[ours])
    plain = zoo.properties["kind"] == "mlp"  # a bias before batch norm follows rounding alone
    assert 0 < plain.sum() < len(zoo)
    for row in plain.index[plain]:
        stacked, single = one.graphs[row].theta, zoo.graphs[row].theta
        torch.testing.assert_close(stacked, single, rtol=1e-3, atol=1e-4)
        start = zoo.graphs[row - zoo.properties.loc[row, "epoch"]].theta
        assert start.equal(single) or (single - start).abs().max() > 0.002  # far more was learned
    losses = [z.properties["test_loss"].to_numpy() for z in (one, zoo)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    with pytest.raises(ValueError, match="stack must not be negative, and positive on cuda"):
        tiny_config(device="cuda")


def test_one_seed_gives_the_same_bytes_with_any_workers_and_another_seed_others(
    zoo: Zoo, tmp_path: Path
) -> None:
    again = create_zoo(tiny_config(), tmp_path / "again", num_workers=2, progress=False)
    assert folder_hashes(again.path) == folder_hashes(zoo.path)
    config = tiny_config(seed=1, num_models=3)
    other = create_zoo(config, tmp_path / "other", num_workers=0, progress=False)
    ours = set(zoo.properties["learning_rate"])
    assert ours.isdisjoint(other.properties["learning_rate"])


def test_the_config_s_number_of_workers_is_no_part_of_the_zoo(zoo: Zoo) -> None:
    before = folder_hashes(zoo.path)
    same = create_zoo(tiny_config(num_workers=3), zoo.path, progress=False)
    assert same.recipe == replace(zoo.recipe, num_workers=None)
    assert folder_hashes(zoo.path) == before


def test_progress_shows_the_rate_on_stderr_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(num_models=3)
    create_zoo(config, tmp_path / "quiet", num_workers=0, progress=False)
    assert capsys.readouterr() == ("", "")
    create_zoo(config, tmp_path / "loud", num_workers=0)
    out, err = capsys.readouterr()
    assert out == ""
    assert "zoo tiny" in err and "3/3" in err and "a minute" in err


def test_another_config_in_the_folder_is_an_error_that_lists_the_differences(zoo: Zoo) -> None:
    config = tiny_config(epochs=3, search=SearchSpace(weight_decay=Range(high=1e-3)))
    with pytest.raises(ValueError) as error:
        create_zoo(config, zoo.path, progress=False)
    message = str(error.value)
    assert "finished zoo of another recipe" in message
    assert "epochs: 2 there, 3 now" in message
    assert "search.weight_decay.high: 0.01 there, 0.001 now" in message
    assert "num_models" not in message


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"not a zoo, it holds thesis\.tex"):
        create_zoo(tiny_config(), tmp_path, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file"):
        create_zoo(tiny_config(), tmp_path / "thesis.tex", progress=False)


def test_two_creations_of_one_folder_exclude_each_other(tmp_path: Path) -> None:
    with (
        LocalFolder(tmp_path).exclusive(),
        pytest.raises(ValueError, match="another process is writing to this zoo"),
    ):
        create_zoo(tiny_config(), tmp_path, progress=False)
    with LocalFolder(tmp_path).exclusive():
        pass  # the first one let go


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_failing_member_is_named_with_its_hyperparameters(
    tmp_path: Path, num_workers: int
) -> None:
    config = failing_config()
    with pytest.raises(RuntimeError) as error:
        create_zoo(config, tmp_path / "zoo", num_workers=num_workers, progress=False)
    assert "zoo 'tiny': model 0 failed: ValueError: " in str(error.value)
    assert "batch_size=1," in str(error.value)


def failing_config() -> ClassifierRecipe:
    """Batch norm over a batch of one, which torch refuses."""
    config = tiny_config(num_models=2)
    search = replace(config.search, batch_size=(1,))
    network = replace(config.networks[1], batch_norm=True)
    return replace(config, search=search, networks=(network,))


def test_a_network_too_deep_for_the_images_fails_before_any_training(tmp_path: Path) -> None:
    network = replace(tiny_config().networks[0], hidden=(2, 2, 2, 2))
    with pytest.raises(ValueError, match="halves an image 4 times; images of 8 pixels"):
        create_zoo(tiny_config(networks=(network,)), tmp_path / "zoo", progress=False)
    assert not (tmp_path / "zoo" / layout.HEADER_FILE).exists()


def test_a_diverged_member_is_kept_and_flagged(tmp_path: Path) -> None:
    rates = {"sgd": Range(choices=(1e-3, 1e30))}
    search = SearchSpace(optimiser=("sgd",), learning_rate=rates, momentum=Range(choices=(0.9,)))
    config = tiny_config(num_models=6, search=search)
    properties = create_zoo(config, tmp_path, num_workers=0, progress=False).properties
    assert len(properties) == 18
    trained = properties[properties["epoch"] > 0]
    wild = trained["learning_rate"] > 1
    assert wild.any() and not wild.all()
    assert trained.loc[wild, "diverged"].all()
    assert not trained.loc[~wild, "diverged"].any()
    assert not properties.loc[properties["epoch"] == 0, "diverged"].any()


def test_resuming_under_other_versions_or_images_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(create, "consolidate", crash)
        with pytest.raises(Crash):
            create_zoo(tiny_config(num_models=3), tmp_path, num_workers=0, progress=False)
    folder = LocalFolder(tmp_path)
    header = layout.read_header(folder)
    layout.write_header(folder, {**header, "facts": {**header["facts"], "images_sha256": "0"}})
    with pytest.raises(ValueError, match="begun with other images"):
        create_zoo(tiny_config(num_models=3), tmp_path, num_workers=0, progress=False)
    layout.write_header(folder, {**header, "versions": {"torch": "1.0"}})
    with pytest.warns(UserWarning, match=r"begun with \{'torch': '1.0'\}"):
        create_zoo(tiny_config(num_models=3), tmp_path, num_workers=0, progress=False)
