"""The two formats of one file: what headers claim is held against the file before it is read.

Whoever wrote a file may lie about lengths. Safetensors: the header's length. Torch:
records of an archive that would inflate, pickles that ask for empty memory, and tensors
that repeat a few bytes into terabytes.
"""

from __future__ import annotations

import json
import mmap
import re
import textwrap
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SAVE = "torch.save(model.state_dict(), 'weights.pt')"
MAP_FROM = 64 << 20  # bytes; smaller files are read, so that they may be overwritten at once
LONGEST_HEADER = 16 << 20  # bytes of JSON, about 150,000 tensors; a parsed byte takes ten
MOST_RECORDS = 200_000  # of an archive; a tensor takes one
BLANK_MEMORY = b"\nbytearray\n"  # the one pickled call that would fill memory by a number


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in the order of their bytes."""
    from safetensors.torch import load, load_file

    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, LONGEST_HEADER))
    if length > size - 8:
        claim = f"its header claims {length:,} bytes and the file has {max(0, size - 8):,} more"
        raise damaged(path, "safetensors", ValueError(claim))
    if length > LONGEST_HEADER:
        claim = f"its header of {length:,} bytes is longer than {LONGEST_HEADER:,}"
        raise damaged(path, "safetensors", ValueError(claim))
    try:
        tensors = load_file(path) if size >= MAP_FROM else load(path.read_bytes())
        starts = {k: v["data_offsets"] for k, v in json.loads(header).items() if k in tensors}
        return {name: tensors[name] for name in sorted(tensors, key=starts.__getitem__)}
    except Exception as error:  # its own errors, and torch's on types or sizes that it lacks
        raise damaged(path, "safetensors", error) from error


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, of tensors and plain containers only."""
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        _check_archive(path)
    else:
        _check_pickle(path, None)
    # By path only where it is mapped: torch would believe the suffix.
    mapped = zipped and path.stat().st_size >= MAP_FROM and path.suffix != ".safetensors"
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of pickle that are refused right after
            content = torch.load(
                path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
    except Exception as error:  # torch raises many kinds on damaged files
        text = str(error)
        if "weights_only" not in text and "WeightsUnpickler" not in text:
            raise damaged(path, "torch", error) from error
        name = re.search(r"GLOBAL ([\w.]+)", text)
        raise _needs_code(path, f"Python code ({name[1]:.80})" if name else "a pickle") from error
    _check_claims(path, content)
    return content


def damaged(path: Path, kind: str, error: Exception) -> ValueError:
    """The error for a file that cannot be read, in one line."""
    text = "".join(c if c.isprintable() else " " for c in str(error)[:2000])
    reason = textwrap.shorten(text, 100, placeholder=" ...") or type(error).__name__
    return ValueError(
        f"{path}: not a readable {kind} file ({reason}). Was it cut short? Copy or download it "
        "again."
    )


def _needs_code(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path}: needs {what}, which graphrep never executes. Load it where you trust it "
        f"and save its tensors alone: {SAVE}."
    )


def _check_archive(path: Path) -> None:
    """torch stores its records as they are: anything packed would grow when it is read.

    Raises:
        ValueError: no readable archive, TorchScript, or records larger than the file.
    """
    try:
        num_records = _count_records(path)
        if num_records > MOST_RECORDS:
            raise zipfile.BadZipFile(f"{num_records:,} records, more than {MOST_RECORDS:,}")
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            packed = next((r for r in records if r.compress_type != zipfile.ZIP_STORED), None)
            if packed is not None:
                raise zipfile.BadZipFile(f"record '{packed.filename}' is compressed")
            claimed = sum(r.file_size for r in records)
            if claimed > path.stat().st_size:
                raise zipfile.BadZipFile(f"its records claim {claimed:,} bytes")
            pickles = [archive.read(r) for r in records if r.filename.endswith("data.pkl")]
    except Exception as error:  # zipfile raises many kinds on damaged archives
        raise damaged(path, "torch", error) from error
    if any(r.filename.partition("/")[2] == "constants.pkl" for r in records):
        raise _needs_code(path, "a TorchScript program to run")
    for content in pickles:
        _check_pickle(path, content)


def _count_records(path: Path) -> int:
    """How many records an archive lists, from its last bytes; Python objects take far more."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 200))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("the archive's list of records is missing")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06")  # of a large archive, which leaves the short field full
    if wide >= 0:
        longer = int.from_bytes(tail[wide + 40 : wide + 48], "little")
        length = longer if length == 0xFFFFFFFF else max(length, longer)
    return min(length, size) // 46  # bytes of the shortest entry


def _check_pickle(path: Path, content: bytes | None) -> None:
    """Refuse a pickle that would ask for memory by a number alone; None: the whole file."""
    if content is not None:
        found = BLANK_MEMORY in content
    else:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            found = m.find(BLANK_MEMORY) >= 0
    if found:
        raise _needs_code(path, "a bytearray built by a pickle")


def _check_claims(path: Path, content: Any) -> None:
    """Tensors that repeat their bytes (stride 0) or were never filled claim more than was read."""
    size = path.stat().st_size
    claimed = sum(_num_bytes(v) for v in _tensors_in(content))
    if claimed > 16 * size + (64 << 20):
        claim = f"its tensors claim {claimed:,} bytes and the file has {size:,}"
        raise damaged(path, "torch", ValueError(claim))


def _num_bytes(value: Tensor) -> int:
    return 0 if value.is_meta else value.numel() * value.element_size()


def _tensors_in(content: Any) -> Iterator[Tensor]:
    """Every tensor within containers, each container once: a pickle can hold itself."""
    seen: set[int] = set()
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, Mapping) else value)
