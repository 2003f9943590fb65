"""Zoos behind URLs: the same files, read through copies, one writer at a time."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphrep.zoo import Record, Zoo, create, create_zoo
from graphrep.zoo.store import layout
from graphrep.zoo.store.folder import LocalFolder, open_folder
from graphrep.zoo.store.remote import LOCK_FILE, RemoteFolder
from graphrep.zoo.store.verify import verify_zoo
from graphrep.zoo.store.writer import append_to
from tests.zoo.test_create import wait_until
from tests.zoo.tiny import folder_hashes, tiny_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of remote files, out of the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphrep" / "zoos"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A folder that several processes reach through fsspec."""
    return f"local://{tmp_path}/far/zoo"


def far(url: str) -> Path:
    """Where the files of such a folder are."""
    return Path(url.removeprefix("local://"))


def copies(cache: Path) -> list[Path]:
    return sorted(f for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock")


def same_networks(one: Zoo, other: Zoo) -> bool:
    return all(a.theta.equal(b.theta) for a, b in zip(one.graphs, other.graphs, strict=True))


@pytest.mark.parametrize("scheme", ["", "local://", "memory://"])
def test_every_folder_keeps_the_same_promises(tmp_path: Path, scheme: str) -> None:
    folder = open_folder(f"{scheme}{tmp_path}/folder")
    assert isinstance(folder, LocalFolder if scheme == "" else RemoteFolder)
    assert not folder.exists() and folder.names() == [] and folder.names("deep") == []
    with pytest.raises(FileNotFoundError, match=r"folder/a\.txt: does not exist"):
        folder.local("a.txt")
    for text in ("one", "two"):
        folder.write("a.txt", lambda file, text=text: file.write_text(text))  # type: ignore[misc]
        assert folder.local("a.txt").read_text() == text
    folder.write("deep/er/b.txt", lambda file: file.write_text("b"))
    assert folder.exists() and folder.exists("deep/er") and folder.exists("deep/er/b.txt")
    assert folder.names() == ["a.txt"] and folder.names("deep/er") == ["b.txt"]
    assert folder.local("deep/er/b.txt").read_text() == "b"

    def fail(file: Path) -> None:
        file.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        folder.write("a.txt", fail)
    folder.tidy()
    assert folder.names() == ["a.txt"] and folder.local("a.txt").read_text() == "two"
    folder.renew()
    assert folder.local("a.txt").read_text() == "two"

    folder.remove("deep")
    assert folder.exists("deep/er/b.txt")  # only what is empty goes
    for name in ("deep/er/b.txt", "deep/er", "deep", "a.txt", "never-there"):
        folder.remove(name)
        assert not folder.exists(name)
    with pytest.raises(FileNotFoundError):
        folder.local("a.txt")


def test_a_zoo_made_by_processes_behind_a_url_has_the_same_bytes(zoo: Zoo, url: str) -> None:
    made = create_zoo(tiny_config(), url, num_workers=2, progress=False)
    assert folder_hashes(far(url)) == folder_hashes(zoo.path)
    assert made.url == url and made.finished and verify_zoo(url) == []
    assert same_networks(made, zoo)
    again = create_zoo(tiny_config(), url, num_workers=0, progress=False)
    assert same_networks(again.select([20, 1, 7]), zoo.select([20, 1, 7]))
    other = create_zoo(tiny_config(seed=1), f"{url}-other", num_workers=0, progress=False)
    assert not same_networks(other, zoo)


def test_a_zoo_in_memory_is_made_read_and_verified(zoo: Zoo) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    made = create_zoo(tiny_config(), url, num_workers=0, progress=False)
    assert same_networks(made, zoo) and made.properties.equals(zoo.properties)
    header = layout.read_header(open_folder(url))
    assert header["sha256"] == zoo.header["sha256"]
    assert verify_zoo(url) == []
    shard = next(name for name in header["sha256"] if name.startswith(layout.WEIGHTS))
    folder = open_folder(url)
    spoiled = bytearray(folder.local(shard).read_bytes())
    spoiled[-1] ^= 1
    folder.write(shard, lambda file: file.write_bytes(spoiled))
    assert any(problem.startswith(shard) for problem in verify_zoo(url))


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_models_are_added_behind_a_url(zoo: Zoo, tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}/added"
    records = [record_of(zoo, model) for model in range(4)]
    for some in (records[:3], records[3:]):
        with append_to(url, source={}) as writer:
            writer.add(some)
    grown = Zoo.open(url)
    assert verify_zoo(url) == []
    assert same_networks(grown, zoo.select(slice(0, 12)))
    with append_to(url) as writer, pytest.raises(ValueError, match="a model named 'copy 3'"):
        writer.add(records[3:])


def record_of(zoo: Zoo, model: int) -> Record:
    rows = zoo.properties.index[zoo.properties["model"] == model]
    graphs = [zoo.graphs[row] for row in rows]
    return Record.from_state_dicts(
        f"copy {model}",
        graphs[0].architecture,
        [graph.state_dict() for graph in graphs],
        [{"epoch": epoch} for epoch in range(len(rows))],
    )


def test_a_zoo_that_was_interrupted_behind_a_url_goes_on(
    zoo: Zoo, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = create.make_chunk

    def make_three(*arguments: object) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        make(*arguments)  # type: ignore[arg-type]
        made.append(arguments[-1].start)  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        patch.setattr(create, "make_chunk", make_three)
        with pytest.raises(KeyboardInterrupt):
            create_zoo(tiny_config(), url, num_workers=0, progress=False)
    assert not (far(url) / LOCK_FILE).exists()
    begun = Zoo.open(url)
    assert not begun.finished and set(begun.properties["model"]) == {0, 1, 2}
    assert begun.graphs[4].theta.equal(zoo.graphs[4].theta)
    create_zoo(tiny_config(), url, num_workers=0, progress=False)
    assert folder_hashes(far(url)) == folder_hashes(zoo.path)


SLOWED = """
import sys, time
from graphrep.zoo import create, create_zoo
from tests.zoo.tiny import tiny_config

make = create.make_chunk
def slowly(*arguments):
    make(*arguments)
    time.sleep(0.3)
create.make_chunk = slowly
create_zoo(tiny_config(), sys.argv[1], num_workers=0, progress=False)
"""


def test_the_lock_of_a_killed_writer_is_taken_over(zoo: Zoo, url: str) -> None:
    command = [sys.executable, "-c", SLOWED, url]
    process = subprocess.Popen(command, cwd=ROOT)
    folder = open_folder(url)
    wait_until(lambda: process.poll() is not None or len(folder.names("members")) >= 3)
    with pytest.raises(ValueError, match="another process is writing to this zoo"):
        create_zoo(tiny_config(), url, num_workers=0, progress=False)
    process.kill()
    process.wait()
    assert json.loads((far(url) / LOCK_FILE).read_text())["pid"] == process.pid
    assert len(folder.names("members")) < 8, "killed too late to show anything"
    create_zoo(tiny_config(), url, num_workers=0, progress=False)
    assert folder_hashes(far(url)) == folder_hashes(zoo.path)


def test_two_writers_exclude_each_other(url: str) -> None:
    first, second = open_folder(url), open_folder(url)
    with first.exclusive():
        with pytest.raises(ValueError, match="another process is writing"), second.exclusive():
            pass
        code = "import sys; from graphrep.zoo.store.folder import open_folder\n"
        code += "with open_folder(sys.argv[1]).exclusive(): pass"
        found = subprocess.run(
            [sys.executable, "-c", code, url],
            env={**os.environ, "XDG_CACHE_HOME": f"{far(url)}-elsewhere"},  # so it sees no flock
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 1
        assert f"process {os.getpid()} on" in found.stderr
    assert not (far(url) / LOCK_FILE).exists()
    with second.exclusive():
        pass  # the first one let go


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": "elsewhere"}, "process [0-9]+ on elsewhere is writing"),
        ({"namespace": "pid:[1]"}, "is writing to this zoo. If it is gone, delete local://"),
        ({"pid": 1, "started": 0}, None),  # the number was given anew
        ({"pid": 2**22 + 1}, None),
    ],
)
def test_a_lock_counts_unless_its_holder_is_known_to_be_dead(
    url: str, change: dict[str, object], message: str | None
) -> None:
    folder = open_folder(url)
    with folder.exclusive():
        lock = (far(url) / LOCK_FILE).read_text()
    (far(url) / LOCK_FILE).write_text(json.dumps({**json.loads(lock), **change}))
    if message is None:
        with folder.exclusive():
            assert json.loads((far(url) / LOCK_FILE).read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(ValueError, match=message), folder.exclusive():
            pass
        assert (far(url) / LOCK_FILE).exists()


def test_of_writers_that_begin_at_once_one_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(url)
    with folder.exclusive():
        lock = (far(url) / LOCK_FILE).read_text()
    (far(url) / LOCK_FILE).write_text(lock.replace(json.loads(lock)["host"], "elsewhere"))
    monkeypatch.setattr(RemoteFolder, "_holder", lambda self: None)  # looked before it was there
    with pytest.raises(ValueError, match="began to write to this zoo just now"), folder.exclusive():
        pass


def test_an_unreadable_lock_is_not_broken(url: str) -> None:
    far(url).mkdir(parents=True)
    (far(url) / LOCK_FILE).write_text("")
    with pytest.raises(ValueError, match="delete local://"), open_folder(url).exclusive():
        pass


def test_copies_are_fetched_once_and_renewed_when_the_file_changes(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RemoteFolder(url)
    folder.write("deep/a.txt", lambda file: file.write_text("one"))
    fetched: list[str] = []
    fetch = folder._fs.get_file
    monkeypatch.setattr(folder._fs, "get_file", lambda p, to: (fetched.append(p), fetch(p, to)))
    for _ in range(3):
        assert folder.local("deep/a.txt").read_text() == "one"
    assert len(fetched) == 1 and len(copies(cache)) == 1

    (far(url) / "deep" / "a.txt").write_text("two")  # as another machine does
    assert folder.local("deep/a.txt").read_text() == "two"
    assert len(fetched) == 2 and len(copies(cache)) == 1

    copies(cache)[0].write_text("t")  # a copy that was cut short
    assert folder.local("deep/a.txt").read_text() == "two"
    folder.renew()
    assert copies(cache) == [] and folder.local("deep/a.txt").read_text() == "two"
    assert len(fetched) == 4
    folder.remove("deep/a.txt")
    assert copies(cache) == []


def test_where_nothing_tells_of_changes_every_reading_fetches(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RemoteFolder(url)
    folder.write("a.txt", lambda file: file.write_text("one"))
    tell = folder._fs.info
    told = ("name", "size", "type")
    monkeypatch.setattr(folder._fs, "info", lambda place: {k: tell(place)[k] for k in told})
    assert folder.local("a.txt").read_text() == "one"
    (far(url) / "a.txt").write_text("two")
    assert folder.local("a.txt").read_text() == "two"


@pytest.fixture
def web(zoo: Zoo) -> Iterator[str]:
    """The tiny zoo on a web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(zoo.path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_zoo_on_a_web_server_is_read_and_not_written_to(web: str, zoo: Zoo) -> None:
    pytest.importorskip("aiohttp")
    served = Zoo.open(web)
    assert served.properties.equals(zoo.properties)
    assert served.graphs[20].theta.equal(zoo.graphs[20].theta)
    assert verify_zoo(web) == []
    with pytest.raises(ValueError, match="cannot be written to"), append_to(web):
        pass
    with pytest.raises(ValueError, match="not a zoo"):
        Zoo.open(f"{web}/elsewhere")


def test_a_url_of_no_known_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ftq://host/zoo: cannot be opened: .*ftq"):
        open_folder("ftq://host/zoo")
