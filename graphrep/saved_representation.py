"""The saved form of a representation: config.json and model.safetensors, and nothing pickled.

What `Representation.save_pretrained` writes and `from_pretrained` reads; knows no hub.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .architecture import Architecture
from .decoders import DecoderConfig
from .encoders import ENCODERS
from .files import sha256
from .model import ModelConfig, WeightModel
from .symmetry import Rescalings

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, eq=False)
class Anchors:
    """Networks that sampling starts from: token latents [A, T, Z] of one architecture."""

    architecture: Architecture
    latents: Tensor
    buffers: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SavedRepresentation:
    """What the files hold: a model, the architectures it knows, and what it samples near."""

    model: WeightModel
    architectures: Sequence[Architecture]
    anchors: Sequence[Anchors]
    decodes: bool  # whether the decoder was trained

    def write(self, folder: Path) -> None:
        """Both files, each moved into place when complete."""
        from safetensors.torch import save_file

        config = {
            "format": FORMAT,
            "model": asdict(self.model.config),
            "architectures": [json.loads(a.to_json()) for a in self.architectures],
            "anchors": [a.architecture.fingerprint for a in self.anchors],
            "decodes": self.decodes,
            "rescalings": [r.to_json() for r in self.model.rescalings.values()],
        }
        tensors = {f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items()}
        for number, anchors in enumerate(self.anchors):
            tensors[f"anchors.{number}.latents"] = anchors.latents.contiguous()
            for name, value in anchors.buffers.items():
                tensors[f"anchors.{number}.buffers.{name}"] = value.contiguous()
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
        try:
            save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
            config["sha256"] = sha256(partial / WEIGHTS)
            (partial / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))
            for name in (WEIGHTS, CONFIG):
                os.replace(partial / name, folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def read(cls, folder: Path) -> SavedRepresentation:
        """What `write` wrote.

        Raises:
            ValueError: files missing, damaged, of another save or another format.
        """
        from safetensors.torch import load_file

        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder}: holds no {name}; is this a saved Representation?")
        try:
            config = json.loads((folder / CONFIG).read_text())
            if config["format"] != FORMAT:
                raise ValueError(f"format {config['format']}, this version reads {FORMAT}")
            if config["sha256"] != sha256(folder / WEIGHTS):
                raise ValueError(f"{WEIGHTS} is not the one that {CONFIG} was saved with")
            tensors = load_file(folder / WEIGHTS)
            model = WeightModel(_model_config(config["model"]))
            model.load_state_dict(_under("model.", tensors))
            architectures = [Architecture.from_json(json.dumps(a)) for a in config["architectures"]]
            model.learn_rescalings(map(Rescalings.from_json, config.get("rescalings", ())))
            known = {a.fingerprint: a for a in architectures}
            anchors = [
                Anchors(
                    known[fingerprint],
                    tensors[f"anchors.{number}.latents"],
                    _under(f"anchors.{number}.buffers.", tensors),
                )
                for number, fingerprint in enumerate(config["anchors"])
            ]
        except Exception as error:
            raise ValueError(f"{folder}: not a readable Representation: {error}") from error
        return cls(model, architectures, anchors, config.get("decodes", True))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _model_config(content: dict[str, Any]) -> ModelConfig:
    encoder = content.pop("encoder")
    return ModelConfig(
        encoder=ENCODERS[encoder["name"]](**encoder),
        decoder=DecoderConfig(**content.pop("decoder")),
        **content,
    )
