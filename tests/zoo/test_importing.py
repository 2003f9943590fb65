"""Importing: streaming, resumable, honest about what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphrep.zoo import Record, Skipped, Zoo, importing
from graphrep.zoo.formats import FORMATS, open_reader
from graphrep.zoo.importing import import_zoo, read_skipped
from graphrep.zoo.store import layout
from graphrep.zoo.store.verify import verify_zoo
from tests.zoo.store.made import make_record


class Foreign:
    """Made models 0 to num - 1; some fail whole, one lacks a checkpoint."""

    def __init__(self, num: int, bad: tuple[int, ...] = (), title: str = "foreign") -> None:
        self.num, self.bad, self.title = num, bad, title
        self.facts: dict[str, Any] = {"citation": "nobody 2020"}
        self.asked: list[str] = []

    def names(self) -> list[str]:
        return [f"model-{n}" for n in range(self.num)]

    def read(self, name: str) -> Iterator[Record | Skipped]:
        self.asked.append(name)
        number = int(name.split("-")[1])
        if number in self.bad:
            raise ValueError(f"file {number}.pt is cut short")
        if number == 2:
            yield Skipped(name="model-2/checkpoint_7", reason="has no tensors")
        yield make_record(number)


def names_of(zoo: Zoo) -> list[str]:
    return list(dict.fromkeys(zoo.properties["name"]))


def test_all_that_can_be_taken_is_there_and_the_rest_is_listed(tmp_path: Path) -> None:
    zoo = import_zoo(Foreign(6, bad=(1, 4)), tmp_path, licence="MIT", progress=False)
    assert names_of(zoo) == ["model-0", "model-2", "model-3", "model-5"]
    assert zoo.graphs[2].theta.equal(make_record(2).theta[0])
    assert [(s.name, s.reason) for s in read_skipped(zoo)] == [
        ("model-1", "file 1.pt is cut short"),
        ("model-2/checkpoint_7", "has no tensors"),
        ("model-4", "file 4.pt is cut short"),
    ]
    assert zoo.header["source"]["citation"] == "nobody 2020"
    assert (zoo.name, zoo.header["licence"], zoo.finished) == ("foreign", "MIT", True)
    assert verify_zoo(tmp_path) == []
    with pytest.raises(ValueError, match="was imported, so it has no recipe"):
        _ = zoo.recipe
    with pytest.raises(ValueError, match=r"nothing tells which module row 0 \(model-0\) had"):
        zoo.network(0)


def test_an_interrupted_import_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Foreign):
        def read(self, name: str) -> Iterator[Record | Skipped]:
            if name == "model-5":
                raise KeyboardInterrupt
            yield from super().read(name)

    Interrupted.__name__ = "Foreign"
    monkeypatch.setattr(importing, "BATCH_MODELS", 2)
    with pytest.raises(KeyboardInterrupt):
        import_zoo(Interrupted(9), tmp_path, progress=False)
    assert names_of(Zoo.open(tmp_path)) == [f"model-{n}" for n in range(5)]
    again = Foreign(9)
    zoo = import_zoo(again, tmp_path, progress=False)
    assert again.asked == [f"model-{n}" for n in range(5, 9)]
    assert names_of(zoo) == again.names()
    assert [s.name for s in read_skipped(zoo)] == ["model-2/checkpoint_7"]  # of the first run
    last = Foreign(9)
    import_zoo(last, tmp_path, progress=False)
    assert last.asked == []


def test_what_was_mended_meanwhile_is_taken_and_no_longer_listed(tmp_path: Path) -> None:
    import_zoo(Foreign(4, bad=(3,)), tmp_path, progress=False)
    zoo = import_zoo(Foreign(4), tmp_path, progress=False)
    assert names_of(zoo) == ["model-0", "model-1", "model-2", "model-3"]
    assert [s.name for s in read_skipped(zoo)] == ["model-2/checkpoint_7"]


def test_the_list_of_what_was_skipped_is_written_before_its_models_and_may_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*arguments: object, **others: object) -> None:
        raise Killed

    monkeypatch.setattr(importing, "BATCH_MODELS", 1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(layout, "write_header", die)
        import_zoo(Foreign(4, bad=(3,)), tmp_path / "x", progress=False)
    assert not (tmp_path / "x" / "zoo.json").exists()  # the control: it dies at once
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("graphrep.zoo.store.writer.consolidate", die)
        import_zoo(Foreign(4, bad=(3,)), tmp_path / "y", progress=False)
    assert {s.name for s in read_skipped(Zoo.open(tmp_path / "y"))} == {
        "model-2/checkpoint_7",
        "model-3",
    }
    zoo = import_zoo(Foreign(4), tmp_path / "y", progress=False)
    (tmp_path / "y" / "skipped.csv").unlink()
    assert len(Zoo.open(tmp_path / "y")) == len(zoo) == 8 and verify_zoo(tmp_path / "y") == []


def test_another_source_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    import_zoo(Foreign(2), tmp_path / "zoo", progress=False)
    with pytest.raises(ValueError, match="holds a zoo of Foreign 'foreign', not of Foreign 'x'"):
        import_zoo(Foreign(2, title="x"), tmp_path / "zoo", progress=False)
    with pytest.raises(ValueError, match=r"none of 1 models of foreign .* file 0.pt is cut short"):
        import_zoo(Foreign(1, bad=(0,)), tmp_path / "none", progress=False)


def test_formats_are_known_by_name_and_refuse_options_that_they_do_not_have(
    tmp_path: Path,
) -> None:
    for name in FORMATS:
        with pytest.raises(ValueError, match=str(tmp_path)):  # an empty folder is no zoo
            open_reader(name, str(tmp_path))
    with pytest.raises(ValueError, match="format must be one of modelzoos, unterthiner"):
        open_reader("keras", str(tmp_path))
    with pytest.raises(ValueError, match="format unterthiner takes no option properties"):
        open_reader("unterthiner", str(tmp_path), properties=Path("x.csv"), model=None)
