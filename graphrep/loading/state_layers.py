"""Layers as a state dict shows them: tensors that share a path, and orders to try them in.

Refuses whatever no plain chain has; builds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

COUNTER = "num_batches_tracked"
LEAVES = {"weight", "bias", "running_mean", "running_var", COUNTER}
DIMS = (1, 2, 3, 4, 5)  # of weights: norms, linear layers, convolutions
NOT_IN_CHAINS = re.compile(
    r"shortcut|downsample|skip|resid|attn|attention|embed"
    r"|(?:^|[._])(?:wte|wpe|tok|query|key|value|lstm|gru|rnn|experts?)(?=$|[._\d])",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class Layer:
    """The tensors of a state dict that share a path; `weight` decides what layer it is."""

    path: str
    tensors: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor | None:
        return self.tensors.get("weight")

    @property
    def dim(self) -> int:
        return 1 if self.weight is None else self.weight.dim()

    @property
    def is_norm(self) -> bool:
        return "running_mean" in self.tensors or (self.dim == 1 and "bias" in self.tensors)

    @property
    def shown(self) -> str:
        kept = [f"{k} {list(v.shape)}" for k, v in self.tensors.items() if k != COUNTER]
        return f"'{self.path or '(root)'}' ({', '.join(kept)})"


class NoChain(Exception):
    """Why a state dict is no plain chain, in words."""


def group_layers(state: Mapping[str, Tensor]) -> list[Layer]:
    """Tensors by path, in order.

    Raises:
        NoChain: names or numbers of dimensions that no layer of a chain has.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        if leaf not in LEAVES:
            raise NoChain(f"'{name:.80}' is no tensor of a linear, convolutional or norm layer")
        if match := NOT_IN_CHAINS.search(path):
            raise NoChain(f"'{name:.80}' has '{match[0]}' in its name")
        if not value.is_floating_point() and leaf != COUNTER:
            raise NoChain(f"'{name:.80}' holds {value.dtype}, not real numbers")
        if leaf != COUNTER and value.numel() == 0:
            raise NoChain(f"'{name:.80}' has no values (shape {list(value.shape)})")
        groups.setdefault(path, {})[leaf] = value
    layers = [Layer(path, tensors) for path, tensors in groups.items()]
    for layer in layers:
        check_shapes(layer)
    check_blocks(layers)
    return layers


def check_shapes(layer: Layer) -> None:
    """Raise NoChain unless the tensors of a path can be one layer."""
    tensors = {k: v for k, v in layer.tensors.items() if k != COUNTER}
    statistics = "running_mean" in tensors
    if layer.weight is None and not statistics:
        raise NoChain(f"{layer.shown} has no weight")
    if layer.dim not in DIMS:
        raise NoChain(f"{layer.shown} has a weight of {layer.dim} dimensions")
    vectors = [v.shape for k, v in tensors.items() if k != "weight"]
    out = vectors[0] if layer.weight is None else layer.weight.shape[:1]
    fits = all(len(v) == 1 and v == out for v in vectors)
    if statistics or "running_var" in tensors or COUNTER in layer.tensors:
        whole = {"running_mean", "running_var"} <= set(tensors)
        fits = fits and whole and layer.dim == 1 and ("weight" in tensors) == ("bias" in tensors)
    if not fits:
        raise NoChain(f"{layer.shown} has shapes that are not those of one layer")


def check_blocks(layers: Sequence[Layer]) -> None:
    """Raise NoChain for blocks of several layers around which a shortcut could lead.

    A residual sum adds no weight, so that a ResNet without projections has the shapes of a
    chain; what gives it away is a block within the network, made of several layers, that
    returns as many channels as it takes.
    """
    heavy = [x for x in layers if x.dim > 1]
    groups: dict[tuple[int, ...], str] = {}
    paths = {x.path.rsplit(".", n)[0] for x in heavy for n in range(1, x.path.count(".") + 1)}
    for path in sorted(paths):
        members = tuple(i for i, x in enumerate(heavy) if x.path.startswith(path + "."))
        if 1 < len(members) < len(heavy):
            groups[members] = path
    for members, path in groups.items():
        first, last = heavy[members[0]].weight, heavy[members[-1]].weight
        assert first is not None and last is not None
        taken = first.shape[0] if first.shape[1] == 1 else first.shape[1]  # depthwise: in is out
        numbered = all(heavy[i].path.removeprefix(path + ".").isdigit() for i in members)
        if taken == last.shape[0] and (len(groups) > 1 or not numbered):
            raise NoChain(
                f"'{path}' is a block of {len(members)} layers that returns as many channels "
                "as it takes, as residual blocks do"
            )


def orders(layers: list[Layer]) -> list[tuple[list[Layer], str]]:
    """Orders to try: the file's; by name with numbers; norms behind layers of their number."""
    named = sorted(layers, key=lambda layer: natural(layer.path))
    paired = [x for x in named if x.dim > 1]
    for small in sorted((x for x in named if x.dim == 1), key=lambda x: not x.is_norm):
        number = last_number(small)
        at = [i for i, x in enumerate(paired) if x.dim > 1 and number and last_number(x) == number]
        place = at[0] + 1 if at else len(paired)
        while place < len(paired) and paired[place].dim == 1:
            place += 1
        paired.insert(place, small)
    by_name = (named, "layers follow each other by name" if named != layers else "")
    by_number = (paired, "each norm follows the layer of its number")
    paths = [layer.path for layer in layers]
    first = [by_name] if paths == sorted(paths) and len(paths) > 1 else [(layers, ""), by_name]
    return [*first, by_number]


def last_number(layer: Layer) -> str:
    return (re.findall(r"\d+", layer.path) or [""])[-1]


def natural(path: str) -> list[tuple[bool, int, str]]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", path)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]
