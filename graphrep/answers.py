"""What networks answer to fixed queries, as numbers beside what an encoder reads off weights.

A network is run on unlabelled inputs (probe features: Kofinas et al. 2024, arXiv:2403.12143,
section 3; as the only features Herrmann et al. 2024, arXiv:2403.11998, and Kahana et al. 2024,
arXiv:2410.10811). Where we differ: the queries are inputs that the networks were made for and
are not learned, and what stands in the embedding are principal components of the answers, not
states of units. Two networks that compute the same function have the same numbers.

Letters in shapes: B networks, N of them to fit to, P parameters, Q queries, O outputs, A = Q * O
answers, C components, F numbers of one set of queries.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .graph import ParameterGraph
from .running import Behaviour, answers_of, run_networks, runs_together

MOST_COMPONENTS = 64
LEAST_SPREAD = 1e-4  # of a component, relative to the first; weaker ones are rounding


class Questions(nn.Module):
    """Queries to networks of one kind of input, and how their answers become numbers."""

    queries: Tensor  # [Q, ...]
    classifies: Tensor  # bool: outputs are logits of classes
    centre: Tensor  # [F], with deviation [F] over the networks that it was fitted to
    deviation: Tensor
    mean: Tensor  # [A] of the answers
    axes: Tensor  # [A, C]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in ("queries", "classifies", "mean", "axes", "centre", "deviation"):
            self.register_buffer(name, tensors[name])

    @classmethod
    def fit(cls, queries: Tensor, classifies: bool, answers: Tensor) -> Questions:
        """Components of the answers [N, A] of some networks; those not finite are left out.

        Raises:
            ValueError: fewer than two networks answer finite numbers.
        """
        answers = answers[answers.isfinite().all(1)].double()
        if len(answers) < 2:
            raise ValueError(
                f"model.num_queries={len(queries)}: {len(answers)} networks answer finite "
                "numbers, and two are needed to say how answers differ"
            )
        mean = answers.mean(0)
        _, spread, axes = torch.linalg.svd(answers - mean, full_matrices=False)
        num = int((spread > LEAST_SPREAD * spread[0]).sum())
        tensors = {
            "queries": queries,
            "classifies": torch.tensor(classifies),
            "mean": mean.float(),
            "axes": axes[: min(num, MOST_COMPONENTS)].T.contiguous().float(),
            "centre": torch.zeros(1),
            "deviation": torch.ones(1),
        }
        found = cls(tensors)
        numbers = found(answers.float()).double()
        found.centre = numbers.mean(0).float()
        found.deviation = numbers.std(0).clamp(min=1e-6).float()
        return found

    @property
    def num_numbers(self) -> int:
        """F."""
        return len(self.centre)

    def forward(self, answers: Tensor) -> Tensor:
        """Answers [B, A] to numbers [B, F], 0 throughout where an answer is not finite.

        Components, and of classifiers what no component says: how sure they are, and how
        evenly they spread their choices over the classes.
        """
        finite = answers.isfinite().all(1, keepdim=True)
        known = torch.where(finite, answers, self.mean)
        parts = [(known - self.mean) @ self.axes]
        if self.classifies:
            shares = known.view(len(known), len(self.queries), -1)  # [B, Q, O]
            ranked = shares.sort(2, descending=True).values
            doubt = -torch.xlogy(shares, shares.clamp(min=1e-9)).sum(2)
            parts += [ranked.mean(1), shares.mean(1).sort(1).values]
            for each in (doubt, ranked[..., 0]):  # [B, Q]
                parts += [each.mean(1, keepdim=True), each.std(1, correction=0, keepdim=True)]
        numbers = (torch.cat(parts, 1) - self.centre) / self.deviation
        return torch.where(finite, numbers, 0)


class AnswerReader(nn.Module):
    """Questions by kind of input, and the modules of the architectures that are asked them.

    Modules are not saved: a model that was loaded gets to know them again (`know`), from a zoo,
    or when it encodes a module.
    """

    def __init__(self, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.questions = nn.ModuleList()
        self._modules_of: dict[str, tuple[int, Behaviour]] = {}  # by fingerprint

    def __iter__(self) -> Iterator[Questions]:
        return iter(self.questions)  # type: ignore[arg-type]

    @property
    def num_numbers(self) -> int:
        """Of a network: those of all questions side by side, 0 for questions of other inputs."""
        return sum(questions.num_numbers for questions in self)

    def add(self, questions: Questions) -> None:
        """Ask networks of one more kind of input."""
        self.questions.append(questions)

    def knows(self, architecture: Architecture) -> bool:
        """Whether there is a module of this architecture."""
        return architecture.fingerprint in self._modules_of

    def know(
        self, architecture: Architecture, module: nn.Module, inputs: Tensor | None = None
    ) -> None:
        """Remember how networks of an architecture are run.

        Args:
            module: One of them; a copy is kept, whose values play no part.
            inputs: What its forward takes, [any, ...], to tell which queries suit it; not
                needed where there is one kind.

        Raises:
            ValueError: no queries of this kind, or another number of outputs.
        """
        number = self._suiting(architecture, inputs)
        questions = list(self)[number]
        module = copy.deepcopy(module).eval()
        theta = ParameterGraph.from_state_dict(architecture, module.state_dict()).theta.float()
        theta = torch.stack([theta, theta])
        queries = questions.queries.to(theta)
        behaviour = Behaviour(module, queries, classifies=bool(questions.classifies))
        with torch.no_grad():
            outputs = run_networks(behaviour, architecture, theta).flatten(2)
        if outputs[0].numel() != len(questions.mean):
            raise ValueError(
                f"'{architecture.name}' puts out {outputs.shape[2]} numbers, and the networks that "
                f"this model was trained on {len(questions.mean) // len(questions.queries)}"
            )
        together = runs_together(behaviour, architecture, theta, outputs)
        self._modules_of[architecture.fingerprint] = number, replace(behaviour, together=together)

    def read(self, theta: Tensor, architecture: Architecture) -> Tensor:
        """Numbers of networks theta [B, P], as many as `num_numbers`.

        Raises:
            ValueError: no module of this architecture is known.
        """
        if not self.knows(architecture):
            raise ValueError(
                f"model.num_queries={self.num_queries}: this model runs the networks that it "
                f"embeds, and knows no module of '{architecture.name}' "
                f"({architecture.fingerprint}). Encode the module itself, with example_inputs=, "
                "or zoo.graphs of a zoo that tells its modules, or first call "
                "model.answers.know(architecture, module, inputs)"
            )
        number, behaviour = self._modules_of[architecture.fingerprint]
        own = list(self)[number]
        module = behaviour.module.to(theta.device)
        behaviour = replace(behaviour, module=module, queries=own.queries.to(theta))
        with torch.autocast(theta.device.type, enabled=False):
            numbers = own(answers_of(behaviour, architecture, theta))
        parts = [
            numbers if i == number else numbers.new_zeros(len(theta), other.num_numbers)
            for i, other in enumerate(self)
        ]
        return torch.cat(parts, 1)

    def _suiting(self, architecture: Architecture, inputs: Tensor | None) -> int:
        shapes = [tuple(questions.queries.shape[1:]) for questions in self]
        if inputs is None and len(shapes) == 1:
            return 0
        wanted = None if inputs is None else tuple(inputs.shape[1:])
        if wanted not in shapes:
            what = "no inputs were given" if wanted is None else f"its inputs are {list(wanted)}"
            raise ValueError(
                f"'{architecture.name}': {what}, and this model has queries of "
                f"{[list(shape) for shape in shapes]}; take a model that was trained on such inputs"
            )
        return shapes.index(wanted)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Questions as they were saved, whatever their number and shapes."""
        start = f"{prefix}questions."
        saved: dict[int, dict[str, Tensor]] = {}
        for key, value in state_dict.items():
            if key.startswith(start):
                number, name = key.removeprefix(start).split(".")
                saved.setdefault(int(number), {})[name] = value.clone()  # aligned, as before
        self.questions = nn.ModuleList(Questions(saved[number]) for number in sorted(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)
