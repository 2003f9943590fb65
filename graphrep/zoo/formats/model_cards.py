"""What stands beside a saved model, as plain columns: its card, its config, its trainer's files.

Cards are parsed by huggingface_hub, which reads their YAML safely. Knows no weights. Whatever
cannot be read is a note, since the weights are there all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ...checkpoint.shards import read_json

Columns: TypeAlias = dict[str, str | int | float | bool]
EvalResult: TypeAlias = Any  # of huggingface_hub
CARD = "README.md"
LONGEST_CARD = 4 << 20  # bytes
ABOUT = ("license", "datasets", "base_model", "pipeline_tag", "tags", "language", "library_name")
TRAINER_STATE = "trainer_state.json"
RESULTS = ("train_results.json", "eval_results.json", "all_results.json")  # later ones are surer


def read_card(folder: Path) -> tuple[Columns, tuple[str, ...]]:
    """Metadata and metrics of a folder's model card, and notes on what could not be read.

    A metric's column is its type (accuracy) where the card names one data set, else with the
    data set before it (imdb/accuracy).
    """
    path = folder / CARD
    if not path.is_file():
        return {}, ()
    from huggingface_hub import ModelCard

    if path.stat().st_size > LONGEST_CARD:
        return {}, (f"{CARD} is longer than {LONGEST_CARD:,} bytes and was not read",)
    notes: tuple[str, ...] = ()
    with _quiet():
        try:
            data = ModelCard.load(path).data
        except Exception as error:  # of YAML, of the encoding, of the card's form
            notes = (f"{CARD}: {' '.join(str(error).split())[:200]}",)
            try:
                data = ModelCard.load(path, ignore_metadata_errors=True).data
            except Exception:  # then nothing of it can be had
                return {}, notes
        about = {key: _text(getattr(data, key, None)) for key in ABOUT}
        metrics, more = metric_columns(data.eval_results or ())
    return {**{k: v for k, v in about.items() if v}, **metrics}, (*notes, *more)


def metric_columns(results: Sequence[EvalResult]) -> tuple[Columns, tuple[str, ...]]:
    """Values by column: as short as tells all results apart, and notes on what was left out."""
    if not results:
        return {}, ()
    one = len({(r.dataset_type, r.dataset_config) for r in results}) == 1
    columns: Columns = {}
    repeated: list[str] = []
    for way in range(4):
        columns, repeated = {}, []
        for result in results:
            name = "/".join(str(part) for part in _ways(result, one)[way] if part)
            value = number_or_text(result.metric_value)
            if value is None or columns.get(name) == value:
                continue
            if name in columns:
                repeated.append(name)
            else:
                columns[name] = value
        if not repeated:
            break
    return columns, tuple(f"{CARD}: '{name}' again, with another value" for name in repeated)


def _ways(result: EvalResult, one: bool) -> tuple[tuple[Any, ...], ...]:
    """Parts of a result's column, from the shortest to all that a card can say."""
    data = () if one else (result.dataset_type,)
    config = (*data, *(() if one else (result.dataset_config,)))
    return (
        (*data, result.metric_type),
        (*config, result.metric_type),
        (*config, result.dataset_split, result.metric_type),
        (
            *config,
            result.dataset_name,
            result.dataset_split,
            result.metric_type,
            result.metric_name,
        ),
    )


def read_config(folder: Path) -> tuple[Columns, tuple[str, ...]]:
    """What config.json says in plain values, without token numbers and private names."""
    if not (folder / "config.json").is_file():
        return {}, ()
    try:
        content = read_json(folder / "config.json")
    except ValueError as error:
        return {}, (" ".join(str(error).removeprefix(f"{folder}/").split()),)
    columns = _plain_of(content)
    classes = content.get("architectures")
    if isinstance(classes, list) and classes:
        columns["architectures"] = _text(classes)
    kept = (k for k in columns if not k.startswith("_") and not k.endswith("_token_id"))
    return {k: columns[k] for k in kept}, ()


def read_trainer(folder: Path) -> tuple[Columns, tuple[str, ...]]:
    """What transformers' Trainer wrote: where training stood, and the last value of each metric."""
    columns: Columns = {}
    notes: list[str] = []
    if (folder / TRAINER_STATE).is_file():
        try:
            state = read_json(folder / TRAINER_STATE)
            history = state.get("log_history")
            for entry in history if isinstance(history, list) else ():
                columns |= _plain_of(entry) if isinstance(entry, dict) else {}
            columns.pop("step", None)  # of the last entry, which may be older than the weights
            for name, column in (("epoch", "epoch"), ("global_step", "step")):
                if isinstance(state.get(name), int | float):
                    columns[column] = state[name]
            if isinstance(state.get("best_metric"), int | float):
                columns["best_metric"] = state["best_metric"]
        except ValueError as error:
            notes.append(" ".join(str(error).removeprefix(f"{folder}/").split()))
    for name in RESULTS:
        if (folder / name).is_file():
            try:
                columns |= _plain_of(read_json(folder / name))
            except ValueError as error:
                notes.append(" ".join(str(error).removeprefix(f"{folder}/").split()))
    return columns, tuple(notes)


def number_or_text(value: Any) -> str | int | float | bool | None:
    """A metric's value: numbers also where they were written as text, None for none at all."""
    if isinstance(value, float):
        return value if value == value else None
    if isinstance(value, bool | int) or value is None:
        return value
    text = str(value).strip()
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text[:200]


def _plain_of(content: Mapping[str, Any]) -> Columns:
    return {k: v for k, v in content.items() if isinstance(v, str | int | float) and v == v}


def _text(value: Any) -> str:
    """One text of one or several; "" for none."""
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value if v is not None)
    return "" if value is None or isinstance(value, dict) else str(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """huggingface_hub logs what becomes a note here."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
