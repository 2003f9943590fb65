"""Checkpoint files of many designs -> parameter graphs, each design traced once.

A design is told, without running it, by what builds it (a factory, a folder's config.json,
or the tensors themselves for a plain chain) and by the names, shapes and types of its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...architecture import Architecture
from ...architecture.reorder import tensor_of
from ...checkpoint import Checkpoint, read_checkpoint
from ...checkpoint.shards import read_json
from ...graph import ParameterGraph
from ...loading import load_graph

Outline: TypeAlias = tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape, type
LONGEST_REASON = 600  # letters; a mismatch of networks lists tensors
# What of a config.json changes no number that the network computes.
INERT = {"_name_or_path", "transformers_version", "id2label", "label2id", "torch_dtype", "dtype"}


@dataclass(frozen=True)
class Opened:
    """A file's network, what was assumed to get it, and what else the file says of it."""

    graph: ParameterGraph
    notes: tuple[str, ...]
    extra: Mapping[str, float | int | str]


@dataclass(frozen=True)
class _Design:
    architecture: Architecture
    assumed: tuple[str, ...]  # the notes that hold for each file of this design


class Designs:
    """Opens files and remembers the architectures; equal ones are one object."""

    def __init__(self) -> None:
        self._designs: dict[Hashable, _Design] = {}
        self._architectures: dict[Hashable, Architecture] = {}
        self.num_traced = 0

    def open(
        self, path: Path, model: Any = None, input_shape: Sequence[Any] | None = None
    ) -> Opened:
        """The graph of a file or folder, as `graphrep.load_graph` gives it.

        Raises:
            ValueError: cannot be taken; says why, without the path.
        """
        try:
            return self._open(path, model, input_shape)
        except ValueError as error:
            raise ValueError(reason_of(error, path)) from error
        except Exception as error:  # a user's factory may fail in any way, a disk in many
            place = "" if model is None else f"model {model}: "
            name = type(error).__name__
            raise ValueError(f"{place}{name}: {reason_of(error, path)}") from error

    def _open(self, path: Path, model: Any, input_shape: Sequence[Any] | None) -> Opened:
        from ...loading.onnx import is_onnx

        if is_onnx(path):
            loaded = load_graph(path, model=model, input_shape=input_shape)
            self.num_traced += 1
            return Opened(self._shared(loaded.graph, loaded.module), loaded.notes, {})
        checkpoint = read_checkpoint(path)
        folder = model is None and path.is_dir()
        source = frame_of(path) if folder else model
        key = (source, json.dumps(input_shape), outline_of(checkpoint))
        design = self._designs.get(key)
        if design is not None:
            graph = _fill(design.architecture, checkpoint)
            if graph is not None:
                return Opened(graph, (*_steps(checkpoint), *design.assumed), checkpoint.extra)
        loaded = load_graph(path, model=model, input_shape=input_shape)
        self.num_traced += 1
        graph = self._shared(loaded.graph, loaded.module)
        if not folder or _holds(graph, checkpoint):
            steps = set(_steps(checkpoint))
            assumed = tuple(n for n in loaded.notes if n not in steps)
            self._designs[key] = _Design(graph.architecture, assumed)
        return Opened(graph, loaded.notes, checkpoint.extra)

    def _shared(self, graph: ParameterGraph, module: Any) -> ParameterGraph:
        """The same graph with the first architecture of its design, called after its class."""
        found = graph.architecture
        named = replace(found, name=type(module).__name__)
        known = self._architectures.setdefault((found.fingerprint, found.constants), named)
        return replace(graph, architecture=known)


def outline_of(checkpoint: Checkpoint) -> Outline:
    """Names, shapes and types of a checkpoint's tensors, in its order."""
    return tuple((n, tuple(v.shape), str(v.dtype)) for n, v in checkpoint.state_dict.items())


def frame_of(folder: Path) -> str:
    """A folder's config.json without what changes nothing in the network, as one text.

    Raises:
        ValueError: no config.json, or none that can be read.
    """
    content = read_json(folder / "config.json")
    return json.dumps({k: v for k, v in content.items() if k not in INERT}, sort_keys=True)


def reason_of(error: Exception, path: Path) -> str:
    """An error's text in one line, without where on this machine the file or folder stands."""
    text = str(error).removeprefix(f"{path}: ")
    for place in (path, path.parent):
        text = text.replace(f"{place}/", "")
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 4] + " ..."


def _steps(checkpoint: Checkpoint) -> tuple[str, ...]:
    return (*(f"unwrapped {step}" for step in checkpoint.unwrapped), *checkpoint.special)


def _state(architecture: Architecture, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The checkpoint's tensors by the architecture's names; tied ones may lack in files."""
    state = dict(checkpoint.matched(architecture.tensor).state_dict)
    for spec in architecture.tensors:
        if spec.tied_to in state and spec.name not in state:
            state[spec.name] = state[spec.tied_to]
    return state


def _fill(architecture: Architecture, checkpoint: Checkpoint) -> ParameterGraph | None:
    """The checkpoint's values in a known design; None where the design rests on other ones."""
    state = _state(architecture, checkpoint)
    if architecture.other_constants(state):
        return None
    return ParameterGraph.from_state_dict(architecture, state)


def _holds(graph: ParameterGraph, checkpoint: Checkpoint) -> bool:
    """Whether the graph has the file's values under the file's names, as they are.

    What transformers renames, joins or splits has to go through transformers each time.
    """
    state = _state(graph.architecture, checkpoint)
    tensors = graph.architecture.tensor
    if not set(state) <= set(tensors):
        return False
    for name, spec in tensors.items():
        found = state.get(name)
        if found is None and not name.endswith("num_batches_tracked"):
            return False
        if found is not None and spec.offset is not None:
            own = tensor_of(spec, graph.theta)
            equal = own.shape == found.shape and torch.equal(own, found.to(own.dtype))
            if not equal:
                return False
    return True
