"""Settings, and what describes a run besides its numbers."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from graphrep.tracking import TrackingConfig
from graphrep.tracking.parameters import flatten, git_state, provenance


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Settings:
    colour: Colour = Colour.RED
    sizes: tuple[int, ...] = (8, 8)


def test_settings_become_flat_text() -> None:
    nested = {"a": {"b": 1, "c": {}}, "d": [1, "x"], "e": None, "p": Path("/x"), "t": True}
    assert flatten(nested) == {
        "a.b": "1", "a.c": "{}", "d": '[1, "x"]', "e": "null", "p": "/x", "t": "true",
    }  # fmt: skip


def test_settings_objects_become_flat_text() -> None:
    assert flatten({"s": Settings()}) == {"s.colour": "red", "s.sizes": "[8, 8]"}


def test_the_commit_is_that_of_a_folder_which_git_tracks(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    (tmp_path / "code.py").write_text("1")
    assert git_state(tmp_path) == ("unknown", "unknown")  # a repository that does not track it
    git("add", "code.py")
    git("commit", "-m", "one")
    git_state.cache_clear()
    assert git_state(tmp_path) == (git("rev-parse", "HEAD"), "false")
    (tmp_path / "code.py").write_text("2")
    git_state.cache_clear()
    assert git_state(tmp_path) == (git("rev-parse", "HEAD"), "true")
    assert provenance()["torch_version"].startswith("2.")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"uri": "localhost"}, "must be a URI"),
        ({"flush_size": 0}, "flush_size"),
        ({"flush_seconds": -1.0}, "flush_seconds"),
        ({"experiment": " "}, "experiment"),
    ],
)
def test_a_wrong_setting_is_an_error(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrackingConfig(**wrong)  # type: ignore[arg-type]


def test_the_store_is_the_setting_then_the_environment_then_a_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = TrackingConfig()
    assert local.database == tmp_path / "mlflow.db"
    assert local.artifacts == tmp_path / "mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert TrackingConfig().store_uri == "http://host:5000"
    assert TrackingConfig().database is None and TrackingConfig().is_server
    assert TrackingConfig(uri="https://other").store_uri == "https://other"
