"""Laws on files that others trained: chains are recognised with the groups they are known to have.

Skipped where `$GRAPHREP_CHECKPOINTS` is not set; see `tests/real_checkpoints.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from graphrep.loading import load_graph
from tests.real_checkpoints import CASES, CHECKPOINTS, RealCase

pytestmark = pytest.mark.skipif(not CHECKPOINTS, reason="GRAPHREP_CHECKPOINTS is not set")
NO_CHAINS = ("resnet20-12fca82f", "cifar10_resnet__resnet2b", "pnet", "rnet")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_chains_are_told_from_what_is_none(case: RealCase) -> None:
    path = Path(CHECKPOINTS) / case.file
    if case.name in NO_CHAINS:
        with pytest.raises(ValueError, match="no plain chain of layers can be read off"):
            load_graph(path)
        return
    graph = load_graph(path).graph
    assert tuple(u.size for u in graph.architecture.units if not u.fixed) == case.hidden
    stored, found = case.checkpoint().state_dict, graph.state_dict()
    assert all(found[n].equal(v) for n, v in stored.items())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_file_with_its_model_has_the_known_groups(case: RealCase) -> None:
    loaded = load_graph(
        Path(CHECKPOINTS) / case.file, model=case.build, input_shape=(1, *case.shape)
    )
    hidden = tuple(u.size for u in loaded.graph.architecture.units if not u.fixed)
    assert hidden == case.hidden
