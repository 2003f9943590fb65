"""Tensors of ONNX files: claims are held against the bytes that are there.

Values may lie in files beside the model. Those must be ordinary files within its folder,
and only the part that a tensor names is mapped.
"""

from __future__ import annotations

import mmap
import os
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

TensorProto: TypeAlias = Any  # of onnx, which need not be installed

TYPES = {  # onnx.TensorProto.DataType
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
}
BITS = {torch.float16: torch.uint16, torch.bfloat16: torch.uint16}  # as int32_data holds them
EXTERNAL = 1  # onnx.TensorProto.DataLocation
LARGEST_SIZE = 1 << 62


def text(value: str | bytes) -> str:
    """A name as text that can be printed; protobuf gives bytes where it is no UTF-8."""
    name = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)


def torch_type(number: int, what: str) -> torch.dtype:
    """The torch type of an ONNX type.

    Raises:
        ValueError: one that torch has no tensors of.
    """
    if number not in TYPES:
        raise ValueError(f"{what} has the ONNX type {number}, which torch has no tensors of")
    return TYPES[number]


def read_tensor(proto: TensorProto, folder: Path) -> Tensor:
    """The values of a tensor, a copy that may be written to.

    Raises:
        ValueError: claims that its bytes do not bear out, or data outside of the folder.
    """
    name = f"tensor '{text(proto.name):.80}'"
    dtype, shape = torch_type(proto.data_type, name), tuple(proto.dims)
    if len(shape) > 64 or any(s < 0 for s in shape) or prod(shape) * dtype.itemsize > LARGEST_SIZE:
        raise ValueError(f"{name} claims the shape {list(shape)[:8]}")
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    claimed = prod(shape) * dtype.itemsize
    if proto.data_location == EXTERNAL:
        return _external(proto, folder, claimed, name).view(dtype).view(shape)
    if proto.HasField("raw_data"):
        _require(name, shape, claimed, len(proto.raw_data), "bytes")
        return torch.frombuffer(bytearray(proto.raw_data), dtype=dtype).view(shape)
    return _listed(proto, dtype, name, shape).view(shape)


def _require(name: str, shape: tuple[int, ...], claimed: int, found: int, unit: str) -> None:
    if found != claimed:
        raise ValueError(
            f"{name} of shape {list(shape)[:8]} needs {claimed:,} {unit}, but has {found:,}"
        )


def _listed(proto: TensorProto, dtype: torch.dtype, name: str, shape: tuple[int, ...]) -> Tensor:
    """Values from the typed lists of numbers that raw bytes replaced in most files."""
    if dtype in (torch.complex64, torch.complex128):
        raise ValueError(f"{name} is complex, which no operator here takes")
    fields = (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data)
    values = next((f for f in (*fields, proto.uint64_data) if len(f)), proto.float_data)
    _require(name, shape, prod(shape), len(values), "numbers")
    if values is proto.int32_data and dtype.itemsize <= 2 and dtype.is_floating_point:
        bits = BITS.get(dtype, torch.uint8)
        return torch.tensor(list(values), dtype=torch.int64).to(bits).view(dtype)
    wide = torch.float64 if dtype.is_floating_point else torch.int64
    if dtype == torch.uint64:
        return torch.tensor(list(values), dtype=dtype)
    return torch.tensor(list(values), dtype=wide).to(dtype)


def _external(proto: TensorProto, folder: Path, claimed: int, name: str) -> Tensor:
    """Bytes from a file beside the model: uint8 [claimed]."""
    entry = {text(e.key): text(e.value) for e in proto.external_data}
    location = entry.get("location", "")
    path = folder / location
    inside = path.resolve().is_relative_to(folder.resolve()) and not os.path.isabs(location)
    if not location or not inside or "\0" in location or path.is_symlink():
        raise ValueError(
            f"{name} keeps its values in {location[:80]!r}, expected a file in the model's folder"
        )
    if not path.is_file():
        raise ValueError(
            f"{name} keeps its values in '{location[:80]}', which is not there. Put it beside the "
            "model"
        )
    size = path.stat().st_size
    try:
        offset = int(entry.get("offset", "0"))
        length = int(entry.get("length", str(claimed)))
    except ValueError as error:
        raise ValueError(f"{name} has an external offset or length that is no number") from error
    if offset < 0 or length != claimed or offset + length > size:
        raise ValueError(
            f"{name} needs {claimed:,} bytes, but names {length:,} from {offset:,} of "
            f"'{location[:80]}', which has {size:,}"
        )
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    with open(path, "rb") as file:
        part = mmap.mmap(
            file.fileno(), offset + length - start, access=mmap.ACCESS_COPY, offset=start
        )
    return torch.frombuffer(part, dtype=torch.uint8, offset=offset - start, count=length).clone()
