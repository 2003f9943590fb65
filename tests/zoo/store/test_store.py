"""Reading zoos: rows, graphs, views, splits, damaged folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from graphrep.zoo import Zoo, create_zoo, draw_member, evaluate, train_member
from graphrep.zoo.classifiers.train import own_train_rows, single_thread
from graphrep.zoo.store import layout
from graphrep.zoo.store.consolidate import draw_splits
from graphrep.zoo.store.folder import LocalFolder
from tests.zoo.tiny import tiny_config


def test_stored_weights_compute_what_the_trained_networks_computed(zoo: Zoo) -> None:
    images = zoo.images()
    config = tiny_config()
    for row in range(0, len(zoo), 4):
        about = zoo.properties.iloc[row]
        checkpoints = train_member(draw_member(config, about["model"]), images, config.kept_epochs)
        (trained,) = (c.state_dict for c in checkpoints if c.epoch == about["epoch"])
        stored = zoo.graphs[row].state_dict()
        assert list(stored) == list(trained)
        assert all(torch.equal(stored[name], trained[name]) for name in trained)

        outputs = []
        for values in (stored, trained, zoo.graphs[row - 1].state_dict()):
            module = zoo.network(row)
            if set(values) == set(trained):
                module.load_state_dict(values, strict=True)
                outputs.append(module(images.test_images))
        assert torch.equal(outputs[0], outputs[1])
        if len(outputs) == 3 and row > 0:
            assert not torch.equal(outputs[0], outputs[2])  # another epoch's weights


def recomputed(zoo: Zoo, row: int, graph_row: int) -> dict[str, float]:
    images, about = zoo.images(), zoo.properties.iloc[row]
    module = zoo.network(row)
    module.load_state_dict(zoo.graphs[graph_row].state_dict(), strict=True)
    seen = own_train_rows(draw_member(zoo.recipe, int(about["model"])), images)
    with single_thread():
        train = evaluate(module, images.train_images, images.train_labels, rows=seen)
        test = evaluate(module, images.test_images, images.test_labels)
    return {
        "train_accuracy": train[0],
        "train_loss": train[1],
        "test_accuracy": test[0],
        "test_loss": test[1],
        "generalisation_gap": train[0] - test[0],
    }


def test_metrics_recomputed_from_stored_weights_equal_the_stored_ones(zoo: Zoo) -> None:
    for row in range(len(zoo)):
        about = zoo.properties.iloc[row]
        for name, value in recomputed(zoo, row, row).items():
            assert value == pytest.approx(about[name], rel=1e-5, abs=1e-6), (row, name)
    assert recomputed(zoo, 0, 1)["test_loss"] != pytest.approx(
        zoo.properties.iloc[0]["test_loss"], rel=1e-3
    )


def test_properties_have_a_row_a_checkpoint_with_all_that_was_drawn(zoo: Zoo) -> None:
    properties = zoo.properties
    assert len(properties) == len(zoo) == len(zoo.graphs) == 8 * 3
    assert list(properties["model"]) == sorted(list(range(8)) * 3)
    assert list(properties["epoch"]) == [0, 1, 2] * 8
    for row in (0, 13, 23):
        about = properties.iloc[row]
        for name, value in draw_member(zoo.recipe, about["model"]).to_columns().items():
            assert about[name] == value, name
        assert zoo.graphs[row].architecture.fingerprint == about["architecture"]
    assert set(zoo.architectures) == set(properties["architecture"])
    assert properties["kind"].nunique() == 2
    assert zoo.graphs[-1].theta.equal(zoo.graphs[23].theta)
    assert [g.theta.shape for g in zoo.graphs[2:4]] == [zoo.graphs[r].theta.shape for r in (2, 3)]
    with pytest.raises(IndexError):
        zoo.graphs[24]


def test_splits_are_by_model_and_cover_every_row_once(zoo: Zoo) -> None:
    models = [set(zoo.split(name).properties["model"]) for name in layout.SPLITS]
    assert all(models)
    assert set.union(*models) == set(range(8))
    assert sum(map(len, models)) == 8  # so no model stands in two splits
    assert sum(len(zoo.split(name)) for name in layout.SPLITS) == len(zoo)
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'dev'"):
        zoo.split("dev")


def test_splits_follow_the_seed_and_are_never_written_again(zoo: Zoo, tmp_path: Path) -> None:
    def drawn(num_models: int = 8, seed: int = 0, validation: float = 0.15) -> list[str]:
        header = {"seed": seed, "fractions": {"validation": validation, "test": 0.5}}
        return draw_splits(header, [], num_models)

    assert drawn() == drawn() != drawn(seed=1)
    with pytest.raises(ValueError, match="3 models are too few"):
        drawn(num_models=3, validation=0.49)
    shutil.copytree(zoo.path, tmp_path / "zoo")
    (tmp_path / "zoo" / "zoo.json").unlink()
    shutil.copy(zoo.path / "zoo.json", tmp_path / "zoo")
    before = (tmp_path / "zoo" / layout.SPLITS_FILE).read_bytes()
    create_zoo(tiny_config(), tmp_path / "zoo", num_workers=0, progress=False)
    assert (tmp_path / "zoo" / layout.SPLITS_FILE).read_bytes() == before


def test_views_keep_rows_graphs_and_properties_together(zoo: Zoo) -> None:
    view = zoo.split("train").select(last_epochs(zoo.split("train")))
    assert 0 < len(view) < len(zoo.split("train"))
    assert list(view.properties.index) == list(range(len(view)))
    assert (view.properties["epoch"] == 2).all()
    for row, graph in enumerate(view.graphs):
        about = view.properties.iloc[row]
        whole = zoo.properties
        origin = whole.index[(whole["model"] == about["model"]) & (whole["epoch"] == 2)][0]
        assert graph.theta.equal(zoo.graphs[origin].theta)
    assert list(zoo.select([5, 3]).properties["epoch"]) == [2, 0]
    assert zoo.select([5, 3]).graphs[0].theta.equal(zoo.graphs[5].theta)
    assert len(zoo.select(slice(2, 6))) == 4
    assert len(zoo.select([])) == 0 and list(zoo.select([]).groups()) == []
    with pytest.raises(ValueError, match="a mask over 24 rows has shape"):
        zoo.select(np.array([True]))


def last_epochs(zoo: Zoo) -> object:
    return zoo.properties["epoch"] == 2


def check_groups(zoo: Zoo) -> None:
    """Groups hold each row once, and the same values as the graphs."""
    seen: list[int] = []
    for group in zoo.groups():
        seen += group.rows.tolist()
        assert group.theta.shape == (len(group.rows), group.architecture.num_parameters)
        for row, theta in zip(group.rows.tolist(), group.theta.read(), strict=True):
            graph = zoo.graphs[row]
            assert graph.architecture is group.architecture
            assert theta.equal(graph.theta)
    assert sorted(seen) == list(range(len(zoo)))


def test_groups_hold_every_row_once_with_the_theta_of_its_graph(zoo: Zoo) -> None:
    check_groups(zoo)
    shuffled = zoo.select([20, 1, 7, 2, 11, 0])
    check_groups(shuffled)
    assert len({tuple(graph.theta[:5].tolist()) for graph in zoo.graphs}) == len(zoo)


def test_rows_spread_over_several_shards_are_the_same(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SHARD_ROWS", 4)
    many = create_zoo(tiny_config(), tmp_path, num_workers=0, progress=False)
    assert len(list((tmp_path / layout.WEIGHTS).iterdir())) >= 6
    check_groups(many)
    check_groups(many.select([20, 1, 7, 2, 11, 0]))
    assert all(many.graphs[i].theta.equal(graph.theta) for i, graph in enumerate(_whole(zoo)))


def _whole(zoo: Zoo) -> list:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "SHARD_ROWS", 1000)
        return list(Zoo.open(zoo.path).graphs)


def test_changing_what_was_read_does_not_change_the_zoo(zoo: Zoo) -> None:
    before = zoo.graphs[0].theta.clone()
    zoo.graphs[0].theta.zero_()
    next(zoo.groups()).theta.read().zero_()
    assert zoo.graphs[0].theta.equal(before)
    zoo.properties.loc[0, "test_accuracy"] = 7.0
    assert Zoo.open(zoo.path).properties.loc[0, "test_accuracy"] != 7.0


def test_the_header_holds_the_hashes_of_all_files(zoo: Zoo) -> None:
    from graphrep.files import sha256

    header = layout.read_header(LocalFolder(zoo.path))
    found = {str(f.relative_to(zoo.path)) for f in zoo.path.rglob("*") if f.is_file()}
    assert set(header["sha256"]) == found - {layout.HEADER_FILE}
    assert all(sha256(zoo.path / name) == value for name, value in header["sha256"].items())
    assert zoo.recipe == tiny_config()


def damage(zoo: Zoo, path: Path, name: str) -> None:
    """A copy of the zoo with one thing wrong."""
    shutil.copytree(zoo.path, path)
    header = layout.read_header(LocalFolder(path))
    shard = next((path / layout.WEIGHTS).iterdir())
    match name:
        case "no header":
            (path / layout.HEADER_FILE).unlink()
        case "no JSON":
            (path / layout.HEADER_FILE).write_text("{")
        case "other JSON":
            (path / layout.HEADER_FILE).write_text("[]")
        case "newer":
            text = json.dumps({**header, "format_version": 99})
            (path / layout.HEADER_FILE).write_text(text)
        case "no shard":
            shard.unlink()
        case "short shard":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "strange shard":
            others = [f for f in (path / layout.WEIGHTS).iterdir() if f != shard]
            shutil.copy(others[0], shard)
        case "broken table":
            (path / layout.PROPERTIES_FILE).write_bytes(b"PAR1")
        case _:
            assert name == "nothing"


def read_all(path: Path) -> None:
    for graph in Zoo.open(path).graphs:
        assert graph.theta.numel() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no header", r"not a zoo, it has no zoo\.json"),
        ("no JSON", r"zoo\.json: damaged, it is not JSON"),
        ("other JSON", "not the header of a zoo"),
        ("newer", "has format version 99, but this graphrep reads 2"),
        ("no shard", "files of this zoo are missing, among them weights/"),
        ("short shard", r"weights/.*safetensors: cannot be read: .*\. Is it cut short\?"),
        ("strange shard", r"'theta' has shape \(.*\), but .* need \(.*\)"),
        ("broken table", "its tables cannot be read"),
    ],
)
def test_a_damaged_zoo_is_an_error_that_names_the_place(
    zoo: Zoo, tmp_path: Path, name: str, message: str
) -> None:
    damage(zoo, tmp_path / "sound", "nothing")
    read_all(tmp_path / "sound")
    damage(zoo, tmp_path / "zoo", name)
    with pytest.raises(ValueError, match=message) as error:
        read_all(tmp_path / "zoo")
    assert str(tmp_path / "zoo") in str(error.value)


def test_a_path_without_anything_is_not_a_zoo(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a zoo, it does not exist"):
        Zoo.open(tmp_path / "nowhere")


def test_importing_zoos_loads_no_table_or_plotting_library() -> None:
    heavy = ("pandas", "pyarrow", "sklearn", "rich", "omegaconf", "safetensors", "torch._dynamo")
    code = f"import sys, graphrep.zoo; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"
    code = code.replace("graphrep.zoo", "pandas")
    control = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert "pandas" in control.stdout.decode()
