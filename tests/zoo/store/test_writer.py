"""Adding models: what is kept, what is refused, splits that never change, smaller storage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphrep.zoo import Zoo, append_to, create_zoo
from graphrep.zoo.store import layout
from graphrep.zoo.store.folder import LocalFolder
from graphrep.zoo.store.verify import verify_zoo
from tests.zoo.store.made import architecture, make_record
from tests.zoo.tiny import tiny_config


def holds(zoo: Zoo, numbers: list[int]) -> bool:
    """Whether the zoo's rows are those of these made models, in order."""
    wanted = [(f"model-{n}", make_record(n).theta[e]) for n in numbers for e in range(2)]
    names = zoo.properties["name"].tolist()
    return names == [n for n, _ in wanted] and all(
        graph.theta.equal(theta) for graph, (_, theta) in zip(zoo.graphs, wanted, strict=True)
    )


def test_models_that_were_added_at_several_times_are_all_there_in_order(tmp_path: Path) -> None:
    for numbers in ([0, 1, 2], [3], [4, 5, 6, 7]):
        with append_to(tmp_path, name="made", licence="CC0-1.0") as writer:
            writer.add([make_record(n) for n in numbers[:1]])
            writer.add([make_record(n) for n in numbers[1:]])
    zoo = Zoo.open(tmp_path)
    assert zoo.finished and zoo.name == "made" and zoo.header["licence"] == "CC0-1.0"
    assert holds(zoo, list(range(8))) and not holds(zoo, [1, 0, *range(2, 8)])
    assert zoo.properties["learning_rate"].tolist() == [0.1 * n for n in range(8) for _ in "ab"]
    assert verify_zoo(tmp_path) == []
    assert not (tmp_path / layout.MEMBERS).exists()
    assert len(list((tmp_path / layout.WEIGHTS).iterdir())) == 2  # part-filled shards are refilled


def test_shards_are_filled_across_additions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SHARD_ROWS", 3)
    for number in range(7):
        with append_to(tmp_path) as writer:
            writer.add([make_record(number)])
    shards = Zoo.open(tmp_path).header["architectures"]
    assert sorted([rows for _, rows in entry["shards"]] for entry in shards.values()) == [
        [3, 1],
        [3, 3, 3, 1],
    ]
    assert holds(Zoo.open(tmp_path), list(range(7)))
    assert verify_zoo(tmp_path) == []


def test_splits_of_models_that_are_there_never_change(tmp_path: Path) -> None:
    seen: dict[str, str] = {}
    for start in range(0, 40, 10):
        with append_to(tmp_path, validation_fraction=0.2, test_fraction=0.2) as writer:
            writer.add([make_record(n) for n in range(start, start + 10)])
        now = dict(Zoo.open(tmp_path).properties[["name", "split"]].values)
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert sorted(seen.values()) == ["test"] * 8 + ["train"] * 24 + ["validation"] * 8


def test_splits_that_a_source_fixes_are_kept(tmp_path: Path) -> None:
    with append_to(tmp_path) as writer:
        writer.add([make_record(n, split="test" if n < 3 else "train") for n in range(6)])
    assert sorted(Zoo.open(tmp_path).split("test").properties["model"].unique()) == [0, 1, 2]


def test_what_was_added_before_an_exception_is_kept_and_the_next_writer_finishes(
    tmp_path: Path,
) -> None:
    with pytest.raises(RuntimeError, match="power"), append_to(tmp_path) as writer:
        writer.add([make_record(0), make_record(1)])
        raise RuntimeError("power")
    zoo = Zoo.open(tmp_path)
    assert not zoo.finished and holds(zoo, [0, 1])
    assert zoo.properties["split"].isna().all()  # drawn when all are there
    with append_to(tmp_path) as writer:
        assert writer.names == {"model-0", "model-1"}
        writer.add([make_record(2)])
    assert Zoo.open(tmp_path).finished and holds(Zoo.open(tmp_path), [0, 1, 2])


def test_a_name_that_is_there_is_refused(tmp_path: Path) -> None:
    with append_to(tmp_path) as writer:
        writer.add([make_record(0)])
        with pytest.raises(ValueError, match="has a model named 'model-0' already"):
            writer.add([make_record(1), make_record(0)])
        with pytest.raises(ValueError, match="has a model named 'model-1' already"):
            writer.add([make_record(1), make_record(1)])
    assert holds(Zoo.open(tmp_path), [0])


