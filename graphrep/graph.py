"""Parameter graphs: an architecture together with one network's values.

Every view (state dict, PyG, networkx) is a reading of the pair (architecture,
theta) and has its way back, bit for bit. Nothing here trains or measures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .architecture.nesting import log10_symmetries as log10_symmetries
from .architecture.reorder import reorder_theta, tensor_of
from .architecture.trace import Inputs, trace
from .architecture.verify import verify as verify_symmetries

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import Data

    from .summary import Summary


@dataclass(frozen=True, eq=False)
class ParameterGraph:
    """One network: `theta` [P] laid out by its `architecture`, and the buffers that ride along."""

    architecture: Architecture
    theta: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (self.architecture.num_parameters,)
        if tuple(self.theta.shape) != expected:
            raise ValueError(
                f"theta has shape {tuple(self.theta.shape)}, but architecture "
                f"'{self.architecture.name}' needs {expected}"
            )

    @classmethod
    def from_state_dict(
        cls, architecture: Architecture, state_dict: Mapping[str, Tensor]
    ) -> ParameterGraph:
        """Values of a known architecture; `state_dict()` is the inverse.

        Raises:
            ValueError: names, shapes or types differ; all differences are listed.
        """
        check_state_dict(architecture, state_dict)
        stored = [state_dict[t.name] for t in architecture.stored]
        num, dtype = architecture.num_parameters, architecture.dtype
        if any(v.is_meta for v in stored):  # never in memory: 27 GB of a model of 7 billion
            theta = torch.empty(num, dtype=dtype, device="meta")
        else:
            theta = torch.empty(num, dtype=dtype)
            if stored:
                torch.cat([v.detach().cpu().flatten() for v in stored], out=theta)
        buffers = {
            t.name: state_dict[t.name].detach().clone()
            for t in architecture.tensors
            if t.offset is None and t.tied_to is None and t.name in state_dict
        }
        return cls(architecture, theta, buffers)

    def state_dict(self) -> OrderedDict[str, Tensor]:
        """What the module had, bit for bit, in its order; tied names share one tensor."""
        result: OrderedDict[str, Tensor] = OrderedDict()
        for spec in self.architecture.tensors:
            if spec.tied_to is not None:
                result[spec.name] = result[spec.tied_to]
            elif spec.offset is not None:
                result[spec.name] = tensor_of(spec, self.theta).to(spec.torch_dtype, copy=True)
            elif spec.name in self.buffers:
                result[spec.name] = self.buffers[spec.name].clone()
            else:
                result[spec.name] = torch.zeros(spec.shape, dtype=spec.torch_dtype)
        return result

    def load_into(self, module: nn.Module) -> nn.Module:
        """Put the values into a module of this architecture (strict), and return it."""
        module.load_state_dict(self.state_dict(), strict=True)
        return module

    def permute(self, permutation: Mapping[str, Tensor]) -> ParameterGraph:
        """Reorder hidden units; the function computed stays the same.

        Args:
            permutation: An index a unit group; new unit i is old unit `permutation[units][i]`.
                Groups that are not named stay.

        Raises:
            ValueError: unknown or fixed units, or not a permutation.
        """
        self.require_values("permute")
        return replace(self, theta=reorder_theta(self.architecture, self.theta, permutation))

    def require_values(self, purpose: str) -> None:
        """Raise ValueError for a graph of a module on `meta`, which has no values."""
        if self.theta.is_meta:
            raise ValueError(
                f"{purpose} needs values, but '{self.architecture.name}' was traced on the meta "
                "device. Use ParameterGraph.from_state_dict(graph.architecture, state_dict)."
            )

    def to_pyg(self) -> Data:
        """A node a unit, an edge a parameter; see `graphrep.interchange.to_pyg`."""
        from .interchange import to_pyg

        return to_pyg(self)

    @classmethod
    def from_pyg(cls, data: Data, architecture: Architecture) -> ParameterGraph:
        """The inverse of `to_pyg`."""
        from .interchange import from_pyg

        return from_pyg(data, architecture)

    def to_networkx(
        self, level: Literal["neurons", "architecture"] = "neurons"
    ) -> networkx.MultiDiGraph:
        """The same nodes and edges with readable attributes, or unit groups and blocks."""
        from .interchange import to_networkx

        return to_networkx(self, level)

    def to_graphml(
        self, path: Path | str, level: Literal["neurons", "architecture"] = "neurons"
    ) -> None:
        """Write `to_networkx(level)` as a GraphML file; see `graphrep.interchange.to_graphml`."""
        from .interchange import to_graphml

        to_graphml(self, path, level)

    def summary(self) -> Summary:
        """Tables of unit groups and blocks, with totals: print it; see `graphrep.summary`."""
        from .summary import summarize

        return summarize(self.architecture)

    def report(self) -> str:
        """What was derived and what was given up, for reading."""
        a = self.architecture
        free = [u for u in a.units if not u.fixed]
        lines = [
            f"{a.name}: {a.num_parameters:,} parameters, {len(a.units)} unit groups "
            f"({len(free)} can be permuted), {len(a.blocks)} blocks",
            f"symmetry: 10^{log10_symmetries(a):.1f} permutations, "
            + ("verified numerically" if a.verified else "not verified numerically"),
        ]
        lines += [f"  {note}" for note in a.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"ParameterGraph({self.architecture!r})"


def to_graph(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    name: str = "",
    verify: bool = True,
    strict: bool = False,
) -> ParameterGraph:
    """The parameter graph of any module, with its values.

    Args:
        model: Left as it was found. On the `meta` device the graph has a `meta` theta.
        example_inputs: What its forward takes: a tensor, a tuple, or a dict of
            keyword arguments. Small ones do.
        name: Of the architecture; by default the module's class.
        verify: Check the derived symmetries numerically, once an architecture.
        strict: Raise where an operation without a rule costs a symmetry; by default the units
            that it touches keep their places and `report()` says so.

    Raises:
        ValueError: the module does not run on the inputs, or holds state that is no tensor;
            or, when strict, the operation without a rule, its module and line.

    Source: parameter graphs, Lim et al. 2024, arXiv:2312.04501. Here kernels stay one
    edge bundle a channel pair, and topology never depends on values.
    """
    architecture = trace(model, example_inputs, name, strict)
    if verify:
        architecture = verify_symmetries(architecture, model, example_inputs)
    return ParameterGraph.from_state_dict(architecture, model.state_dict())


def check_state_dict(architecture: Architecture, state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError, listing all differences, unless the state dict fits the architecture."""
    problems = []
    for spec in architecture.tensors:
        value = state_dict.get(spec.name)
        if value is None and spec.name.endswith("num_batches_tracked"):
            continue  # files of old torch versions lack it; torch itself takes it for 0
        if value is None:
            problems.append(f"{spec.name}: missing, expected {list(spec.shape)}")
        elif tuple(value.shape) != spec.shape:
            problems.append(f"{spec.name}: found {list(value.shape)}, expected {list(spec.shape)}")
        elif torch.promote_types(value.dtype, spec.torch_dtype) != spec.torch_dtype:
            problems.append(f"{spec.name}: found {value.dtype}, which {spec.dtype} cannot hold")
    problems += [
        f"{name}: other values than the design was traced with, which its symmetries may rest on; "
        "trace a module that holds these"
        for name in architecture.other_constants(
            {n: v for n, v in state_dict.items() if isinstance(v, Tensor)}
        )
        if tuple(state_dict[name].shape) == architecture.tensor[name].shape
    ]
    known = set(architecture.tensor)
    problems += [
        f"{name}: found {list(value.shape)}, not expected"
        for name, value in state_dict.items()
        if name not in known
    ]
    if problems:
        shown = "\n  ".join(
            problems[:20] + [f"... and {len(problems) - 20} more"] * (len(problems) > 20)
        )
        raise ValueError(
            f"state dict does not fit architecture '{architecture.name}' "
            f"({len(problems)} differences):\n  {shown}"
        )
