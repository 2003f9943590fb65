"""Zoos made on a Ray cluster of two worker processes, some of which die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from graphrep import cluster
from graphrep.zoo import Zoo, create, create_zoo
from graphrep.zoo.ray_engine import make_on_ray
from tests.dawdling import Dawdling, Killer, begun, is_gone
from tests.zoo.test_create import failing_config, finished_members, wait_until
from tests.zoo.tiny import folder_hashes, tiny_config

pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # a cluster takes some seconds to start
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """A local cluster of two CPUs, which all tests of this file share."""
    with cluster._cluster(2):
        yield


def make_on_two(path: Path | str, recipe: Any = None) -> Zoo:
    recipe = recipe or tiny_config()
    return create_zoo(recipe, path, engine="ray", num_workers=2, progress=False)


def test_a_zoo_loses_and_doubles_nothing_when_a_worker_is_killed(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(create, "ChunkMaker", partial(Dawdling, log, 0.3, create.ChunkMaker))
    with Killer(log, 2) as killer:
        make_on_two(tmp_path / "zoo")
    assert folder_hashes(tmp_path / "zoo") == folder_hashes(zoo.path)

    assert killer.victim and is_gone(killer.victim)
    tries = begun(log)
    assert len(tries) == 8
    assert len(tries[killer.item]) == 2 and tries[killer.item][0] == killer.victim
    assert all(len(pids) == 1 for item, pids in tries.items() if item != killer.item)
    assert len({pid for pids in tries.values() for pid in pids}) == 3  # two, and who came after


def test_a_zoo_made_through_a_url_on_ray_has_the_same_bytes(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_on_two(f"local://{tmp_path}/zoo")
    assert folder_hashes(tmp_path / "zoo") == folder_hashes(zoo.path)


def test_a_failing_member_is_named_as_without_ray(tmp_path: Path) -> None:
    recipe = replace(failing_config(), num_models=1)  # of two, either may fail first
    with pytest.raises(RuntimeError) as error:
        create_zoo(recipe, tmp_path / "here", num_workers=0, progress=False)
    with pytest.raises(RuntimeError) as on_ray:
        make_on_two(tmp_path / "zoo", recipe)
    assert "batch_size=1," in str(error.value)
    assert str(on_ray.value) == str(error.value)


def test_a_zoo_that_workers_cannot_see_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory://unseen: lives in this process alone"):
        make_on_two("memory://unseen")
    with pytest.raises(ValueError, match=r"memory://unseen: a worker on .* sees no zoo there"):
        make_on_ray(tiny_config(), "memory://unseen", [range(1)], 1, lambda chunk: None)


SLOW_RUN = """
import signal, sys
from functools import partial
from pathlib import Path
from graphrep.zoo import create, create_zoo
from tests.dawdling import Dawdling
from tests.zoo.tiny import tiny_config

signal.signal(signal.SIGINT, signal.default_int_handler)
log = Path(sys.argv[1] + ".log")
create.ChunkMaker = partial(Dawdling, log, float(sys.argv[2]), create.ChunkMaker)
create_zoo(tiny_config(), sys.argv[1], engine="ray", num_workers=2, progress=False)
"""


@contextmanager
def slow_run(path: Path, pause: float = 0.5, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The tiny zoo in a process of its own, with two workers of Ray that dawdle; gone at the end,
    also of a test that fails."""
    command = [sys.executable, "-W", "error", "-c", SLOW_RUN, str(path), str(pause)]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_zoo_that_was_interrupted_on_ray_goes_on_anywhere(
    zoo: Zoo, tmp_path: Path, blow: signal.Signals
) -> None:
    path = tmp_path / "zoo"
    with slow_run(path) as process:
        wait_until(lambda: process.poll() is not None or len(finished_members(path)) >= 2)
        process.send_signal(blow)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    if blow == signal.SIGINT:
        assert "KeyboardInterrupt" in stderr and "the same call resumes" in stderr
    workers = {pid for pids in begun(Path(f"{path}.log")).values() for pid in pids}
    assert len(workers) >= 2
    wait_until(lambda: all(is_gone(pid) for pid in workers), 60)
    assert 2 <= len(finished_members(path)) < 8
    create_zoo(tiny_config(), path, num_workers=0, progress=False)
    assert folder_hashes(path) == folder_hashes(zoo.path)


def children_of(pid: int) -> list[int]:
    """Of all threads of a process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for found in lists for child in found.read_text().split()]


def test_a_zoo_survives_the_loss_of_a_machine_of_the_cluster(zoo: Zoo, tmp_path: Path) -> None:
    """Each node has processes of its own; those of the second one end at once."""
    from ray.cluster_utils import Cluster

    path, log = tmp_path / "zoo", tmp_path / "zoo.log"
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        _, lost = (nodes.add_node(num_cpus=1) for _ in range(2))
        # pauses outlast the removal of a node, and it is lost when it has just begun its second
        # item, so in the midst of one
        with slow_run(path, 4.0, RAY_ADDRESS=nodes.address) as process:
            raylet = lost.all_processes["raylet"][0].process.pid

            def begun_there() -> int:
                inmates = set(children_of(raylet))
                return sum(pid in inmates for pids in begun(log).values() for pid in pids)

            wait_until(lambda: process.poll() is not None or begun_there() >= 2)
            inmates = children_of(raylet)
            nodes.remove_node(lost, allow_graceful=False)
            for pid in inmates:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            assert "its worker died, another one tries again" in stderr, dict(begun(log))
    finally:
        nodes.shutdown()
    tries = begun(log)
    twice = [pids for pids in tries.values() if len(pids) > 1]
    assert len(tries) == 8 and len(twice) == 1 and twice[0][0] != twice[0][1]
    assert folder_hashes(path) == folder_hashes(zoo.path)