def test_two_writers_exclude_each_other_and_readers_are_not_disturbed(tmp_path: Path) -> None:
    with append_to(tmp_path) as writer:
        writer.add([make_record(0)])
        with (
            pytest.raises(ValueError, match="another process is writing to this zoo"),
            append_to(tmp_path),
        ):
            pass
        assert holds(Zoo.open(tmp_path), [0])
    with append_to(tmp_path) as writer:
        assert writer.names == {"model-0"}


def test_a_zoo_of_a_recipe_and_other_folders_take_no_strangers(tmp_path: Path) -> None:
    create_zoo(tiny_config(num_models=3), tmp_path / "zoo", num_workers=0, progress=False)
    with pytest.raises(ValueError, match="was created from a recipe"), append_to(tmp_path / "zoo"):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"it holds thesis\.tex"), append_to(tmp_path / "other"):
        pass


def test_float16_halves_the_weights_and_its_loss_is_stated(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        with append_to(tmp_path / dtype, dtype=dtype) as writer:
            writer.add([make_record(n) for n in range(100)])
    full, half = (Zoo.open(tmp_path / d) for d in ("float32", "float16"))
    sizes = [sum(f.stat().st_size for f in z.path.glob("weights/*")) for z in (full, half)]
    assert sizes[1] < 0.7 * sizes[0]  # headers and buffers stay
    loss = half.header["storage_loss"]
    errors, relative = [], []
    for a, b in zip(full.graphs, half.graphs, strict=True):
        assert b.theta.dtype == torch.float32
        error = (a.theta.double() - b.theta.double()).abs()
        normal = a.theta.abs() >= torch.finfo(torch.float16).smallest_normal
        errors.append(float(error.max()))
        relative.append(float((error / a.theta.abs().double())[normal].max()))
    assert loss["largest_error"] == max(errors) > 0
    assert loss["largest_relative_error"] == max(relative) <= 2**-11
    assert loss["shards_kept_in_float32"] == 0 and full.header["storage_loss"] == {}
    assert verify_zoo(half.path) == []


def test_values_beyond_float16_are_kept_as_they_are(tmp_path: Path) -> None:
    record = make_record(0)
    record.theta[0, 0] = 1e6
    record.theta[1, 0] = float("nan")
    with append_to(tmp_path, dtype="float16") as writer:
        writer.add([record, make_record(2)])
    zoo = Zoo.open(tmp_path)
    assert zoo.graphs[0].theta.equal(record.theta[0])
    assert zoo.graphs[1].theta[0].isnan() and zoo.graphs[1].theta[1:].equal(record.theta[1, 1:])
    assert zoo.header["storage_loss"]["shards_kept_in_float32"] == 1
    assert verify_zoo(tmp_path) == []


def test_columns_of_all_sorts_become_columns_of_one_kind(tmp_path: Path) -> None:
    numbers: list[dict[str, object]] = [{"a": 1, "b": "x"}, {"a": "many", "c": True}, {"a": None}]
    for start in (0, 3):
        with append_to(tmp_path) as writer:
            writer.add([make_record(start + i, properties=p) for i, p in enumerate(numbers)])
    table = Zoo.open(tmp_path).properties
    assert table["a"].dropna().tolist() == ["1", "1", "many", "many"] * 2
    assert table["b"].dropna().tolist() == ["x", "x"] * 2
    assert table["c"].dropna().tolist() == [True, True] * 2
    assert architecture(3).fingerprint in set(table["architecture"])


def test_a_gap_in_what_is_staged_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), append_to(tmp_path) as writer:
        writer.add([make_record(0)])
        writer.add([make_record(1)])
        raise RuntimeError
    (tmp_path / layout.MEMBERS / "00000000-1.safetensors").unlink()
    with (
        pytest.raises(ValueError, match="begins with model 1, but 0 is next"),
        append_to(tmp_path),
    ):
        pass
    assert layout.read_header(LocalFolder(tmp_path))["num_models"] == 0
