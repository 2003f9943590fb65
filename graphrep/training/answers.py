"""What a model with `num_queries` knows of a population: queries, and modules that are asked.

Queries are unlabelled inputs of the zoos that a model is trained on; a saved model brings them
along. Modules are built by a zoo, whenever networks of a new architecture are embedded.

Letters in shapes: Q queries, M networks of one architecture, F numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..answers import AnswerReader, Questions
from ..running import Behaviour, answers_of
from ..zoo import Group, Zoo
from .networks import Networks
from .queries import classifies, inputs_of, listed, shares_of, zoo_module

MOST_FITTED = 2048  # networks of a kind that say how answers differ
PART = 256  # networks asked at a time


def learn_answers(reader: AnswerReader | None, zoos: Zoo | Sequence[Zoo]) -> None:
    """Choose queries for each kind of input, fit what is read off the answers to the training
    splits, and get to know the zoos' modules; nothing where no queries are asked.

    Zoos whose networks take inputs of one shape share the queries of that kind evenly.

    Raises:
        ValueError: a zoo that tells no module or no inputs of it, or networks of one kind of
            input that put out different numbers of outputs.
    """
    if reader is None:
        return
    kinds: dict[tuple[int, ...], list[_Asked]] = {}  # by the shape of an input
    for zoo in listed(zoos):
        part = zoo.split("train")
        for group in part.groups():
            module = zoo_module(part, int(group.rows[0])).eval()
            inputs = inputs_of(part, module, reader.num_queries)
            asked = _Asked(zoo.name, group, module, inputs)
            kinds.setdefault(tuple(inputs.shape[1:]), []).append(asked)
    for asked_alike in kinds.values():
        reader.add(_questions(asked_alike, reader.num_queries))
    know_modules(reader, zoos)


def know_modules(reader: AnswerReader | None, zoos: Zoo | Sequence[Zoo]) -> None:
    """Remember how the zoos' networks are run, where they are asked and that is not known.

    Raises:
        ValueError: a zoo that tells no module, or inputs that there are no queries of.
    """
    if reader is None:
        return
    for zoo in listed(zoos):
        for architecture, rows, _ in zoo.groups():
            if not reader.knows(architecture):
                module = zoo_module(zoo, int(rows[0]))
                reader.know(architecture, module, inputs_of(zoo, module, 1))


def with_answers(
    reader: AnswerReader | None,
    groups: Sequence[Networks],
    say: Callable[[str], None] = lambda note: None,
) -> list[Networks]:
    """The networks with their answers, asked once and not a step; as they are if none is asked."""
    if reader is None:
        return list(groups)
    found, num, total = [], 0, sum(map(len, groups))
    for networks in groups:
        parts = []
        for index in torch.arange(len(networks)).split(PART):
            say(f"answers of {networks.zoo}: {num} of {total}")
            theta = networks.theta[index].float()
            parts.append(reader.read(theta, networks.architecture))
            num += len(index)
        answers = torch.cat(parts) if parts else torch.zeros(0, reader.num_numbers)
        found.append(replace(networks, answers=answers))
    return found


class _Asked(NamedTuple):
    """Networks of one architecture that say how answers differ, and inputs of their module."""

    zoo: str
    group: Group
    module: nn.Module
    inputs: Tensor


def _questions(asked: Sequence[_Asked], num_queries: int) -> Questions:
    """Of networks that take inputs of one shape."""
    drawn = {one.zoo: one.inputs for one in reversed(asked)}  # a zoo's first, once
    zoos = list(dict.fromkeys(one.zoo for one in asked))
    shares = shares_of(num_queries, len(zoos))
    queries = torch.cat([drawn[zoo][:num] for zoo, num in zip(zoos, shares, strict=True)])
    step = max(1, sum(len(one.group.theta) for one in asked) // MOST_FITTED)
    answers = []
    for _, group, module, _ in asked:
        behaviour = Behaviour(module, queries, classifies=classifies(module))
        rows = torch.arange(0, len(group.theta), step)
        answers.append(answers_of(behaviour, group.architecture, group.theta[rows].float()))
    if len(sizes := sorted({a.shape[1] // len(queries) for a in answers})) > 1:
        raise ValueError(
            f"model.num_queries: networks of {', '.join(zoos)} take inputs of one shape, "
            f"{list(queries.shape[1:])}, and put out different numbers of outputs, {sizes}; train "
            "on zoos that answer alike"
        )
    return Questions.fit(queries, classifies(asked[0].module), torch.cat(answers))
