"""An ONNX file with inputs that it runs on: sizes that the graph leaves free are chosen small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..factory import check_shape
from .file import Declared, Graph, read_onnx
from .module import OnnxModule
from .plan import require_known

IMAGE_SIZES = (32, 64, 224, 8)
OTHER_SIZES = (8, 16, 32, 64, 1)


def open_onnx(
    path: Path, shapes: Sequence[Sequence[int]] = (), *, run: bool = True
) -> tuple[OnnxModule, tuple[Tensor, ...], tuple[str, ...]]:
    """A module with the file's weights, inputs that it runs on, and what was done.

    Args:
        shapes: Of the inputs in order, instead of the declared ones.
        run: False for the weights alone, whatever operators the file has.

    Raises:
        ValueError: damaged, of unknown operators, or not to be run on such inputs.
    """
    graph = read_onnx(path)
    module = OnnxModule(graph).eval()
    if not run:
        return module, (), ()
    try:
        require_known(graph)
        inputs, chosen = find_inputs(module, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return module, inputs, (describe(graph, module), *chosen)


def find_inputs(
    module: OnnxModule, shapes: Sequence[Sequence[int]]
) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """Inputs that the graph runs on, tried on `meta`, and what was assumed of them."""
    declared = module.graph.inputs
    if len(shapes) > len(declared):
        names = ", ".join(f"'{d.name}'" for d in declared)
        raise ValueError(f"got {len(shapes)} shapes for {len(declared)} inputs ({names})")
    given = asked(declared, shapes)
    first: ValueError | None = None
    for sizes in candidates(declared, shapes):
        full = [resolve(d, sizes) for d in declared]
        full[: len(shapes)] = [tuple(s) for s in shapes]
        try:
            inputs = tuple(example(d, check_shape(s)) for d, s in zip(declared, full, strict=True))
            module.plan(inputs)
        except ValueError as error:
            first = first or error
            continue
        free = [f"{n} = {s}" for n, s in sizes.items() if n not in given]
        chosen = f" (free sizes set: {', '.join(free[:8])})" if free else ""
        texts = [f"'{d.name}' {','.join(map(str, s))}" for d, s in zip(declared, full, strict=True)]
        note = f"assumed input {'; '.join(texts)}{chosen}"
        return inputs, (note,) if free or len(shapes) < len(declared) else ()
    assert first is not None
    hint = " Pass --input with sizes that fit." if "--input" not in str(first) else ""
    raise ValueError(f"{str(first).rstrip('.')}.{hint}") from first


def candidates(
    declared: Sequence[Declared], shapes: Sequence[Sequence[int]]
) -> Iterator[dict[str, int]]:
    """Sizes to try for all free dimensions: batches of one, the rest the same size."""
    bound = asked(declared, shapes)
    taken = [(n, i) for d in declared[len(shapes) :] for i, n in enumerate(d.shape)]
    free = {n: i for n, i in taken if isinstance(n, str) and n not in bound}
    images = any(len(d.shape) == 4 and d.dtype.is_floating_point for d in declared)
    batch = {n for n in free if (n, 0) in taken or "batch" in n.lower()}
    sizes = IMAGE_SIZES if images else OTHER_SIZES
    for size in sizes if set(free) - batch else (1,):
        yield bound | {n: 1 if n in batch else size for n in free}


def asked(declared: Sequence[Declared], shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Free sizes that follow from the shapes that a user asked for."""
    sizes: dict[str, int] = {}
    for d, shape in zip(declared, shapes, strict=False):
        sizes |= {n: s for n, s in zip(d.shape, shape, strict=False) if isinstance(n, str)}
    return sizes


def resolve(declared: Declared, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(s if isinstance(s, int) else sizes.get(s, 1) for s in declared.shape)


def example(declared: Declared, shape: tuple[int, ...]) -> Tensor:
    """Values: noise for floats, ones for masks, and the number 0, which every vocabulary has."""
    if "mask" in declared.name.lower() or declared.dtype == torch.bool:
        return torch.ones(shape, dtype=declared.dtype)
    if not declared.dtype.is_floating_point:
        return torch.zeros(shape, dtype=declared.dtype)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(declared.dtype)


def describe(graph: Graph, module: OnnxModule) -> str:
    """What the file's tensors became."""
    renamed = sum(a != b for a, b in module.places.items())
    kinds = Counter(parameters=0, buffers=0)
    kinds["parameters"] = len(list(module.parameters()))
    kinds["buffers"] = len(list(module.buffers()))
    text = (
        f"ONNX graph of {len(graph.nodes)} nodes: {kinds['parameters']} tensors are parameters, "
        f"{kinds['buffers']} buffers, {len(module.constants)} constants"
    )
    if module.num_separated:
        text += (
            f"; {module.num_separated} that the exporter merged for equal values are apart again"
        )
    return text + (f"; {renamed} names changed to ones that a module can have" if renamed else "")
