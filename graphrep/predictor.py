"""A trained predictor of properties: which network is good, from its weights alone.

predictor = PropertyPredictor.from_pretrained("runs/train/zoo/graph-seed0/model")
predictor.predict(graphs)              # a row a network, a column a property

Its folder holds a whole Representation and, beside it, the head; so whatever takes a
representation takes a predictor's folder too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .architecture import Architecture
from .files import sha256, write_json, write_whole
from .parsing import parse_dataclass
from .recognition import Input
from .representation import HUB_NAME, Representation
from .training.objectives.property_head import HeadConfig, PropertyHead, Target

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_DESCRIPTION, _TENSORS, _MODEL = "predictor.json", "predictor.safetensors", "model.safetensors"


class PropertyPredictor:
    """A representation and a head, trained together with `objective=property`."""

    def __init__(self, representation: Representation, head: PropertyHead) -> None:
        self.representation, self.head = representation, head.eval()

    def predict(
        self,
        inputs: Input | Sequence[Input],
        batch_size: int = 32,
        *,
        example_inputs: Any = None,
        architecture: Architecture | None = None,
    ) -> pd.DataFrame:
        """Properties of networks, a row each in the order given.

        Args:
            inputs: As `Representation.encode` takes them; one gives one row.

        Returns:
            A column a property in natural units. A category has one with the likeliest class
            and one a class, `name=class`, with its probability.

        Raises:
            ValueError: as `Representation.encode`.
        """
        import pandas as pd

        embedding = self.representation.encode(
            inputs, batch_size, example_inputs=example_inputs, architecture=architecture
        )
        with torch.no_grad():
            outputs = self.head(torch.as_tensor(np.atleast_2d(embedding)))
        found = self.head.natural(outputs).numpy()
        table = pd.DataFrame(found, columns=list(self.head.columns))
        for target in reversed(self.head.targets):
            if target.kind == "category":
                shares = table[[f"{target.name}={label}" for label in target.categories]]
                best = np.array(target.categories)[shares.to_numpy().argmax(1)]
                table.insert(list(table.columns).index(shares.columns[0]), target.name, best)
        return table

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """The representation's files, predictor.json and predictor.safetensors."""
        from safetensors.torch import save_file

        place = Path(folder)
        self.representation.save_pretrained(place)
        tensors = {name: value.contiguous() for name, value in self.head.state_dict().items()}
        write_whole(place / _TENSORS, lambda path: save_file(tensors, path, {"format": "pt"}))
        description = {
            "format": FORMAT,
            "embedding_dim": self.representation.model.embedding_dim,
            "head": asdict(self.head.config),
            "targets": [asdict(target) for target in self.head.targets],
            "sha256": {name: sha256(place / name) for name in (_TENSORS, _MODEL)},
        }
        write_json(place / _DESCRIPTION, description, indent=1)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> PropertyPredictor:
        """Load what `save_pretrained` wrote.

        Args:
            path: As for `Representation.from_pretrained`.

        Raises:
            ValueError: nothing there, another format, or damaged files.
        """
        from safetensors.torch import load_file

        folder = _folder(path)
        representation = Representation.from_pretrained(folder)
        for name in (_DESCRIPTION, _TENSORS):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{path}: holds no {name}, so it is a Representation that predicts nothing; "
                    "train one with objective=property, or probe it"
                )
        try:
            content = json.loads((folder / _DESCRIPTION).read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
            for name in (_TENSORS, _MODEL):
                if content["sha256"][name] != sha256(folder / name):
                    raise ValueError(f"{name} is not the one that {_DESCRIPTION} was saved with")
            targets = tuple(parse_dataclass(Target, t, "targets") for t in content["targets"])
            config = parse_dataclass(HeadConfig, content["head"], "head")
            head = PropertyHead(config, targets, int(content["embedding_dim"]))
            head.load_state_dict(load_file(folder / _TENSORS))
        except Exception as error:  # damaged JSON, missing keys and other shapes raise many kinds
            raise ValueError(f"{folder}: not a readable predictor: {error}") from error
        return cls(representation, head)


def _folder(path: str | os.PathLike[str]) -> Path:
    """The local folder of a model, whatever names it."""
    name = str(path)
    if name.startswith(("runs:/", "models:/")):
        from .tracking import resolve_model

        return resolve_model(name)
    if not Path(path).is_dir() and HUB_NAME.fullmatch(name):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name))
        except OSError as error:  # what the hub raises is one
            raise ValueError(
                f"{path}: neither a folder here nor a repository that the hub gives: {error}"
            ) from error
    return Path(path)
