"""Adding models: what is kept, what is refused, splits that never change, smaller storage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphrep.zoo import Zoo, append_to, create_zoo
from graphrep.zoo.store import layout
from graphrep.zoo.store.shards import total_loss
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
    loss = total_loss(half.header)
    errors, relative = [], []
    for a, b in zip(full.graphs, half.graphs, strict=True):
        assert b.theta.dtype == torch.float32
        error = (a.theta.double() - b.theta.double()).abs()
        normal = a.theta.abs() >= torch.finfo(torch.float16).smallest_normal
        errors.append(float(error.max()))
        relative.append(float((error / a.theta.abs().double())[normal].max()))
    assert loss["largest_error"] == max(errors) > 0
    assert loss["largest_relative_error"] == max(relative) <= 2**-11
    assert loss["shards_kept"] == loss["num_to_zero"] == 0 and total_loss(full.header) == {}
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
    assert total_loss(zoo.header)["shards_kept"] == 1
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


def test_a_damaged_batch_can_be_deleted_and_its_models_added_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), append_to(tmp_path) as writer:
        for number in range(4):
            writer.add([make_record(number)])
        raise RuntimeError
    damaged = tmp_path / layout.MEMBERS / "00000001-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"00000001-1\.safetensors: damaged .* Delete it"):
        Zoo.open(tmp_path)
    damaged.unlink()
    with append_to(tmp_path) as writer:
        assert writer.names == {"model-0", "model-2", "model-3"}
        writer.add([make_record(1)])
    assert holds(Zoo.open(tmp_path), [0, 2, 3, 1])
    assert verify_zoo(tmp_path) == []


def test_files_of_others_in_folders_of_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "thesis.tex").write_text("x")
    with (
        pytest.raises(ValueError, match="not empty and not a zoo, it holds members"),
        append_to(tmp_path),
    ):
        pass
    with pytest.raises(ValueError, match="not empty and not a zoo, it holds members"):
        create_zoo(tiny_config(num_models=3), tmp_path, num_workers=0, progress=False)
    with append_to(tmp_path / "zoo") as writer:
        writer.add([make_record(0)])
        (tmp_path / "zoo" / "members" / "thesis.tex").write_text("x")
    assert (tmp_path / "zoo" / "members" / "thesis.tex").exists()
    assert holds(Zoo.open(tmp_path / "zoo"), [0])


def test_odd_names_and_numbers_are_kept_in_a_form_that_tables_hold(tmp_path: Path) -> None:
    odd = {"big": 10**400, "path": "na\udcffme", "schöner": 2**62 + 1, "half": 2**70}
    with append_to(tmp_path) as writer:
        writer.add([make_record(0, name="a/b\udcff", properties=odd)])
        writer.add([make_record(1, properties={"half": 0.5, "schöner": None})])
        assert "a/b\\udcff" in writer.names
        with pytest.raises(ValueError, match="has a model named"):
            writer.add([make_record(0, name="a/b\udcff")])
    table = Zoo.open(tmp_path).properties
    assert table["name"][0] == "a/b\\udcff" and table["path"][0] == "na\\udcffme"
    assert table["schöner"][0] == str(2**62 + 1)  # beside a missing one: no float is as exact
    assert (
        table["big"][0] == str(10**400) and table["half"].tolist() == [str(2**70)] * 2 + ["0.5"] * 2
    )
    assert verify_zoo(tmp_path) == []


def test_whole_numbers_stay_exact(tmp_path: Path) -> None:
    with append_to(tmp_path) as writer:
        writer.add([make_record(n, properties={"seed": 2**62 + n, "few": n}) for n in range(2)])
        writer.add([make_record(2, properties={"seed": 2**62 + 2})])
    table = Zoo.open(tmp_path).properties
    assert table["seed"].tolist() == [2**62 + n for n in (0, 0, 1, 1, 2, 2)]
    assert table["few"].tolist()[:4] == [0, 0, 1, 1] and table["few"].isna().sum() == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"properties": {"split": "dev"}}, "has a property 'split', a name that the store gives"),
        ({"rows": [{"model": 1}, {}]}, "has a property 'model'"),
        ({"split": "valid"}, "split must be one of train, validation, test, got 'valid'"),
        ({"num_checkpoints": 0}, "has no checkpoint"),
        ({"theta": torch.zeros(2, 4)}, r"theta has shape \(2, 4\)"),
        ({"theta": make_record(0).theta.double()}, r"theta is torch.float64, but 'mlp-3' has"),
        ({"buffers": {"x": torch.zeros(2)}}, "has a buffer 'x', but 'mlp-3' has 1.num_batches"),
        ({"buffers": {"1.num_batches_tracked": torch.zeros(2)}}, "is torch.float32"),
    ],
)
def test_a_record_that_the_store_could_not_keep_is_refused_at_once(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_record(0, **change)  # type: ignore[arg-type]


def test_rows_count_before_properties_and_missing_buffers_are_zero(tmp_path: Path) -> None:
    record = make_record(0, properties={"epoch": 9, "test_accuracy": 0.0, "x": 1}, buffers={})
    with append_to(tmp_path) as writer:
        writer.add([record, make_record(1)])
    zoo = Zoo.open(tmp_path)
    assert zoo.properties["epoch"].tolist() == [0, 1, 0, 1]
    assert zoo.properties["test_accuracy"].tolist()[:2] == [0.0, 1.0]
    assert [int(g.buffers["1.num_batches_tracked"]) for g in zoo.graphs] == [0, 0, 1, 2]


def test_settings_that_no_zoo_can_have_are_refused_at_once(tmp_path: Path) -> None:
    for settings, message in (
        ({"dtype": "float61"}, "dtype must be one of float32, float16, got 'float61'"),
        ({"test_fraction": 0.9}, "must leave models to train with, got 0.15 and 0.9"),
    ):
        with pytest.raises(ValueError, match=message), append_to(tmp_path / "x", **settings):  # type: ignore[arg-type]
            pass
        assert not (tmp_path / "x" / "zoo.json").exists()


def test_a_zoo_that_is_being_added_to_counts_as_unfinished(tmp_path: Path) -> None:
    with append_to(tmp_path) as writer:
        writer.add([make_record(0)])
    assert Zoo.open(tmp_path).finished
    with append_to(tmp_path) as writer:
        writer.add([make_record(1)])
        assert not Zoo.open(tmp_path).finished
    assert Zoo.open(tmp_path).finished


def test_small_additions_reach_the_fractions_together(tmp_path: Path) -> None:
    for number in range(20):
        with append_to(tmp_path, validation_fraction=0.2, test_fraction=0.1) as writer:
            writer.add([make_record(number)])
    counts = Zoo.open(tmp_path).properties.drop_duplicates("model")["split"].value_counts()
    assert counts.to_dict() == {"train": 14, "validation": 4, "test": 2}


def test_an_empty_zoo_opens(tmp_path: Path) -> None:
    with append_to(tmp_path):
        zoo = Zoo.open(tmp_path)
        assert len(zoo) == 0 and {"model", "name", "epoch", "design"} <= set(zoo.properties)
