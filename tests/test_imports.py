"""Imports: light at the top, and one way through the layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graphrep

PACKAGE = Path(__file__).resolve().parents[1] / "graphrep"
HEAVY = {"torch_geometric", "mlflow", "sklearn", "matplotlib", "pandas", "networkx", "hydra"}
HEAVY |= {"onnx", "transformers", "ray", "gymnasium", "stable_baselines3"}
LAYERS = [  # a module imports from lines above its own
    {"files", "components"},
    {"config", "parsing", "progress", "tracking", "cluster"},
    {"architecture"},
    {"checkpoint", "graph"},
    {"loading", "recognition"},
    {"summary"},
    {"interchange"},
    {"symmetry", "tokens", "scaling", "transformer", "running"},
    {"zoo", "figures"},
    {"encoders"},
    {"decoders", "answers"},
    {"model"},
    {"embedding_networks", "sampling", "training"},
    {"saved_representation"},
    {"representation"},
    {"embedding_inputs", "embedding_table", "predictor"},
    {"embedding_parts", "neighbours"},
    {"embedding", "estimator", "evaluation", "views", "zoo_page"},
    {"settings"},
    {"workflows"},
    {"cli"},
]
LATE = {("graph", "interchange"), ("graph", "summary")}  # views, imported where they are asked for


def level(name: str) -> int:
    found = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert found, f"graphrep.{name} is in no layer"
    return found[0]


def upward(source: str, name: str, depth: int) -> list[str]:
    """Parts of the package that a module, so many folders deep, imports from its line or below."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        if node.level == depth + 1:
            parts = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
            late = {other for own, other in LATE if own == name}
            found += [p for p in parts if p not in late and level(p) >= level(name)]
    return found


def test_every_public_name_can_be_had() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert typed == set(graphrep._HOMES)
    for name in typed:
        assert getattr(graphrep, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'graphs'"):
        graphrep.graphs  # noqa: B018


def test_imports_go_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        name = parts[0].removesuffix(".py")
        if name != "__init__":
            assert not upward(path.read_text(), name, len(parts) - 1), path


def test_an_upward_import_would_be_noticed() -> None:
    assert upward("from .cli import app", "zoo", 0) == ["cli"]
    assert upward("from ..training import train", "encoders", 1) == ["training"]
    assert upward("from ...training import train", "architecture", 2) == ["training"]
    assert not upward("from ..graph import to_graph", "zoo", 1)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import graphrep", set()),
        ("import graphrep.cli", set()),
        ("from graphrep import Zoo", set()),
    ],
)
def test_heavy_libraries_are_imported_where_they_are_used(code: str, allowed: set[str]) -> None:
    found = loaded(code)
    assert not (found & HEAVY) - allowed
    assert "sys" in found


def test_the_command_line_starts_without_torch() -> None:
    """`graphrep --help` needs no tensors."""
    assert "torch" not in loaded("import sys; sys.argv = ['graphrep', '--help']\n"
                                 "from graphrep.cli import main\n"
                                 "try:\n    main()\nexcept SystemExit:\n    pass")  # fmt: skip


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after some code."""
    script = (
        f"{code}\nimport sys; print('MODULES', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    line = next(row for row in output.splitlines() if row.startswith("MODULES"))
    return set(line.split()[1:])
