"""From zoos to what an objective trains on: networks with their targets and successors.

Knows the tables of zoos and what each objective wants of them; knows no model.

Letters in shapes: M networks of one architecture, K targets, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..architecture import Architecture
from ..scaling import Thetas
from ..zoo import Zoo
from .networks import Networks
from .objectives import (
    BehaviourConfig,
    Context,
    ObjectiveConfig,
    PropertyConfig,
    ResponsesConfig,
    TrajectoryConfig,
)
from .objectives.property_head import Target, fit_category, fit_target, numbers_of
from .queries import behaviours_of, listed
from .responses import Responses

if TYPE_CHECKING:
    import pandas as pd


def networks_of(
    zoos: Zoo | Sequence[Zoo],
    split: str,
    config: ObjectiveConfig,
    say: Callable[[str], None] = lambda note: None,
) -> list[Networks]:
    """A split of one or more zoos, by architecture, with all that an objective wants to know.

    Weights stay on disk. What targets are is read off the training split, whichever is asked
    for, so that splits agree. Zoos are told apart by their names.

    Args:
        say: Told how far it is where networks are run, which takes minutes for large ones.

    Raises:
        ValueError: a zoo has no such property or split.
    """
    every = listed(zoos)
    targets = targets_of(every, config)
    answers = responses_of(every, config)
    found = []
    for number, zoo in enumerate(every):
        part = zoo.split(split)
        table = part.properties
        columns = None
        if targets:
            columns = torch.stack([_column(table, target) for target in targets], 1)
        num_read = 0
        for group in part.groups():
            own = None if columns is None else columns[group.rows]
            successor = None
            if isinstance(config, TrajectoryConfig):
                successor, own = successors_of(table.iloc[group.rows.numpy()])
            if answers:
                say(f"answers of {zoo.name}, {split}: {num_read} of {len(part)}")
                num_read += len(group.theta)
                own = _side_by_side(answers, number, group.theta, group.architecture)
            found.append(Networks(group.architecture, group.theta, own, successor, zoo.name))
    return found


def context_of(zoos: Zoo | Sequence[Zoo], config: ObjectiveConfig) -> Context:
    """What an objective wants to know of the population before it is built.

    Raises:
        ValueError: a property that is not there, or a zoo whose networks cannot be run.
    """
    every = listed(zoos)
    match config:
        case PropertyConfig():
            return Context(targets=targets_of(every, config))
        case BehaviourConfig():
            return Context(behaviours=behaviours_of(every, config.num_queries))
        case ResponsesConfig():
            return Context(num_responses=sum(map(len, responses_of(every, config))))
        case _:
            return Context()


def targets_of(zoos: Sequence[Zoo], config: ObjectiveConfig) -> tuple[Target, ...]:
    """The properties that an objective predicts, fitted on the zoos' training splits together.

    Raises:
        ValueError: none of the zoos has a property, or it does not vary.
    """
    if not isinstance(config, PropertyConfig):
        return ()
    import pandas as pd

    tables = [zoo.split("train").properties for zoo in zoos]
    names = [*config.properties, *config.log_properties, *config.categories]
    for name in names:
        if not any(name in table for table in tables):
            there = sorted({str(column) for table in tables for column in table.columns})
            raise ValueError(f"no property '{name}' in {_urls(zoos)}; there are {there}")
    whole = pd.concat([table.reindex(columns=names) for table in tables], ignore_index=True)
    found = []
    for name in (*config.properties, *config.log_properties):
        log = name in config.log_properties
        found.append(fit_target(name, _numbers(whole[name], name), log=log))
    found += [fit_category(name, _labels(whole[name])) for name in config.categories]
    return tuple(found)


def responses_of(zoos: Sequence[Zoo], config: ObjectiveConfig) -> list[Responses]:
    """How the networks of each zoo are asked, fitted on its training split.

    Raises:
        ValueError: a zoo whose networks cannot be run.
    """
    if not isinstance(config, ResponsesConfig):
        return []
    return [_fitted(zoo, config.num_queries) for zoo in zoos]


@lru_cache(maxsize=8)
def _fitted(zoo: Zoo, num_queries: int) -> Responses:
    """One fit for all splits of a zoo that is open: large networks take a while to answer."""
    return Responses.fit(zoo, num_queries)


def _side_by_side(
    answers: Sequence[Responses], number: int, theta: Thetas, architecture: Architecture
) -> Tensor:
    """What networks of one zoo answer among the columns of all, NaN in the others', [M, K]."""
    own = answers[number].read(theta, architecture)
    parts = [
        own if i == number else own.new_full((len(own), len(other)), float("nan"))
        for i, other in enumerate(answers)
    ]
    return torch.cat(parts, 1)


def successors_of(table: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """The next checkpoint of each, by its model and epoch.

    Args:
        table: Properties of networks of one architecture [M], with `model` and `epoch`.

    Returns:
        int64 [M], the row of the next one or -1 at the end of a training; and float32 [M, 1],
        how much later it is: log((1 + its epoch) / (1 + epoch)), NaN at the end.

    Raises:
        ValueError: the zoo has no epochs.
    """
    if "epoch" not in table:
        raise ValueError("objective trajectory needs a zoo with epochs, and this one has none")
    model = table["model"].to_numpy()
    epoch = table["epoch"].to_numpy(dtype=np.float64, na_value=np.nan)
    order = np.lexsort([epoch, model])
    this, following = order[:-1], order[1:]
    on = (model[this] == model[following]) & (epoch[following] > epoch[this])
    successor = np.full(len(table), -1)
    successor[this[on]] = following[on]
    step = np.full(len(table), np.nan, dtype=np.float32)
    step[this[on]] = np.log((1 + epoch[following[on]]) / (1 + epoch[this[on]]))
    return torch.from_numpy(successor), torch.from_numpy(step).unsqueeze(1)


def _column(table: pd.DataFrame, target: Target) -> Tensor:
    """A target's values float32 [M], NaN where not known or of a class that training lacks."""
    if target.name not in table:
        return torch.full((len(table),), float("nan"))
    column = table[target.name]
    if target.kind == "category":
        number = {label: float(i) for i, label in enumerate(target.categories)}
        found = np.array([number.get(label, np.nan) for label in _labels(column)])
    else:
        found = numbers_of(_numbers(column, target.name), log=target.kind == "logarithm")
    return torch.from_numpy(found.astype(np.float32))


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    """float64 [M], NaN where missing."""
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        example = column.dropna().iloc[0]
        raise ValueError(
            f"property '{name}' is no number (it holds {example!r}); name it in "
            "objective.categories instead"
        ) from error


def _labels(column: pd.Series) -> np.ndarray:
    """Text of each value [M], None where missing."""
    return np.array(
        [str(v) if known else None for v, known in zip(column, column.notna(), strict=True)]
    )


def _urls(zoos: Sequence[Zoo]) -> str:
    return ", ".join(zoo.url for zoo in zoos)
