"""Representations of networks as a scikit-learn transformer, for pipelines and searches.

Knows scikit-learn's conventions; what an embedding is and how it is trained stands in
`representation` and `training`. This module imports scikit-learn, so nothing imports it
but who asks for `graphrep.NetworkEmbedding`.

Letters in shapes: N networks, P parameters of one, D of an embedding.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .architecture import Architecture
from .architecture.spec import Block, Span, TensorSpec
from .encoders import ENCODERS
from .graph import ParameterGraph
from .model import ModelConfig, WeightModel
from .representation import Representation
from .training import Networks, SelfSupervisedConfig, TrainingConfig, build_objective, train
from .zoo import Zoo

VALIDATION_SHARE = 0.1  # of the networks, held out of training to choose the best step
_SOURCES = (ParameterGraph, nn.Module, str, os.PathLike)


class NetworkEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Networks in, embeddings [N, D] out.

    X is a sequence of networks (parameter graphs, modules, checkpoint files; a `Zoo` or its
    `graphs`), embedded in float32; or an array [N, P] of parameters in rows, embedded in its
    own float type.

    Parameters
    ----------
    representation : Representation, path or None
        What embeds: a trained one, or where it is saved (a folder, runs:/..., models:/...);
        `fit` then learns nothing. With None, `fit` trains a new one on X, without labels.
    architecture : Architecture or None
        Of an array's rows, of files and of modules. With None, files and modules are
        looked up among the architectures that the representation knows, and so are arrays
        by their width; where there is no trained representation, rows are taken for
        vectors without structure, of which layer statistics and tokens remain.
    example_inputs : what the modules' forward takes, to trace them, or None
    encoder : str
        Of a new representation: "graph", "token", "statistics" ...
    num_steps : int
        Of training a new representation; 0 fits the weights' scale alone.
    batch_size : int
        Networks of one architecture at a time, in training too.
    device : str or None
        Where embeddings are computed; None is where the representation is.
    random_state : int, RandomState instance or None
        Decides initial weights and training.

    Attributes
    ----------
    representation_ : Representation
    n_features_in_ : int
        P, where X was an array.
    """

    def __init__(
        self,
        representation: Representation | str | os.PathLike[str] | None = None,
        *,
        architecture: Architecture | None = None,
        example_inputs: Any = None,
        encoder: str = "graph",
        num_steps: int = 500,
        batch_size: int = 32,
        device: str | None = None,
        random_state: Any = 0,
    ) -> None:
        self.representation = representation
        self.architecture = architecture
        self.example_inputs = example_inputs
        self.encoder = encoder
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> NetworkEmbedding:
        """Load the representation, or train one on X; y is not looked at.

        Raises:
            ValueError: X that cannot be read or is not finite, an unknown encoder, or files
                and modules of which nothing tells the architecture.
        """
        if self.batch_size < 1 or self.num_steps < 0:
            raise ValueError(
                "NetworkEmbedding needs batch_size >= 1 and num_steps >= 0, got "
                f"{self.batch_size} and {self.num_steps}"
            )
        rows = None if _holds_networks(X) else self._rows(X, reset=True)
        if self.representation is None:
            groups = self._groups(X) if rows is None else [(self._of(rows), torch.tensor(rows))]
            self.representation_ = self._learn([(a, theta.float()) for a, theta in groups])
        elif isinstance(self.representation, Representation):
            self.representation_ = self.representation
            if self.device is not None:  # moving it would move the caller's
                self.representation_ = copy.deepcopy(self.representation)
        else:
            self.representation_ = Representation.from_pretrained(self.representation)
        self.representation_.to(self.device)
        if rows is not None:
            self._of(rows)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embeddings [N, D], float32 for networks, else of X's float type.

        Raises:
            ValueError: as `Representation.encode`, or rows of another length than fitted.
        """
        check_is_fitted(self)
        if _holds_networks(X):
            found = self.representation_.encode(
                _listed(X),
                self.batch_size,
                example_inputs=self.example_inputs,
                architecture=self.architecture,
            )
            return np.asarray(found)
        rows = self._rows(X, reset=False)
        architecture = self._of(rows)
        embedder = self.representation_
        if rows.dtype == np.float64:
            embedder = Representation(copy.deepcopy(embedder.model).double())
        parts = range(0, len(rows), self.batch_size)
        embedded = [
            embedder.embed_rows(torch.tensor(rows[i : i + self.batch_size]), architecture).cpu()
            for i in parts
        ]
        return torch.cat(embedded).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.representation_.model.embedding_dim

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _rows(self, X: Any, reset: bool) -> np.ndarray:
        """X as an array [N, P] of float32 or float64."""
        rows = validate_data(self, X, dtype=(np.float64, np.float32), order="C", reset=reset)
        return np.asarray(rows)

    def _of(self, rows: np.ndarray) -> Architecture:
        """The architecture of rows [N, P]."""
        num = rows.shape[1]
        if self.architecture is not None:
            if self.architecture.num_parameters != num:
                raise ValueError(
                    f"X has rows of {num} numbers, but architecture '{self.architecture.name}' "
                    f"has {self.architecture.num_parameters} parameters"
                )
            return self.architecture
        if self.representation is None:
            return vector_architecture(num)
        known = [a for a in self.representation_.architectures.values() if a.num_parameters == num]
        if len(known) == 1:
            return known[0]
        names = ", ".join(a.name for a in known) or "none"
        raise ValueError(
            f"X has rows of {num} numbers, and the representation knows {len(known)} "
            f"architectures with as many parameters ({names}). Pass architecture="
        )

    def _groups(self, X: Any) -> list[tuple[Architecture, Tensor]]:
        """The networks of X by architecture, theta [M, P] each."""
        reader = Representation(self._new_model())
        groups: dict[str, list[ParameterGraph]] = {}
        for item in _listed(X):
            graph = reader.read_graph(item, self.example_inputs, self.architecture)
            graph.require_values("fit")
            groups.setdefault(graph.architecture.fingerprint, []).append(graph)
        return [
            (members[0].architecture, torch.stack([graph.theta for graph in members]))
            for members in groups.values()
        ]

    def _new_model(self, seed: int = 0) -> WeightModel:
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got '{self.encoder}'")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return WeightModel(ModelConfig(encoder=ENCODERS[self.encoder]()))

    def _learn(self, groups: Sequence[tuple[Architecture, Tensor]]) -> Representation:
        """A new representation, trained without labels."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = self._new_model(seed)
        architectures = [architecture for architecture, _ in groups]
        if self.num_steps == 0:
            model.fit_scaling(groups)
            return Representation(model, architectures)
        training, validation = [], []
        generator = torch.Generator().manual_seed(seed)
        for architecture, theta in groups:
            order = torch.randperm(len(theta), generator=generator)
            held_out = int(VALIDATION_SHARE * len(theta))
            training.append(Networks(architecture, theta[order[held_out:]]))
            if held_out:
                validation.append(Networks(architecture, theta[order[:held_out]]))
        config = TrainingConfig(
            seed=seed,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            validate_every=max(1, self.num_steps // 5),
        )
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(seed)
            objective = build_objective(SelfSupervisedConfig(), model)
            train(model, objective, training, validation, config, Path(folder) / "training")
        return Representation(model, architectures)


def vector_architecture(num: int) -> Architecture:
    """Of `num` numbers of which nothing is known: one opaque tensor."""
    return Architecture(
        name=f"vector-{num}",
        units=(),
        blocks=(
            Block(
                name="vector",
                tensor="vector",
                kind="opaque",
                role="opaque",
                axes=(Span(units=None, size=1, slots=num),),
            ),
        ),
        tensors=(
            TensorSpec(name="vector", shape=(num,), dtype="float32", role="parameter", offset=0),
        ),
    )


def _holds_networks(X: Any) -> bool:
    """Whether X is a sequence of networks, rather than an array of numbers.

    Raises:
        ValueError: it is one network alone.
    """
    if isinstance(X, _SOURCES):
        raise ValueError(f"X must be a list of networks, got one {type(X).__name__}; put it in []")
    if isinstance(X, Zoo):
        return True
    if getattr(X, "ndim", 1) != 1 or not hasattr(X, "__len__") or len(X) == 0:
        return False
    return isinstance(next(iter(X)), _SOURCES)


def _listed(X: Any) -> list[Any]:
    return list(X.graphs if isinstance(X, Zoo) else X)
