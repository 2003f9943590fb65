"""Laws over every family of architectures, with symmetries that theory gives, not the tracer.

1 round trip, 2 permutation, 3 size of the group, 4 PyG, 5 alignment, 6 meta, 7 nothing is
disturbed, 8 embedding, 9 the numeric check has nothing to mend. The families and how large
their groups must be stand in tests/families.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

import graphrep
from graphrep.architecture import trace
from graphrep.architecture.nesting import family as siblings
from graphrep.architecture.reorder import reorder_theta
from graphrep.encoders import Batch, GraphEncoder, GraphEncoderConfig
from graphrep.graph import ParameterGraph, log10_symmetries

from .families import BY_NAME, FAMILIES, Family, table
from .families.case import difference, outputs

RECORD: dict[str, table.Row] = {family.name: table.Row() for family in FAMILIES}
LARGEST_EMBEDDED = 50_000  # parameters

pytestmark = [
    # torch itself says so whenever such a layer runs
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def every_family(test):
    """Run a law over all families."""
    marked = []
    for family in FAMILIES:
        marks = [pytest.mark.slow] if family.slow else []
        if family.needs and find_spec(family.needs) is None:
            marks.append(pytest.mark.skip(reason=f"needs {family.needs}"))
        marked.append(pytest.param(family.name, id=family.name, marks=marks))
    return pytest.mark.parametrize("name", marked)(test)


@contextmanager
def recorded(name: str, law: str) -> Iterator[None]:
    """Note for the table of families whether a law held."""
    RECORD[name].laws[law] = "no"
    try:
        yield
    except pytest.skip.Exception:
        RECORD[name].laws[law] = "-"
        raise
    RECORD[name].laws[law] = "yes"


@cache
def checked(name: str) -> ParameterGraph:
    """A family's graph in the precision in which its laws hold, symmetries checked."""
    family = BY_NAME[name]
    graph = graphrep.to_graph(family.module(family.law_dtype), family.inputs(family.law_dtype))
    free = [u for u in graph.architecture.units if not u.fixed]
    row = RECORD[name]
    row.parameters, row.groups = graph.architecture.num_parameters, len(free)
    row.log10 = log10_symmetries(graph.architecture)
    return graph


def reordered(name: str, seed: int = 0) -> ParameterGraph:
    """The graph in another order, drawn from its whole group; skips where there is no other."""
    graph = checked(name)
    if log10_symmetries(graph.architecture) < 0.2:
        pytest.skip(f"nothing can be permuted: {BY_NAME[name].why or 'no free units'}")
    for attempt in range(20):
        generator = torch.Generator().manual_seed(100 * seed + attempt)
        moved = graph.permute(graphrep.random_permutation(graph.architecture, generator))
        if not torch.equal(moved.theta, graph.theta):
            return moved
    raise AssertionError("twenty random permutations moved nothing")


def run(family: Family, state: dict[str, Tensor]) -> list[Tensor]:
    module = family.module(family.law_dtype, seed=1)
    module.load_state_dict(state, strict=True)
    return outputs(module, family.inputs(family.law_dtype))


@every_family
def test_the_state_dict_comes_back_bit_for_bit(name: str) -> None:
    with recorded(name, "round trip"):
        family = BY_NAME[name]
        module = family.module()
        found = graphrep.to_graph(module, family.inputs(family.dtype)).state_dict()
        expected = module.state_dict()
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


@every_family
def test_any_permutation_keeps_all_outputs(name: str) -> None:
    """And no tensor of two axes or more could have been permuted alone."""
    with recorded(name, "permutation"):
        family, graph = BY_NAME[name], checked(name)
        before = graph.state_dict()
        expected = run(family, before)
        for seed in range(2):
            after = reordered(name, seed).state_dict()
            assert difference(run(family, after), expected) < family.tolerance
        moved = [k for k, v in after.items() if v.dim() > 1 and not torch.equal(v, before[k])]
        assert moved
        for key in moved[:6]:
            tied = {k: after[k] for k in after if after[k] is after[key]}
            assert difference(run(family, {**before, **tied}), expected) > 10 * family.tolerance


@every_family
def test_any_two_units_that_belong_together_may_be_swapped(name: str) -> None:
    """A pair of each group, with all that sits within the two."""
    family, graph = BY_NAME[name], checked(name)
    expected = run(family, graph.state_dict())
    generator = torch.Generator().manual_seed(0)
    for units in [u for u in graph.architecture.units if not u.fixed][:8]:
        number, _ = siblings(graph.architecture, units.name)
        first = int(torch.randint(units.size, (), generator=generator))
        others = torch.nonzero(number == number[first]).flatten()
        second = int(others[torch.randint(len(others), (), generator=generator)])
        order = torch.arange(units.size)
        order[first], order[second] = second, first
        swapped = graph.permute({units.name: order}).state_dict()
        assert difference(run(family, swapped), expected) < family.tolerance, units.name


