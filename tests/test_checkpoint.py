"""Laws of reading checkpoint files: nothing is lost, nothing is run, errors are one line."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphrep.checkpoint import CONTAINERS, Checkpoint, read_checkpoint, tensor_files

Write = Callable[[Any, Path], None]


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_safetensors(content: Any, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in content.items()}, path)


def load_running_code(path: Path) -> Any:
    with open(path, "rb") as file:
        return torch.load(file, weights_only=False)


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


every_format = pytest.mark.parametrize("write", [torch.save, save_legacy, save_safetensors])


def state_dict() -> dict[str, Tensor]:
    return dict(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict())


def refusal(path: Path) -> str:
    """The message of the ValueError, after the file's name; it must be one line."""
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 + len(str(path))
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# Reading ----------------------------------------------------------------------


@every_format
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".model", ""])
def test_tensors_come_back_bit_for_bit_whatever_the_suffix(
    tmp_path: Path, write: Write, suffix: str
) -> None:
    special = torch.tensor([float("nan"), float("inf"), -0.0])
    expected = {
        **state_dict(),
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "empty": torch.zeros(0, 3),
        **{str(t): special.to(t) for t in (torch.float16, torch.bfloat16, torch.float64)},
    }
    path = tmp_path / f"weights{suffix}"
    write(expected, path)
    found = read_checkpoint(str(path))
    assert found.path == path and found.unwrapped == () and found.extra == {}
    assert set(found.state_dict) == set(expected)
    for name, value in expected.items():
        assert found.state_dict[name].dtype == value.dtype
        assert found.state_dict[name].shape == value.shape
        assert bits(found.state_dict[name]) == bits(value)


def bits(value: Tensor) -> bytes:
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("write", [torch.save, save_legacy])
def test_containers_are_opened_and_reported(tmp_path: Path, write: Write, container: str) -> None:
    path = tmp_path / "training.pt"
    beside = {"epoch": 7, "accuracy": torch.tensor(0.5), "name": "x", "optimizer": {"state": {}}}
    write({**beside, container: state_dict()}, path)
    found = read_checkpoint(path)
    assert list(found.state_dict) == list(state_dict())
    assert found.unwrapped == (f"container '{container}'",)
    assert found.extra == {"epoch": 7, "accuracy": 0.5, "name": "x"}


def test_nested_containers_and_lists_of_one_are_opened_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    torch.save({"model": {"state_dict": [state_dict()], "step": 3}, "epoch": 1}, path)
    found = read_checkpoint(path)
    assert list(found.state_dict) == list(state_dict())
    assert found.unwrapped == ("container 'model'", "container 'state_dict'", "list of one")
    assert found.extra == {"epoch": 1, "step": 3}


def test_a_tensor_named_like_a_container_is_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weights": torch.ones(2), "module": torch.ones(3)}, path)
    found = read_checkpoint(path)
    assert list(found.state_dict) == ["weights", "module"] and found.unwrapped == ()


# Names ------------------------------------------------------------------------


@pytest.mark.parametrize("prefixes", [["module."], ["_orig_mod."], ["_orig_mod.", "module."]])
def test_prefixes_of_wrappers_are_removed_and_reported(tmp_path: Path, prefixes: list[str]) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"".join(prefixes) + name: value for name, value in state_dict().items()}, path)
    found = read_checkpoint(path)
    assert list(found.state_dict) == list(state_dict())
    assert found.unwrapped == tuple(f"prefix '{prefix}'" for prefix in prefixes)


