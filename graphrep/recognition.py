"""Which of the known architectures a network has, by the names and shapes of its tensors.

Knows graphs, modules and checkpoint files; knows no trained models. What brings its
architecture along (ONNX, Hugging Face) is read by `loading`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .architecture import Architecture
from .checkpoint import Checkpoint, read_checkpoint
from .graph import ParameterGraph, check_state_dict, to_graph

STREAM_FROM = 2**24  # numbers of a network; larger ones are read block by block

Input = ParameterGraph | nn.Module | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class MappedNetwork:
    """A network that is not laid out as theta: its tensors as its files map them into memory."""

    architecture: Architecture
    tensors: Mapping[str, Tensor]


def read_mapped(item: Any, architecture: Architecture | None) -> MappedNetwork | None:
    """A large checkpoint file of a known architecture without a copy; None for all else.

    Raises:
        ValueError: a file that cannot be read, or of another architecture.
    """
    if architecture is None or architecture.num_parameters < STREAM_FROM:
        return None
    if not isinstance(item, str | os.PathLike):
        return None
    tensors = read_checkpoint(Path(item)).matched(architecture.tensor).state_dict
    check_state_dict(architecture, tensors)
    return MappedNetwork(architecture, tensors)


def read_network(
    item: Any,
    example_inputs: Any,
    architecture: Architecture | None,
    known: Collection[Architecture],
) -> ParameterGraph:
    """A parameter graph of a graph, a module or a checkpoint file.

    Args:
        example_inputs: What the module's forward takes, to trace it.
        architecture: Of the file or module; without it and without `example_inputs`, the one
            of `known` that has these names and shapes.

    Raises:
        ValueError: something else, a file that cannot be read, none or several that fit.
    """
    if isinstance(item, ParameterGraph):
        return item
    if isinstance(item, nn.Module) and example_inputs is not None:
        return to_graph(item, example_inputs)
    if isinstance(item, nn.Module):
        found = Checkpoint(Path(type(item).__name__), dict(item.state_dict()))
    elif isinstance(item, str | os.PathLike):
        found = read_checkpoint(Path(item))
    else:
        raise ValueError(
            f"cannot encode a {type(item).__name__}: pass parameter graphs, modules or files"
        )
    if architecture is None:
        return _recognise(found, known)
    return ParameterGraph.from_state_dict(
        architecture, found.matched(architecture.tensor).state_dict
    )


def _recognise(found: Checkpoint, known: Collection[Architecture]) -> ParameterGraph:
    fitting = []
    for candidate in known:
        state = found.matched(candidate.tensor).state_dict
        try:
            fitting.append(ParameterGraph.from_state_dict(candidate, state))
        except ValueError:
            continue
    if len(fitting) == 1:
        return fitting[0]
    close = [g.architecture for g in fitting] or list(known)
    names = ", ".join(a.name for a in close) or "none"
    what = (
        f"fits {len(fitting)} architectures that differ in what no weight shows ({names})"
        if fitting
        else f"fits none of the architectures that this model was trained on ({names})"
    )
    raise ValueError(
        f"{found.path}: {what}. Pass architecture= (--architecture), or a module with "
        "example_inputs=, or a graph from graphrep.to_graph(module, example_inputs)."
    )
