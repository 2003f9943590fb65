"""What the README shows must run, and print what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
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
    from graphrep.cli import app

    commands = {c.callback.__name__ for c in app.registered_commands if c.callback}
    shell = README.partition("## Five minutes of the command line")[2].split("```")[1]
    shown = set(re.findall(r"^graphrep (\w+)", shell, re.MULTILINE))
    assert shown and shown <= commands


def test_every_file_that_is_named_exists() -> None:
    root = Path(__file__).resolve().parents[1]
    links = re.findall(r"\]\(([^)#]+)\)", README)
    files = [link for link in links if not link.startswith("http")]
    assert len(files) > 3
    for file in files:
        assert (root / file).exists(), file