def test_other_prefixes_stay(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for names in (["model.0.weight", "model.0.bias"], ["module.0.weight", "head.bias"]):
        torch.save({name: torch.ones(2) for name in names}, path)
        found = read_checkpoint(path)
        assert list(found.state_dict) == names and found.unwrapped == ()


def checkpoint(*names: str) -> Checkpoint:
    return Checkpoint(Path("x.pt"), {name: torch.full((), i) for i, name in enumerate(names)})


@pytest.mark.parametrize(
    ("found", "wanted", "step"),
    [
        (["model.a", "model.b.c"], ["a", "b.c"], "prefix 'model.'"),
        (["x.y.a", "x.y.b"], ["a", "b"], "prefix 'x.y.'"),
        (["x.y.a", "x.y.b"], ["y.a", "y.b"], "prefix 'x.'"),
        (["a", "b.c"], ["model.a", "model.b.c"], "names without prefix 'model.'"),
        (["m.a", "m.b"], ["a", "b", "num_batches_tracked"], "prefix 'm.'"),
    ],
)
def test_names_are_matched_where_one_prefix_makes_the_difference(
    found: list[str], wanted: list[str], step: str
) -> None:
    matched = checkpoint(*found).matched(wanted)
    assert list(matched.state_dict) == wanted[: len(found)]
    assert [int(v) for v in matched.state_dict.values()] == list(range(len(found)))
    assert matched.unwrapped == (step,)


@pytest.mark.parametrize(
    "wanted",
    [["model.a", "model.b"], ["a", "c"], ["a"], ["a", "b", "c"], ["net.a", "net.b"], []],
)
def test_names_stay_where_they_fit_already_or_no_prefix_helps(wanted: list[str]) -> None:
    original = checkpoint("model.a", "model.b")
    assert original.matched(wanted) is original


# Refusals ---------------------------------------------------------------------


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("write", "read"),
    [
        (torch.save, load_running_code),
        (save_legacy, load_running_code),
        (save_pickle, lambda path: pickle.loads(path.read_bytes())),
    ],
    ids=["torch", "legacy", "pickle"],
)
def test_no_pickled_code_is_ever_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    read: Callable[[Path], Any],
    suffix: str,
    force: bool,
) -> None:
    if force:  # torch's switch for those who ask for nothing; graphrep asks
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = tmp_path / f"harmful{suffix}", tmp_path / "marker"
    write({"state_dict": state_dict(), "args": Harmful(marker)}, path)
    message = refusal(path)
    assert "never executes" in message and "torch.save(model.state_dict()" in message
    assert not marker.exists()
    read(path)
    assert marker.exists()


def test_the_refusal_names_the_code_that_a_file_needs(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 3), path)
    assert "torch.nn.modules.linear.Linear" in refusal(path)


@every_format
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, write: Write, share: float) -> None:
    path = tmp_path / "weights.safetensors"
    write(state_dict(), path)
    read_checkpoint(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "Was it cut short? Copy or download it again." in refusal(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty (0 bytes). Copy or download it again."),
        (bytes(100), "no checkpoint. Expected a torch file or safetensors"),
        (b"<!DOCTYPE html>\n<html>", "it starts with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
    ],
    ids=["empty", "zeros", "page", "pointer"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert says in refusal(path)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for members, says in (
        (["x.txt"], "not a readable torch file"),
        (["x/constants.pkl", "x/data.pkl", "x/version"], "TorchScript"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.writestr(member, "3")
        assert says in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file. Check the path" in refusal(tmp_path / "nowhere.pt")
    assert "is a folder without model.safetensors or" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "found nothing"),
        ({"epoch": 3, "model": {"name": "x"}}, "found 'name' (str)"),
        ({"generator": {"a": torch.ones(1)}}, "found 'generator' (dict)"),
        ({"state_dict": [state_dict(), state_dict()]}, "found 'state_dict' (list)"),
        ([1, 2], "holds a list of 2 where a state dict"),
        (torch.ones(3), "holds a Tensor where a state dict"),
    ],
)
def test_content_without_tensors_by_name_is_refused(
    tmp_path: Path, content: Any, says: str
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    message = refusal(path)
    assert says in message and "torch.save(model.state_dict(), 'weights.pt')" in message


# Large files ------------------------------------------------------------------


@pytest.mark.parametrize("write", [torch.save, save_safetensors])
def test_a_large_file_is_mapped_and_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    path = tmp_path / "weights.pt"
    write(state_dict(), path)
    expected = read_checkpoint(path).state_dict
    monkeypatch.setattr(tensor_files, "MAP_FROM", 0)
    found = read_checkpoint(path).state_dict
    assert list(found) == list(expected)
    assert all(found[n].equal(v) for n, v in expected.items())
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) in maps.read_text()
        del found
        assert str(path) not in maps.read_text()


# Values -----------------------------------------------------------------------


def test_special_values_are_counted_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    bad = torch.tensor([[float("nan"), 1.0], [float("inf"), float("-inf")]])
    tiny = torch.tensor([float("nan"), 1.0]).to(torch.float8_e5m2)
    state = {"a": bad, "b": torch.ones(3), "c": torch.zeros(0), "d": torch.tensor(1), "e": tiny}
    torch.save({**state, "f": bad.t().half(), "g": bad.bfloat16()[:, 1]}, path)
    found = read_checkpoint(path)
    assert found.special == (
        "'a': 1 NaN and 2 Inf of 4 values (kept)",
        "'e': 1 NaN of 2 values (kept)",
        "'f': 1 NaN and 2 Inf of 4 values (kept)",
        "'g': 1 Inf of 2 values (kept)",
    )
    assert bits(found.state_dict["a"]) == bits(bad)


def test_what_compilation_writes_within_names_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    names = ["body._orig_mod.0.weight", "head.bias"]
    torch.save({name: torch.ones(2) for name in names}, path)
    found = read_checkpoint(path)
    assert list(found.state_dict) == ["body.0.weight", "head.bias"]
    assert found.unwrapped == ("'_orig_mod.' within names",)
