"""What the README shows must run, and print what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_tour_of_graphs_runs_as_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tour = BLOCKS[0]
    exec(compile(tour, "README.md", "exec"), {})
    promised = [line[2:] for line in tour.splitlines() if line.startswith("# ")]
    assert len(promised) == 2
    assert capsys.readouterr().out.splitlines() == promised
    assert {f.name for f in tmp_path.iterdir()} == {"net.graphml", "net.svg"}


def test_every_command_that_is_shown_exists() -> None:
    from typer.main import get_command

    from graphrep.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    zoos = (ROOT / "docs" / "zoos.md").read_text()
    shells = [README.partition("## Five minutes of the command line")[2].split("```")[1]]
    shells += zoos.split("```")[1:2]
    for shell in shells:
        shown = re.findall(r"^graphrep (\w+)(?: (\w+))?", shell, re.MULTILINE)
        assert shown
        for name, inner in shown:
            assert name in commands
            if name == "zoo":
                assert inner in commands["zoo"].commands
    assert "create" not in commands  # the control: another level's names are no commands here


def test_every_file_that_is_named_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    files = [link for link in links if not link.startswith("http")]
    assert len(files) > 3
    for file in files:
        assert (ROOT / file).exists(), file
