"""A trained representation of networks: encode, sample, save, load.

representation = Representation.from_pretrained("runs/demo/graph/model")
representation.encode(graphs)          # [N, D]
representation.sample(10)              # new networks as parameter graphs
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn

from .architecture import Architecture
from .embedding_networks import embed_networks, embed_rows
from .graph import ParameterGraph
from .model import WeightModel
from .recognition import Input, MappedNetwork, read_mapped, read_network
from .sampling import Method, sample_latents
from .saved_representation import Anchors, SavedRepresentation
from .symmetry import align, derive_rescalings
from .training.answers import know_modules
from .zoo import Graphs

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name


class Representation(
    ModelHubMixin,
    library_name="graphrep",
    tags=["weight-space-learning"],
    license="mit",
):
    """A trained weight model, the architectures it was trained on, and anchors to sample from.

    With decodes=False the decoder is as it was drawn, and nothing is sampled.
    """

    def __init__(
        self,
        model: WeightModel,
        architectures: Sequence[Architecture] = (),
        anchors: Sequence[Anchors] = (),
        *,
        decodes: bool = True,
    ) -> None:
        self.model = model.eval()
        self.decodes = decodes  # whether the decoder was trained
        self.architectures = {a.fingerprint: a for a in architectures}
        self.anchors = {a.architecture.fingerprint: a for a in anchors}

    # Encoding -----------------------------------------------------------------

    def encode(
        self,
        inputs: Input | Sequence[Input],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        *,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        example_inputs: Any = None,
        architecture: Architecture | None = None,
    ) -> np.ndarray | Tensor:
        """Embed networks, in the order given; called as in sentence-transformers.

        The bits are decided by the model, the networks of each architecture in their order,
        `batch_size`, the number of torch's threads and the machine, nothing else. Matrix
        products sum in an order that depends on how many rows there are, so another batch
        size or more company may change the last digits (measured: 2e-6 of the spread);
        with batch_size=1 a network's bits do not depend on its company.

        Args:
            inputs: Parameter graphs, modules or checkpoint files, mixed at will; or one. A model
                that runs networks (`model.num_queries`) finds their modules in `zoo.graphs`.
            batch_size: Networks of one architecture at a time.
            show_progress_bar: On the terminal; None shows none.
            convert_to_numpy: An array; else a tensor, on the CPU.
            convert_to_tensor: The same the other way round; wins over convert_to_numpy.
            device: "cpu", "cuda" ...: the model is moved there and stays; None leaves it.
            normalize_embeddings: To length 1, so that a dot product is the cosine.
            example_inputs: What the modules' forward takes, to trace them.
            architecture: Of the files and modules. Without these two, names and shapes
                are looked up among the architectures that this model was trained on. Files of
                2**24 numbers and more whose architecture is given here stay on disk and are
                read block by block, so a model may be larger than the memory.

        Returns:
            float32 [N, D]; one input that is no list gives [D].

        Raises:
            ValueError: a file that cannot be read, an architecture that cannot be told, or a
                device that is not there.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.to(device)
        if isinstance(inputs, Graphs):
            know_modules(self.model.answers, inputs.zoo)
        one = isinstance(inputs, ParameterGraph | nn.Module | str | os.PathLike)
        listed: list[Any] = [inputs] if one else list(inputs)  # type: ignore[arg-type]
        networks = [self._network(item, example_inputs, architecture) for item in listed]
        result = embed_networks(self.model, networks, batch_size, bool(show_progress_bar))
        if normalize_embeddings:
            result = nn.functional.normalize(result)
        chosen = result[0] if one else result
        return chosen.numpy() if convert_to_numpy and not convert_to_tensor else chosen

    def _network(
        self, item: Any, example_inputs: Any, architecture: Architecture | None
    ) -> ParameterGraph | MappedNetwork:
        mapped = read_mapped(item, architecture) if self.model.streams else None
        if mapped is not None:
            return mapped
        graph = self.read_graph(item, example_inputs, architecture)
        graph.require_values("encode")
        if isinstance(item, nn.Module):
            self._learn_from(item, graph.architecture, example_inputs)
        return graph

    def _learn_from(self, module: nn.Module, architecture: Architecture, inputs: Any) -> None:
        """Of a new design what the model needs: its rescalings, how its networks are run."""
        known = architecture.fingerprint in self.model.rescalings
        if self.model.config.canonical and not known and inputs is not None:
            found = derive_rescalings(architecture, module, inputs)
            self.model.learn_rescalings([found])
        answers = self.model.answers
        if answers is not None and not answers.knows(architecture):
            answers.know(architecture, module, inputs if isinstance(inputs, Tensor) else None)

    def embed_rows(self, theta: Tensor, architecture: Architecture) -> Tensor:
        """Embeddings [B, D] of networks in rows, theta [B, P], where the model is, in one batch."""
        return embed_rows(self.model, theta, architecture)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device | None) -> Representation:
        """Move the model; None leaves it where it is.

        Raises:
            ValueError: no such device here.
        """
        if device is not None:
            try:
                self.model.to(device)
            except (RuntimeError, AssertionError) as error:  # torch raises both
                raise ValueError(f"device '{device}' cannot be used: {error}") from error
        return self

    def similarity(self, one: Any, other: Any) -> Tensor:
        """Cosine similarity of embeddings [N, D] and [M, D]: [N, M]."""
        a, b = (torch.atleast_2d(torch.as_tensor(x)) for x in (one, other))
        return nn.functional.normalize(a, dim=-1) @ nn.functional.normalize(b, dim=-1).T

    def read_graph(
        self, item: Any, example_inputs: Any, architecture: Architecture | None
    ) -> ParameterGraph:
        """A graph, module or file as a graph; see `graphrep.recognition.read_network`."""
        return read_network(item, example_inputs, architecture, self.architectures.values())

    # Sampling -----------------------------------------------------------------

    def fit_anchors(self, graphs: Sequence[ParameterGraph]) -> Representation:
        """Choose what `sample` draws near: networks that do well, of one or more architectures.

        Networks of one architecture are aligned to the first of them.

        Raises:
            ValueError: the decoder was not trained.
        """
        self._require_decoder()
        groups: dict[str, list[ParameterGraph]] = {}
        for graph in graphs:
            groups.setdefault(graph.architecture.fingerprint, []).append(graph)
        self.anchors = {}
        for fingerprint, members in groups.items():
            aligned = [members[0], *(align(g, members[0]) for g in members[1:])]
            architecture = members[0].architecture
            with torch.no_grad():
                theta = torch.stack([g.theta for g in aligned]).float().to(self.device)
                latents = self.model.encode(theta, architecture).tokens.cpu()
            buffers = {k: v.clone() for k, v in members[0].buffers.items()}
            self.anchors[fingerprint] = Anchors(architecture, latents, buffers)
            self.architectures.setdefault(fingerprint, architecture)
        return self

    def sample(
        self,
        num: int,
        *,
        method: Method = "joint",
        bandwidth: float = 0.2,
        seed: int = 0,
        architecture: Architecture | None = None,
    ) -> list[ParameterGraph]:
        """Decode `num` new networks from a kernel density over the anchors' token latents.

        Args:
            method: `joint` draws all tokens of a network together, `independent` each alone.
            bandwidth: In units of each latent's deviation over the anchors.
            architecture: One that has anchors; by default the one with most.

        Raises:
            ValueError: no anchors (call `fit_anchors`), none of this architecture, or a decoder
                that was not trained.
        """
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}")
        self._require_decoder()
        if not self.anchors:
            raise ValueError("no anchors to sample near: call fit_anchors(graphs) first")
        if architecture is None:
            chosen = max(self.anchors.values(), key=lambda a: len(a.latents))
        elif architecture.fingerprint in self.anchors:
            chosen = self.anchors[architecture.fingerprint]
        else:
            names = ", ".join(a.architecture.name for a in self.anchors.values())
            raise ValueError(f"no anchors of architecture '{architecture.name}', only of: {names}")
        latents = sample_latents(chosen.latents, num, method, bandwidth, seed)
        with torch.no_grad():
            theta = self.model.decode(latents.to(self.device), chosen.architecture).cpu()
        return [
            ParameterGraph(
                chosen.architecture,
                row.to(chosen.architecture.dtype),
                {k: v.clone() for k, v in chosen.buffers.items()},
            )
            for row in theta
        ]

    def _require_decoder(self) -> None:
        if not self.decodes:
            raise ValueError(
                "this model was trained by an objective that leaves the decoder as it was drawn, "
                "so its samples would be noise; train with objective=masked, sane, e_d, e_cd, "
                "behaviour or trajectory to sample networks"
            )

    # Files --------------------------------------------------------------------

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by `save_pretrained`, which adds the hub's model card."""
        architectures, anchors = tuple(self.architectures.values()), tuple(self.anchors.values())
        SavedRepresentation(self.model, architectures, anchors, self.decodes).write(save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: str | os.PathLike[str], **kwargs: Any
    ) -> Representation:
        """Load what `save_pretrained` wrote; it embeds to the same bits as what was saved.

        On the same machine and called alike: see `encode`. No file is unpickled.

        Args:
            path: A folder, `runs:/<run id>/<name>` or `models:/...` of MLflow, or a
                repository of the Hugging Face hub.

        Raises:
            ValueError: nothing there, another format, or damaged files.
        """
        if str(path).startswith(("runs:/", "models:/")):
            from .tracking import resolve_model

            path = resolve_model(str(path))
        if not Path(path).is_dir() and not HUB_NAME.fullmatch(str(path)):
            raise ValueError(f"{path}: no such folder; expected a saved Representation")
        try:
            return super().from_pretrained(str(path), **kwargs)
        except (OSError, HfHubHTTPError) as error:
            raise ValueError(
                f"{path}: neither a folder here nor a repository that the hub gives: {error}"
            ) from error

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: Any = None, **kwargs: Any
    ) -> Representation:
        folder = Path(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            hub = {
                k: kwargs[k]
                for k in ("revision", "cache_dir", "token", "local_files_only")
                if k in kwargs
            }
            folder = Path(snapshot_download(model_id, **hub))
        saved = SavedRepresentation.read(folder)
        return cls(saved.model, saved.architectures, saved.anchors, decodes=saved.decodes)
