"""Laws of files that lie about their sizes: refused in one line, before memory is filled."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrep.checkpoint import read_checkpoint
from tests.test_checkpoint import Write, refusal, save_legacy, state_dict


def header(length: int, content: bytes) -> bytes:
    return length.to_bytes(8, "little") + content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(100 << 30, b"{}"), "header claims 107,374,182,400 bytes and the file has 2 more"),
        (header(1 << 63, b"{}"), "header claims 9,223,372,036,854,775,808 bytes"),
        (header(3, b"{}"), "header claims 3 bytes and the file has 2 more"),
        (header(17 << 20, b"{}" + b" " * (17 << 20)), "header of 17,825,792 bytes is longer than"),
        (header(2, b"{]"), "not a readable safetensors file"),
        (header(100_000, b'{"a":' * 20_000), "not a readable safetensors file"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert says in refusal(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [1],
    ],
)
def test_a_tensor_beyond_the_file_is_refused(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "weights.safetensors"
    text = json.dumps({"a": entry}).encode()
    path.write_bytes(header(len(text), text) + bytes(4))
    assert "not a readable safetensors file" in refusal(path)


def repack(path: Path, method: int, extra: dict[str, bytes]) -> None:
    """Write a torch file again with its records packed, and with more of them."""
    with zipfile.ZipFile(path) as archive:
        records = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {**records, **extra}.items():
            archive.writestr(name, content)


def test_an_archive_that_would_grow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(state_dict(), path)
    repack(path, zipfile.ZIP_STORED, {})
    read_checkpoint(path)
    repack(path, zipfile.ZIP_DEFLATED, {"weights/data/9": bytes(50 << 20)})
    assert path.stat().st_size < 1 << 20
    assert "is compressed" in refusal(path)


class Blank:
    """Pickles as a call that fills memory: 2 GB by five bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, ((1 << 31) - 1,)


@pytest.mark.parametrize("write", [torch.save, save_legacy])
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "weights.pt"
    write({"state_dict": state_dict(), "buffer": Blank()}, path)
    assert "needs a bytearray built by a pickle, which graphrep never executes" in refusal(path)


def test_tensors_that_repeat_their_bytes_into_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(1).expand(1 << 20)}, path)
    assert read_checkpoint(path).state_dict["a"].shape == (1 << 20,)
    torch.save({"a": torch.ones(1).expand(1 << 20, 1 << 20)}, path)
    assert "its tensors claim 4,398,046,511,104 bytes and the file has" in refusal(path)


def test_containers_within_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, path)
    assert "or one within itself" in refusal(path)


def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for value, says in (
        (torch.eye(3).to_sparse(), "'a' is a sparse tensor (torch.sparse_coo)"),
        (torch.ones(2, device="meta"), "'a' is a tensor without values (meta)"),
    ):
        torch.save({"a": value}, path)
        assert says in refusal(path)
