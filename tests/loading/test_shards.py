"""Laws of checkpoints in several files: one checkpoint, and files of the index's folder only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrep.checkpoint import read_checkpoint
from tests.test_checkpoint import refusal, save_safetensors, state_dict


def save_shards(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Two shards of a state dict and their index, with some entries changed."""
    names = list(state_dict())
    places = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(names)}
    for file in set(places.values()):
        values = {n: state_dict()[n] for n in names if places[n] == file}
        save_safetensors(values, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**places, **(changes or {})}}))
    return index


def test_shards_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    index = save_shards(tmp_path)
    for path, step in ((index, ()), (tmp_path, (f"folder with '{index.name}'",))):
        found = read_checkpoint(path)
        assert list(found.state_dict) == list(state_dict())
        assert found.unwrapped == (*step, "2 shards")
    parts = [read_checkpoint(tmp_path / f"part-{i}.safetensors").state_dict for i in range(2)]
    whole = {**parts[0], **parts[1]}
    assert all(found.state_dict[n].equal(v) for n, v in whole.items())


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("../part-0.safetensors", "expected the name of a file in the same folder"),
        ("/etc/passwd", "expected the name of a file in the same folder"),
        ("..\\part-0.safetensors", "expected the name of a file in the same folder"),
        ("", "expected the name of a file in the same folder"),
        (3, "expected the name of a file in the same folder"),
        ("part-7.safetensors", "names 3 files, of which 1 are missing: part-7.safetensors"),
        ("part-1.safetensors", "which does not hold it (1 such tensors)"),
    ],
)
def test_an_index_must_name_files_beside_it(tmp_path: Path, place: object, says: str) -> None:
    assert says in refusal(save_shards(tmp_path, {"0.weight": place}))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = save_shards(tmp_path)
    save_safetensors({**state_dict()}, tmp_path / "part-1.safetensors")
    assert "is in part-0.safetensors and in part-1.safetensors" in refusal(index)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "has no 'weight_map'"),
        ("[]", "holds a list, expected a JSON object"),
        ("{", "not readable JSON"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' twice in one object"),
        ("[" * 100_000, "not readable JSON"),
        ("1" * 10_000, "not readable JSON"),
    ],
)
def test_an_index_must_be_an_index(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    assert says in refusal(path)
