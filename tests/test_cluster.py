"""Work on a Ray cluster: each item taken once, whoever dies; mistakes said at once."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from graphrep import cluster
from graphrep.cluster import MOST_DEATHS, map_on_ray
from tests.dawdling import Dies, Echo, Fails


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A local cluster of two CPUs, which the slow tests of this file share."""
    pytest.importorskip("ray")
    with cluster._cluster(2):
        yield


def map_nothing() -> None:
    map_on_ray(Echo, [1], lambda item, result: None, num_workers=1)


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'graphrep\[ray\]'"):
        map_nothing()


def test_a_cluster_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        cluster._check_reachable(address)  # something answers
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=f"RAY_ADDRESS={address}: nothing answers there"):
        map_nothing()


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_every_item_is_taken_once_and_few_are_with_ray_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    waited: list[int] = []
    wait = ray.wait
    monkeypatch.setattr(ray, "wait", lambda tasks: (waited.append(len(tasks)), wait(tasks))[1])
    taken: list[tuple[int, int]] = []
    map_on_ray(Echo, range(200), lambda item, result: taken.append(result), num_workers=2)
    assert sorted(item for item, _ in taken) == list(range(200))
    assert max(waited) == 2
    assert 1 <= len({pid for _, pid in taken}) <= 3 and os.getpid() not in {p for _, p in taken}
    map_on_ray(Echo, [], lambda item, result: taken.append(result), num_workers=2)
    assert len(taken) == 200


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_an_item_that_kills_its_workers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []
    with pytest.raises(RuntimeError, match=f"item 7: {MOST_DEATHS} workers that had it died"):
        map_on_ray(
            Dies,
            [1, 7],
            lambda item, result: taken.append(result),
            num_workers=2,
            describe=lambda item: f"item {item}",
        )
    assert taken == [1]
    assert caplog.text.count("item 7: its worker died, another one tries again") == MOST_DEATHS - 1


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_a_machine_with_other_versions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**cluster._versions(), "torch": "1.0"}
    monkeypatch.setattr(cluster, "_versions", lambda: other)
    with pytest.raises(ValueError, match=r"machine .* has .*'torch': '2.*this one .*'1\.0'"):
        map_on_ray(Echo, [1], lambda item, result: None, num_workers=1)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_a_failure_is_raised_as_it_was_and_ends_the_other_items(tmp_path: Path) -> None:
    import ray

    with pytest.raises(FloatingPointError, match="division by zero"):
        map_on_ray(
            partial(Fails, tmp_path / "sign"), [0, 1], lambda item, result: None, num_workers=2
        )
    end = time.monotonic() + 180
    while ray.available_resources().get("CPU") != 2:  # of a cluster that stays
        assert time.monotonic() < end, "an item is still at work"
        time.sleep(0.1)
