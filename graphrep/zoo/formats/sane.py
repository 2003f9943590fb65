"""SANE's preprocessed data sets: tokens back to theta.

Layout: a folder `dataset_torch.{train,val,test}` with a file `sample_{i}.pt` a sample, each
{w [1+K, W, D], m [W, D], p [W, 3], props}: the tokens as they were aligned first, then K
permuted copies of them; mask; positions; properties as numbers. Beside the folders
`dataset_normalization_{split}.json` (how each layer was scaled) and
`dataset_info_{split}.json` (what props are, which epochs were taken, how many samples there
are). A sample holds a window of W tokens, cut at random; with `supersample` above 1 there are
further files of other windows of the same samples, `num_samples` apart. A model comes back only
where its windows cover all of its tokens.

Only the first of the copies is read. The weights are those after alignment: the same functions
as in the raw zoo, their units in another order. The files tell neither hyper-parameters nor the
activation.

Source: Schürholt et al. 2024, arXiv:2406.09997; HSG-AIML/SANE, dataset_preprocessing.py.
Letters in shapes: T tokens of a model, W of a window, D numbers a token, K copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...graph import ParameterGraph
from ..record import Record, Skipped
from .layers import TracedDesigns
from .modelzoos import build
from .sane_files import SPLITS, Split, open_split, read_sample, split_names
from .sane_target import Target, recognise, target_of_checkpoint, target_of_model
from .sane_tokens import found_row_shapes, join_tokens, undo_scaling

COLUMNS = {"test_acc": "test_accuracy", "train_acc": "train_accuracy", "ggap": "generalisation_gap"}
COLUMNS |= {"test_loss": "test_loss", "train_loss": "train_loss"}
NOT_MEASURED = -900.0  # an untrained network has training metrics of -999; a gap lies near


class Sane:
    """A folder of preprocessed splits, as `graphrep.zoo.formats.reader.Reader` describes.

    Args:
        activation: Of the ModelZoos' networks, recognised by their rows; the files lack it.
        model: `package.module:factory` of any other network; takes `input_shape` as elsewhere.
        reference: Or a checkpoint of the ModelZoos that has the network's names and shapes.
        fill_missing: Take what tokens do not hold (normalisations, if they were left out) from
            the model or reference; by default such a model is not taken.
        scaled: False says that the tokens were never scaled, where the file is missing.
        epochs_per_model: How many samples in a row are checkpoints of one model; by default
            as many as the info file lists epochs, if the number of samples is a multiple.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        activation: str | None = None,
        model: str | None = None,
        input_shape: str | Sequence[int] | None = None,
        reference: str | Path | None = None,
        fill_missing: bool = False,
        scaled: bool = True,
        epochs_per_model: int | None = None,
    ) -> None:
        if model is not None and reference is not None:
            raise ValueError("model and reference both name the network; pass one of them")
        self.source = Path(source)
        self.activation = activation
        self.fill_missing = fill_missing
        self._splits = {
            split: open_split(self.source, split, scaled, epochs_per_model)
            for split in split_names(self.source)
        }
        self._samples = _samples_by_name(self._splits)
        self._designs = TracedDesigns(build)
        self._recognised: dict[tuple[tuple[int, int], ...], Target] = {}
        self._named: Target | None = None
        if model is not None:
            self._named = target_of_model(model, input_shape)
        elif reference is not None:
            self._named = target_of_checkpoint(reference, activation or "", self._designs)
        self.title = self.source.resolve().name
        self.facts = {
            "info": {
                split: json.loads(json.dumps(dict(s.info)), parse_constant=str)
                for split, s in self._splits.items()
                if s.info
            },
        }

    def names(self) -> Sequence[str]:
        """`train/sample_0`, or `train/sample_0-4` for a model's samples, in order."""
        return list(self._samples)

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One model with its checkpoints in the order of its samples.

        Raises:
            ValueError: no sample of it can be taken, its samples are not of one model, or its
                network is not known.
        """
        split_name, samples = self._samples[name]
        split = self._splits[split_name]
        graphs, rows, skipped = [], [], []
        filled = 0
        for sample in samples:
            try:
                tokens, mask, position, props = read_sample(split, sample)
                target, graph, filled = self._graph(split, tokens, mask, position)
            except ValueError as error:
                skipped.append(Skipped(name=f"{split_name}/sample_{sample}", reason=str(error)))
                continue
            finite = bool(graph.theta.isfinite().all())
            graphs.append(graph)
            rows.append({**_to_row(split.properties, props), "diverged": not finite})
        if not graphs:
            raise ValueError(skipped[0].reason)
        _check_epochs(split, samples, skipped, rows)
        if any(graph.architecture != graphs[0].architecture for graph in graphs):
            raise ValueError("its samples are of several networks; pass epochs_per_model=1")
        yield Record.from_graphs(
            name,
            graphs,
            rows,
            properties={"filled_parameters": filled} if filled else {},
            design=target.design,
            split=SPLITS[split_name],
        )
        yield from skipped

    def _graph(
        self, split: Split, tokens: Tensor, mask: Tensor, position: Tensor
    ) -> tuple[Target, ParameterGraph, int]:
        """The network of a whole model's tokens, and how many of its numbers they lack."""
        found = found_row_shapes(mask, position)
        target = self._named or self._recognise(split, found)
        layers = target.layers_for(found)
        values = undo_scaling(join_tokens(tokens, layers), layers, split.scales)
        stored = [tensor.name for tensor in target.architecture.stored]
        missing = [key for key in stored if key not in values]
        if missing and not self.fill_missing:
            raise ValueError(
                f"its tokens hold no {', '.join(missing[:3])} ({len(missing)} tensors in all); "
                "normalisations were left out when they were made. Pass fill_missing=true with "
                "model= or reference= to take them from there, or import the raw zoo."
            )
        state = {
            key: values.get(key, value)
            for key, value in target.state.items()
            if not key.endswith("num_batches_tracked")  # of training, which tokens do not tell
        }
        num_filled = sum(target.state[key].numel() for key in missing)
        graph = ParameterGraph.from_state_dict(target.architecture, state)
        return target, graph, num_filled

    def _recognise(self, split: Split, found: list[tuple[int, int]]) -> Target:
        key = tuple(found)
        if key not in self._recognised:
            names = [name for name in split.scales if name != "mode"]
            self._recognised[key] = recognise(found, names, self.activation, self._designs)
        return self._recognised[key]


