"""The small CNN zoo of Unterthiner et al.: one matrix of weights, a table of metrics.

Layout: `weights.npy` [N, P], a checkpoint a row; `metrics.csv.gz`, a line for each row of it
(`modeldir`, `step`, `config.*`, metrics); `layout.csv`, which columns hold which variable
(varname, start_idx, end_idx, shape). Variables are TensorFlow's: a convolution's kernel is
height x width x in x out, a dense one in x out, and biases come before their kernels.

The published network (P = 4,970) has three convolutions of 16 channels, 3 x 3, with stride 2
and no padding, an average over the image and a dense layer to 10 classes. `config.l2reg`
becomes weight_decay; Keras adds l2reg * |w|^2 to the loss, so that its gradient is twice that
of a weight decay of the same number.

Source: Unterthiner et al. 2020, arXiv:2002.11448; google-research/dnn_predict_accuracy.
Letters in shapes: N rows, P parameters, C checkpoints of one model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...architecture import Architecture
from ..record import Record, Skipped
from .keras_chains import build_chain, describe_chain, read_layout
from .layers import TracedDesigns
from .property_tables import unreserved

if TYPE_CHECKING:
    import pandas as pd

FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")
METRICS = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
NAMES = {  # of config.*, where this project has another name
    "optimizer": "optimiser",
    "l2reg": "weight_decay",
    "w_init": "init",
    "b_init": "bias_init",
    "random_seed": "seed",
    "batchsize": "batch_size",
}
STRIDE = 2  # where config.cnn_stride does not say


class Unterthiner:
    """A folder with the three files, as `graphrep.zoo.formats.reader.Reader` describes.

    Opening reads the tables and maps the weights; a model's rows are read when it is.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        missing = [name for name in FILES if not (self.source / name).is_file()]
        if missing:
            raise ValueError(
                f"{self.source}: has no {', '.join(missing)}. The small CNN zoo is a folder with "
                f"{', '.join(FILES)}, as each of its archives unpacks to."
            )
        self._variables = read_layout(self.source / "layout.csv")
        self._weights = self._open_weights()
        self._metrics = self._read_metrics()
        self._rows = _rows_by_model(self._metrics)
        self._designs = TracedDesigns(build)
        self._orders: dict[str, np.ndarray] = {}
        self.title = self.source.resolve().name
        self.facts = {
            "source": "Unterthiner et al. 2020, arXiv:2002.11448",
            "num_checkpoints": len(self._weights),
            "layout": [
                {"name": v.name, "start": v.start, "shape": list(v.shape)} for v in self._variables
            ],
        }

    def names(self) -> Sequence[str]:
        """The models' folders, without what they have in common, in the order of the table."""
        return list(self._rows)

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One model with its checkpoints by step; of a step that occurs twice the last.

        Raises:
            ValueError: a step that is no number, or an unknown activation.
        """
        rows = self._rows[name]
        steps = self._metrics["step"].to_numpy()[rows]
        if not np.isfinite(steps).all():
            raise ValueError(f"row {rows[~np.isfinite(steps)][0]} of metrics.csv.gz has no step")
        order = np.argsort(steps, kind="stable")
        rows, steps = rows[order], steps[order]
        last = np.append(steps[1:] != steps[:-1], True)
        for step in steps[~last]:
            reason = "the step occurs again; the last one was taken"
            yield Skipped(name=f"{name}/step_{int(step)}", reason=reason)
        rows, steps = rows[last], steps[last]
        properties = self._properties(int(rows[0]))
        design = describe_chain(
            self._variables,
            activation=str(properties.get("activation", "not given")),
            stride=int(properties.get("cnn_stride", STRIDE)),
            dtype=self._weights.dtype.name,
        )
        architecture = self._designs.architecture(design, _label(design))
        native = self._weights.dtype.newbyteorder("=")
        values = torch.from_numpy(
            self._weights[rows][:, self._order(architecture)].astype(native, copy=False)
        )
        yield Record(
            name=name,
            architecture=architecture,
            theta=values,
            rows=[
                _row(self._metrics.iloc[row], int(step), bool(theta.isfinite().all()))
                for row, step, theta in zip(rows, steps, values, strict=True)
            ],
            properties=properties,
            design=design,
        )

    def _order(self, architecture: Architecture) -> np.ndarray:
        """The column of the matrix that each number of theta is, int64 [P]."""
        if architecture.fingerprint not in self._orders:
            columns = {}
            for variable in self._variables:
                places = np.arange(variable.start, variable.end).reshape(variable.shape)
                columns[variable.key] = variable.to_torch(places).ravel()
            order = np.concatenate([columns[tensor.name] for tensor in architecture.stored])
            self._orders[architecture.fingerprint] = order
        return self._orders[architecture.fingerprint]

    def _properties(self, row: int) -> dict[str, Any]:
        line = self._metrics.iloc[row]
        columns = {}
        for key in self._metrics.columns:
            if key.startswith("config."):
                name = key.removeprefix("config.")
                columns[NAMES.get(name, name)] = _plain(line[key])
        return unreserved(columns)

    def _open_weights(self) -> np.ndarray:
        file, expected = self.source / "weights.npy", self._variables[-1].end
        try:
            weights = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{file}: not a readable array of numbers ({str(error)[:100]}). Was it cut short? "
                "Unpack the archive again."
            ) from error
        if weights.ndim != 2 or weights.shape[1] != expected or weights.dtype.kind != "f":
            raise ValueError(
                f"{file}: holds {weights.dtype} {list(weights.shape)}, but layout.csv describes "
                f"floating-point numbers [N, {expected}]. Are both files of one zoo?"
            )
        return weights

    def _read_metrics(self) -> pd.DataFrame:
        import pandas as pd

        file = self.source / "metrics.csv.gz"
        try:
            metrics = pd.read_csv(file)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{file}: not a readable gzipped table ({str(error)[:100]}). Unpack the archive "
                "again."
            ) from error
        if missing := [c for c in ("modeldir", "step") if c not in metrics]:
            raise ValueError(
                f"{file}: has no column {', '.join(missing)}; found "
                f"{', '.join(map(str, metrics.columns))}."
            )
        if len(metrics) != len(self._weights):
            raise ValueError(
                f"{file}: has {len(metrics):,} lines, but weights.npy {len(self._weights):,} rows; "
                "expected a line for each row. Are both files of one zoo?"
            )
        metrics["step"] = pd.to_numeric(metrics["step"], errors="coerce")
        return metrics


def build(design: Mapping[str, Any]) -> nn.Module:
    """The module of a design of the kind `unterthiner`, with values yet to be loaded."""
    return build_chain(design)


def _label(design: Mapping[str, Any]) -> str:
    widths = [shape[0] for shape in design["shapes"]]
    return "-".join(["keras", *map(str, widths), design["activation"]])


def _rows_by_model(metrics: pd.DataFrame) -> dict[str, np.ndarray]:
    """The rows of each model, by what is its own in its folder's path, in order of appearance."""
    folders = metrics["modeldir"].astype(str)
    found = {
        str(key): np.asarray(rows)
        for key, rows in folders.groupby(folders, sort=False).indices.items()
    }
    common = os.path.commonpath(found) if len({f.startswith("/") for f in found}) == 1 else ""
    if len(found) == 1:
        common = os.path.dirname(common)
    start = len(common) + (bool(common) and not common.endswith("/"))
    return {folder[start:] or folder: rows for folder, rows in found.items()}


def _row(line: Mapping[str, Any], step: int, finite: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"epoch": step, **{name: _plain(line.get(name)) for name in METRICS}}
    train, test = row["train_accuracy"], row["test_accuracy"]
    row["generalisation_gap"] = None if train is None or test is None else train - test
    return {**row, "diverged": not finite}


def _plain(value: Any) -> str | int | float | bool | None:
    """A value of the table as Python has it; None where it is empty."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value is None or value != value else value
