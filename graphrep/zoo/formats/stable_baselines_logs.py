"""What stands beside the files of Stable-Baselines3: settings, evaluations, results.

The layout is that of RL Zoo (`args.yml` and `config.yml` in a folder named like the model,
`evaluations.npz` beside it) and of models on the Hugging Face hub (`results.json`). Nothing
is unpickled: the one Python tag that RL Zoo's YAML has, of an ordered mapping, is read as one.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .stable_baselines_settings import column_of, is_plain, number, whole

T = TypeVar("T")

EVALUATIONS = "evaluations.npz"
RESULTS = "results.json"
ARGUMENTS = "args.yml"
CONFIG = "config.yml"
MOST_BYTES = 64 << 20  # of a log
MOST_TEXT = 1 << 18  # bytes of settings
ORDERED = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"


@dataclass(frozen=True)
class Evaluations:
    """Returns of test episodes, as often as a run was evaluated."""

    steps: np.ndarray  # int64 [E], of the environment, ascending
    returns: np.ndarray  # float64 [E, N], N episodes each

    def columns(self, num_steps: int | None) -> dict[str, Any]:
        """What is known of a policy after so many steps.

        `test_return` is of an evaluation at just these steps; `last_test_return` of the
        last one until then, at `last_test_steps`.
        """
        at = -1 if num_steps is None else int(np.searchsorted(self.steps, num_steps, "right")) - 1
        if at < 0:
            return {}
        mean = float(self.returns[at].mean())
        columns = {"last_test_steps": int(self.steps[at]), "last_test_return": mean}
        if self.steps[at] == num_steps:
            columns |= returns_columns(mean, float(self.returns[at].std()), self.returns.shape[1])
        return columns


@dataclass(frozen=True)
class RunNotes:
    """What the files beside a run's models say."""

    environment: str | None
    settings: dict[str, Any]
    evaluations: Evaluations | None
    result: dict[str, Any]  # of the one model that a run has on the hub
    unread: dict[Path, str]  # files that could not be read, and why

    @classmethod
    def read(cls, folder: Path, models: Sequence[Path]) -> RunNotes:
        """All that stands beside the models of one folder; what is damaged is listed."""
        unread: dict[Path, str] = {}

        def attempt(path: Path, read: Callable[[Path], T], otherwise: T) -> T:
            try:
                return read(path) if path.is_file() else otherwise
            except (ValueError, OSError) as error:
                unread[path] = str(error).removeprefix(f"{path}: ")
                return otherwise

        nothing: dict[str, Any] = {}
        arguments, config = dict(nothing), dict(nothing)
        for place in [folder, *(path.with_suffix("") for path in models)]:
            arguments |= attempt(place / ARGUMENTS, read_yaml, nothing)
            config |= attempt(place / CONFIG, read_yaml, nothing)
        environment, algorithm = arguments.get("env"), arguments.get("algo")
        settings = {column_of(name, value): value for name, value in config.items()}
        if isinstance(algorithm, str):
            settings["algorithm"] = algorithm
        return cls(
            environment=environment if isinstance(environment, str) else None,
            settings=settings,
            evaluations=attempt(folder / EVALUATIONS, read_evaluations, None),
            result=attempt(folder / RESULTS, read_results, nothing) if len(models) == 1 else {},
            unread=unread,
        )

    def returns_of(self, num_steps: int | None) -> dict[str, Any]:
        """What is known of a model after so many steps, as columns."""
        evaluated = self.evaluations.columns(num_steps) if self.evaluations else {}
        return {**evaluated, **self.result}


def returns_columns(mean: float, std: float | None, num_episodes: int | None) -> dict[str, Any]:
    """Under the names that all zoos of policies use."""
    return {"test_return": mean, "test_return_std": std, "test_episodes": num_episodes}


def read_evaluations(path: Path) -> Evaluations:
    """The file that the library's evaluation during training writes.

    Raises:
        ValueError: not readable, or not steps [E] beside returns [E, N].
    """
    try:
        with zipfile.ZipFile(path) as archive:
            steps = _read_array(archive, "timesteps.npy")
            returns = _read_array(archive, "results.npy")
    except Exception as error:  # zipfile and numpy raise many kinds on damaged files
        raise ValueError(f"{path}: not readable as {EVALUATIONS} ({_brief(error)})") from error
    if steps.ndim != 1 or returns.ndim != 2 or len(steps) != len(returns) or not returns.size:
        raise ValueError(
            f"{path}: holds timesteps {list(steps.shape)} and results {list(returns.shape)}, "
            "expected [E] and [E, N]"
        )
    order = np.argsort(steps, kind="stable")
    return Evaluations(steps[order].astype(np.int64), returns[order].astype(np.float64))


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array whose header claims no more than its record holds."""
    record = archive.getinfo(name)
    if record.file_size > MOST_BYTES:
        raise ValueError(f"{name} claims {record.file_size:,} bytes")
    with archive.open(record) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
    if dtype.kind not in "iuf" or math.prod(shape) * dtype.itemsize > record.file_size:
        raise ValueError(f"{name} claims {shape} of {dtype}")
    with archive.open(record) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_results(path: Path) -> dict[str, Any]:
    """The final evaluation that a model on the hub comes with, as columns.

    Raises:
        ValueError: not readable, or without a mean.
    """
    content = _read_text(path)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({_brief(error)})") from error
    mean = number(found.get("mean_reward")) if isinstance(found, Mapping) else None
    if mean is None:
        raise ValueError(f"{path}: holds no mean_reward")
    return returns_columns(
        mean, number(found.get("std_reward")), whole(found.get("n_eval_episodes"))
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain values of a mapping in YAML.

    Raises:
        ValueError: not readable, or no mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows plain values and ordered mappings, nothing that would run."""

    def ordered(loader: Any, node: Any) -> dict[Any, Any]:
        (pairs,) = loader.construct_sequence(node, deep=True)
        return dict(pairs)

    Loader.add_constructor(ORDERED, ordered)
    content = _read_text(path)
    try:
        found = yaml.load(content, Loader)  # of a safe loader's kind
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as plain YAML ({_brief(error)})") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected a mapping")
    return {str(name): value for name, value in found.items() if is_plain(value)}


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _read_text(path: Path) -> str:
    if (size := path.stat().st_size) > MOST_TEXT:
        raise ValueError(f"{path}: has {size:,} bytes, too many for settings")
    return path.read_text(encoding="utf-8", errors="replace")