def _samples_by_name(splits: Mapping[str, Split]) -> dict[str, tuple[str, range]]:
    named = {}
    for name, split in splits.items():
        group = len(split.epochs)
        for first in range(0, split.num_samples, group):
            last = f"-{first + group - 1}" if group > 1 else ""
            named[f"{name}/sample_{first}{last}"] = (name, range(first, first + group))
    return named


def _to_row(names: Sequence[str], props: Tensor) -> dict[str, Any]:
    """The properties of one sample as columns."""
    if len(names) != len(props):
        raise ValueError(f"has {len(props)} properties, expected {', '.join(names)}")
    values = dict(zip(names, props.tolist(), strict=True))
    epoch = values.pop("training_iteration", None)
    row: dict[str, Any] = {"epoch": None if epoch is None else int(epoch)}
    for name, value in values.items():
        missing = name in COLUMNS and value <= NOT_MEASURED
        row[COLUMNS.get(name, name)] = None if missing else value
    return row


def _check_epochs(
    split: Split,
    samples: range,
    skipped: Sequence[Skipped],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Refuse a group of samples that are not one model's checkpoints, as far as epochs tell."""
    found = [row["epoch"] for row in rows]
    lost = {int(s.name.rpartition("_")[2]) for s in skipped}
    expected = [e for e, s in zip(split.epochs, samples, strict=True) if s not in lost]
    if -1 not in expected and None not in found and found != expected:
        raise ValueError(
            f"its samples are of epochs {found}, expected {expected}: checkpoints were left out "
            "when they were written, so that samples cannot be told into models. Pass "
            "epochs_per_model=1."
        )
