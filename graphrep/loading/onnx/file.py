"""ONNX files: bytes -> nodes, tensors and declared inputs, without onnx's classes behind them.

The graph is read through the onnx package and nothing is executed. Knows no operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..extras import need
from .tensors import read_tensor, text, torch_type
from .wire import check_fields

Proto: TypeAlias = Any  # of onnx, which need not be installed
LARGEST_FILE = 2 << 30  # bytes, protobuf's own limit; larger models keep weights beside it
MOST_NODES = 200_000
DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: names of values in and out, and its settings."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str
    domain: str
    opset: int

    @property
    def shown(self) -> str:
        domain = "" if self.domain in DEFAULT_DOMAINS else f"{self.domain}."
        where = self.name or (self.outputs[0] if self.outputs else "without a name")
        return f"operator '{domain}{self.op}' (node '{where:.80}')"


@dataclass(frozen=True)
class Declared:
    """An input of a graph: its sizes, a text where one is free."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """What a file holds; also the branch of an `If`."""

    nodes: tuple[Node, ...]
    initializers: Mapping[str, Tensor]
    inputs: tuple[Declared, ...]
    outputs: tuple[str, ...]


def is_onnx(path: Path) -> bool:
    """Whether a file is ONNX, by its suffix or by how Proto begins."""
    if not path.is_file():
        return False
    if path.suffix == ".onnx":
        return True
    with open(path, "rb") as file:
        head = file.read(3)
    # field 1 (ir_version, a small number), then a text (producer, domain) or the graph
    return len(head) == 3 and head[0] == 0x08 and head[1] < 0x20 and head[2] in b"\x12\x1a\x22\x3a"


def read_onnx(path: Path) -> Graph:
    """The graph of an ONNX file with its tensors.

    Raises:
        ValueError: onnx is not installed, or the file is damaged or makes false claims.
    """
    onnx = need("onnx", path, "an ONNX file")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"{path}: has {size:,} bytes, and ONNX files end at {LARGEST_FILE:,}. Save it with "
            "external data."
        )
    try:
        content = path.read_bytes()
        check_fields(content)
        model = onnx.ModelProto.FromString(content)
        del content
    except Exception as error:  # protobuf's own kinds
        raise ValueError(
            f"{path}: not a readable ONNX file ({str(error)[:100]}). Was it cut short? Copy or "
            "download it again."
        ) from error
    try:
        model = _without_functions(model, path)
        versions = {o.domain: o.version for o in model.opset_import}
        if not model.graph.node or not any(d in versions for d in DEFAULT_DOMAINS):
            raise ValueError("holds no graph of operators with an opset")
        return _graph(model.graph, versions, path.parent)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}. Is the file whole? Export or download it again."
        ) from error


def _graph(proto: Proto, versions: Mapping[str, int], folder: Path) -> Graph:
    if len(proto.node) > MOST_NODES:
        raise ValueError(f"holds {len(proto.node):,} nodes, more than {MOST_NODES:,}")
    if proto.sparse_initializer:
        raise ValueError("holds sparse tensors, expected dense ones")
    tensors: dict[str, Tensor] = {}
    for tensor in proto.initializer:
        name = text(tensor.name)
        if name in tensors:
            raise ValueError(f"holds two tensors named '{name:.80}'")
        tensors[name] = read_tensor(tensor, folder)
    inputs = []
    for value in proto.input:
        name = text(value.name)
        if name in tensors:  # as files before version 4 list their weights
            continue
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"input '{name:.80}' is no tensor")
        declared = value.type.tensor_type
        shape = tuple(
            d.dim_value if d.HasField("dim_value") else text(d.dim_param) or f"{name}.{i}"
            for i, d in enumerate(declared.shape.dim)
        )
        dtype = torch_type(declared.elem_type, f"input '{name:.80}'")
        inputs.append(Declared(name, dtype, shape))
    nodes = tuple(_node(n, versions, folder) for n in proto.node)
    return Graph(nodes, tensors, tuple(inputs), tuple(text(o.name) for o in proto.output))


def _node(proto: Proto, versions: Mapping[str, int], folder: Path) -> Node:
    known = DEFAULT_DOMAINS if proto.domain in DEFAULT_DOMAINS else (proto.domain,)
    return Node(
        op=text(proto.op_type),
        inputs=tuple(text(n) for n in proto.input),
        outputs=tuple(text(n) for n in proto.output),
        attributes={text(a.name): _attribute(a, versions, folder) for a in proto.attribute},
        name=text(proto.name),
        domain=text(proto.domain),
        opset=next((versions[d] for d in known if d in versions), 1),
    )


def _attribute(proto: Proto, versions: Mapping[str, int], folder: Path) -> Any:
    match proto.type:
        case proto.FLOAT:
            return proto.f
        case proto.INT:
            return proto.i
        case proto.STRING:
            return text(proto.s)
        case proto.TENSOR:
            return read_tensor(proto.t, folder)
        case proto.GRAPH:
            return _graph(proto.g, versions, folder)
        case proto.FLOATS:
            return list(proto.floats)
        case proto.INTS:
            return list(proto.ints)
        case proto.STRINGS:
            return [text(s) for s in proto.strings]
    raise ValueError(f"attribute '{text(proto.name):.80}' has the unknown kind {proto.type}")


def _without_functions(model: Proto, path: Path) -> Proto:
    """The model with its own functions written out where they are called."""
    if not model.functions:
        return model
    inliner = need("onnx", path, "an ONNX file", "onnx.inliner")
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    total = sum(_size((n.domain, n.op_type), functions, sizes, ()) for n in model.graph.node)
    if total > MOST_NODES:
        raise ValueError(f"its functions come to {total:,} nodes, more than {MOST_NODES:,}")
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # onnx's C++ raises kinds of its own
        raise ValueError(f"its functions cannot be written out ({str(error)[:100]})") from error


def _size(
    key: tuple[str, str],
    functions: Mapping[tuple[str, str], Proto],
    sizes: dict[tuple[str, str], int],
    above: Sequence[tuple[str, str]],
) -> int:
    """How many nodes a call comes to, counted before any is made: calls of calls multiply."""
    if key not in functions:
        return 1
    if key in above or len(above) > 50:
        raise ValueError(f"its function '{key[1]:.80}' calls itself, or calls go too deep")
    if key not in sizes:
        inside = ((n.domain, n.op_type) for n in functions[key].node)
        sizes[key] = sum(_size(k, functions, sizes, (*above, key)) for k in inside)
    return sizes[key]
