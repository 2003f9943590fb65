"""The catalogue of operations in the docs is the table of rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import graphrep
from graphrep.architecture.rules import FAMILIES, RULES
from graphrep.architecture.rules.catalogue import catalogue

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"


def test_the_page_lists_every_rule() -> None:
    text = catalogue(FAMILIES)
    for rule in RULES.values():
        assert f"`{rule.name}`" in text, f"{rule.name}: its module is in no family"
        assert rule.says in " ".join(text.split()) or "\n" in rule.says
    if os.environ.get("GRAPHREP_WRITE_DOCS"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run again with GRAPHREP_WRITE_DOCS=1"


class Cumulated(nn.Module):
    """Sums over units in their order: no rule can let them move."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.last(self.first(x).cumsum(-1))


def test_strict_names_the_operation_its_module_and_line() -> None:

    line = Cumulated.forward.__code__.co_firstlineno + 1
    with pytest.raises(
        ValueError, match=rf"'cumsum' .*test_operations.py:{line} .*first"
    ) as caught:
        graphrep.to_graph(Cumulated(), torch.randn(2, 3), strict=True)
    assert "\n" not in str(caught.value)
    graph = graphrep.to_graph(Cumulated(), torch.randn(2, 3))
    assert "cumsum" in graph.report() and graph.architecture.notes[0].unsupported


def test_strict_lets_pass_what_needs_no_other_rule() -> None:

    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert graphrep.to_graph(module, torch.randn(2, 3), strict=True).architecture.units
