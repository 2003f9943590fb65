"""What the progress bar says: rate and time left of this run alone, and a note."""

from __future__ import annotations

import re

import pytest

from graphrep.progress import in_short, show_progress


def shown(capsys: pytest.CaptureFixture[str], *calls: tuple[int, str | None]) -> str:
    with show_progress("training", 200) as advance:
        for done, note in calls:
            advance(done, note)
    return capsys.readouterr().err


def test_what_was_done_before_has_no_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    resumed = shown(capsys, (150, None))
    assert "150/200" in resumed and "a minute" not in resumed
    going = shown(capsys, (150, None), (151, None), (152, "3.1 M weights/s"))
    assert "152/200" in going and "a minute" in going and "3.1 M weights/s" in going
    assert re.search(r"elapsed 0:00:0\d left +0:00:\d\d", going)
    assert not re.search(r"left +\d", resumed)  # nothing was done yet to tell it by


def test_large_numbers_are_short() -> None:
    assert [in_short(n) for n in (0, 80, 1234567, 2.5e9)] == ["0.0", "80.0", "1.2 M", "2.5 G"]