@every_family
def test_the_group_is_as_large_as_theory_says(name: str) -> None:
    family = BY_NAME[name]
    with recorded(name, "size"):
        architecture = checked(name).architecture
        assert architecture.verified
        found, report = log10_symmetries(architecture), checked(name).report()
        if family.least is None:
            assert found == pytest.approx(family.symmetry.log10, abs=1e-6), report
        else:
            assert family.least.log10 - 1e-6 <= found <= family.symmetry.log10 + 1e-6, report
        opaque = {b.tensor for b in architecture.blocks if b.kind == "opaque"}
        numbers = {t.name for t in architecture.tensors if t.numel == 1}  # have no axis to place
        assert opaque - numbers <= set(family.opaque), report
    if found < family.symmetry.log10 - 1e-6:
        RECORD[name].laws["size"] = "part"


@every_family
def test_the_pyg_view_comes_back(name: str) -> None:
    graph = checked(name)
    data = graph.to_pyg()
    shuffled = torch.randperm(
        data.edge_index.shape[1], generator=torch.Generator().manual_seed(0)
    )  # a set of edges has no order
    for key in ("edge_attr", "edge_parameter"):
        data[key] = data[key][shuffled]
    again = ParameterGraph.from_pyg(data, graph.architecture)
    assert torch.equal(again.theta, graph.theta)


@every_family
def test_alignment_recovers_a_planted_permutation(name: str) -> None:
    with recorded(name, "alignment"):
        planted, graph = reordered(name, seed=2), checked(name)
        assert torch.equal(graphrep.align(planted, graph).theta, graph.theta)


@every_family
def test_tracing_on_meta_gives_the_same_architecture(name: str) -> None:
    with recorded(name, "meta"):
        family = BY_NAME[name]
        if family.no_meta:
            pytest.skip(family.no_meta)
        expected = trace(family.module(), family.inputs(family.dtype))
        with torch.device("meta"):
            empty = family.build()
        assert next(empty.parameters()).is_meta
        assert trace(empty, family.inputs(family.dtype)).fingerprint == expected.fingerprint


@every_family
def test_tracing_leaves_the_module_as_it_was(name: str) -> None:
    family = BY_NAME[name]
    module, inputs = family.module().train(), family.inputs(family.dtype)
    next(module.modules()).eval()  # modes may differ within a module
    modes = [m.training for m in module.modules()]
    before, given = copy.deepcopy(module.state_dict()), copy.deepcopy(inputs)
    kept = [(k, v.clone()) for k, v in module.named_buffers()]
    hooks = _hooks(module)
    torch.manual_seed(3)
    graphrep.to_graph(module, inputs)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(3))
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert [k for k, _ in kept] == [k for k, _ in module.named_buffers()]
    assert all(torch.equal(v, b) for (_, v), b in zip(kept, module.buffers(), strict=True))
    assert str(inputs) == str(given)
    assert _hooks(module) == hooks
    assert torch.backends.mha.get_fastpath_enabled() and torch._C._get_mkldnn_enabled()


def _hooks(module: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]


@every_family
@torch.no_grad()
def test_the_graph_embedding_ignores_the_order_of_units(name: str) -> None:
    """And tells networks of one family apart."""
    with recorded(name, "embedding"):
        architecture = checked(name).architecture
        if architecture.num_parameters > LARGEST_EMBEDDED:
            pytest.skip("a large network")
        generator = torch.Generator().manual_seed(4)
        shape = (3, architecture.num_parameters)
        theta = torch.randn(shape, generator=generator, dtype=torch.float64)
        permutation = graphrep.random_permutation(architecture, generator)
        moved = reorder_theta(architecture, theta, permutation)
        encoder = _encoder()
        before = encoder(Batch(architecture, theta, 8)).model
        after = encoder(Batch(architecture, moved, 8)).model
        spread = (before - before.mean(0)).abs().max()
        assert spread > 1e-6  # an encoder that ignores weights is invariant too
        assert (after - before).abs().max() / spread < 1e-9


@cache
def _encoder() -> GraphEncoder:
    torch.manual_seed(0)
    config = GraphEncoderConfig(unit_dim=12, linear_dim=2, curved_dim=2, value_dim=3, num_rounds=2)
    return GraphEncoder(config, token_size=8, latent_dim=8).double().eval()


@every_family
def test_the_numeric_check_has_nothing_to_mend(name: str) -> None:
    """Rules alone are sound, so that what is derived on `meta` can be trusted as well."""
    family = BY_NAME[name]
    derived = trace(family.module(family.law_dtype), family.inputs(family.law_dtype))
    assert derived.fingerprint == checked(name).architecture.fingerprint


def test_the_table_of_families_is_up_to_date() -> None:
    """Rows of families that this run did not touch are compared by name alone."""
    if os.environ.get("GRAPHREP_WRITE_DOCS") == "1":
        table.write(FAMILIES, RECORD)
    stated = table.read()
    assert list(stated) == [family.name for family in FAMILIES]
    for name, row in RECORD.items():
        if row.log10 is not None:
            assert stated[name] == pytest.approx(row.log10, abs=0.006), name
