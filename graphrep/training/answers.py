"""What a model with `num_queries` knows of a population: queries, and modules that are asked.

Queries are unlabelled inputs of the zoos that a model is trained on; a saved model brings them
along. Modules are built by a zoo, whenever networks of a new architecture are embedded.

Letters in shapes: Q queries, M networks of one architecture, F numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..answers import Questions
from ..model import WeightModel
from ..running import Behaviour, answers_of
from ..zoo import Zoo
from .networks import Networks
from .queries import classifies, inputs_of, shares_of, zoo_module

MOST_FITTED = 2048  # networks of a kind that say how answers differ
PART = 256  # networks asked at a time
Inputs = tuple[int, ...]  # the shape of one


def learn_answers(model: WeightModel, zoos: Zoo | Sequence[Zoo]) -> WeightModel:
    """Choose queries for each kind of input, fit what is read off the answers to the training
    splits, and get to know the zoos' modules; nothing where the model asks no queries.

    Zoos whose networks take inputs of one shape share the queries of that kind evenly.

    Raises:
        ValueError: a zoo that tells no module or no inputs of it, or networks of one kind of
            input that put out different numbers of outputs.
    """
    if model.answers is None or model.answers.num_numbers:
        return know_modules(model, zoos)
    listed = _listed(zoos)
    kinds: dict[Inputs, list[Zoo]] = {}
    for zoo in listed:
        for shape in {_inputs(zoo, zoo_module(zoo, int(g.rows[0])))[0] for g in zoo.groups()}:
            kinds.setdefault(shape, []).append(zoo)
    for shape, asked in kinds.items():
        model.answers.add(_questions(asked, shape, model.config.num_queries))
    return know_modules(model, listed)


def know_modules(model: WeightModel, zoos: Zoo | Sequence[Zoo]) -> WeightModel:
    """Remember how the zoos' networks are run, where the model asks them and does not know.

    Raises:
        ValueError: a zoo that tells no module, or inputs that the model has no queries of.
    """
    if model.answers is None:
        return model
    for zoo in _listed(zoos):
        for architecture, rows, _ in zoo.groups():
            if not model.answers.knows(architecture):
                module = zoo_module(zoo, int(rows[0]))
                model.answers.know(architecture, module, inputs_of(zoo, module, 1))
    return model


def with_answers(
    model: WeightModel, groups: Sequence[Networks], say: Callable[[str], None] = lambda note: None
) -> list[Networks]:
    """The networks with their answers, asked once and not a step; as they are if none is asked."""
    if model.answers is None:
        return list(groups)
    found, num, total = [], 0, sum(map(len, groups))
    for networks in groups:
        parts = []
        for index in torch.arange(len(networks)).split(PART):
            say(f"answers of {networks.zoo}: {num} of {total}")
            theta = networks.theta[index].float()
            parts.append(model.answers.read(theta, networks.architecture))
            num += len(index)
        answers = torch.cat(parts) if parts else torch.zeros(0, model.answers.num_numbers)
        found.append(replace(networks, answers=answers))
    return found


def _questions(zoos: Sequence[Zoo], shape: Inputs, num_queries: int) -> Questions:
    """Of the networks that take inputs of one shape."""
    shares = shares_of(num_queries, len(zoos))
    drawn: dict[int, Tensor] = {}
    asked = []
    for number, zoo in enumerate(zoos):
        part = zoo.split("train")
        for group in part.groups():
            module = zoo_module(part, int(group.rows[0])).eval()
            kind, inputs = _inputs(part, module, num_queries)
            if kind == shape:
                drawn.setdefault(number, inputs[: shares[number]])
                asked.append((group, module))
    queries = torch.cat(list(drawn.values()))
    step = max(1, sum(len(group.theta) for group, _ in asked) // MOST_FITTED)
    answers = []
    for group, module in asked:
        behaviour = Behaviour(module, queries, classifies=classifies(module))
        rows = torch.arange(0, len(group.theta), step)
        answers.append(answers_of(behaviour, group.architecture, group.theta[rows].float()))
    if len(sizes := sorted({a.shape[1] // len(queries) for a in answers})) > 1:
        names = ", ".join(zoo.name for zoo in zoos)
        raise ValueError(
            f"model.num_queries: networks of {names} take inputs of one shape, {list(shape)}, and "
            f"put out different numbers of outputs, {sizes}; train on zoos that answer alike"
        )
    return Questions.fit(queries, classifies(asked[0][1]), torch.cat(answers))


def _inputs(zoo: Zoo, module: nn.Module, num: int = 1) -> tuple[Inputs, Tensor]:
    inputs = inputs_of(zoo, module, num)
    return tuple(inputs.shape[1:]), inputs


def _listed(zoos: Zoo | Sequence[Zoo]) -> list[Zoo]:
    return [zoos] if isinstance(zoos, Zoo) else list(zoos)
