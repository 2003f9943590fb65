"""One function for every kind of file: checkpoints, ONNX, folders of transformers.

Told apart by content and by whether a model is given. Whatever was unwrapped, converted
or assumed on the way comes back as notes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import Checkpoint, read_checkpoint
from ..graph import ParameterGraph, to_graph
from .chains import recognise_chain
from .compare import require_fit
from .factory import as_shapes, build_module, example_inputs

Model = str | Callable[[], nn.Module] | nn.Module


@dataclass(frozen=True)
class Loaded:
    """A network from a file: its graph, what was done to get it, and the module that runs it."""

    graph: ParameterGraph
    notes: tuple[str, ...] = ()
    module: nn.Module | None = None


def load_graph(
    path: str | os.PathLike[str],
    *,
    model: Model | None = None,
    input_shape: str | Sequence[Any] | None = None,
    verify: bool = True,
) -> Loaded:
    """The parameter graph of a network in a file, whatever kind of file it is.

    A torch file, safetensors, an index of shards: values for `model`; without one, plain
    chains of layers are recognised by their shapes. An ONNX file or a folder with
    config.json brings its architecture along.

    Args:
        path: File or folder.
        model: What the values belong to: `package.module:factory`, a factory, or a module,
            which then gets the values. Overrides the architecture that a file brings along.
        input_shape: Of an example input, `1,3,32,32` or (1, 3, 32, 32); a list of shapes
            for several inputs.
        verify: Check the derived symmetries numerically.

    Raises:
        ValueError: damaged, in need of code, of another network, or of an unknown one; says
            what to do. On a mismatch both sides are listed and nothing is loaded.
    """
    path = Path(path)
    shapes = as_shapes(input_shape)
    from .onnx import is_onnx, open_onnx

    if is_onnx(path):
        module, inputs, notes = open_onnx(path, shapes, run=model is None)
        checkpoint = Checkpoint(path, dict(module.state_dict()))
        if model is None:
            return _of_module(path, checkpoint, module, inputs, notes, verify)
    elif path.is_dir() and model is None:
        from .huggingface import open_folder

        return _of_module(path, *open_folder(path, shapes), verify)
    else:
        checkpoint = read_checkpoint(path)
    if model is not None:
        return _into_model(path, checkpoint, build_module(model), shapes, verify)
    shape = shapes[0] if shapes else None
    chain = recognise_chain(path, checkpoint.state_dict, shape)
    chain.module.load_state_dict(checkpoint.state_dict, strict=True, assign=True)
    inputs = example_inputs(chain.module, [chain.input_shape])
    notes = (*chain.assumed, f"assumed input {_sizes(chain.input_shape)}" * (shape is None))
    return _of_module(path, checkpoint, chain.module, inputs, notes, verify)


def _of_module(
    path: Path,
    checkpoint: Checkpoint,
    module: nn.Module,
    inputs: Any,
    notes: Sequence[str],
    verify: bool,
) -> Loaded:
    """The graph of a module that has the file's values already."""
    module.requires_grad_(False).eval()
    try:
        with torch.no_grad():
            graph = to_graph(module, inputs, name=path.stem, verify=verify)
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return Loaded(graph, (*_steps(checkpoint), *(n for n in notes if n)), module)


def _into_model(
    path: Path,
    checkpoint: Checkpoint,
    module: nn.Module,
    shapes: Sequence[Sequence[int]],
    verify: bool,
) -> Loaded:
    """The graph of a user's module with the file's values."""
    checkpoint = checkpoint.matched(module.state_dict())
    expected = {k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}
    require_fit(path, checkpoint.state_dict, expected, type(module).__name__)
    try:
        architecture = to_graph(module, example_inputs(module, shapes), verify=verify).architecture
        graph = ParameterGraph.from_state_dict(architecture, checkpoint.state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Loaded(graph, _steps(checkpoint), graph.load_into(module))


def _steps(checkpoint: Checkpoint) -> tuple[str, ...]:
    return (*(f"unwrapped {s}" for s in checkpoint.unwrapped), *checkpoint.special)


def _sizes(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))
