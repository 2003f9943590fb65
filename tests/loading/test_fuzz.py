"""Law: whatever happens to a file, it is read or refused in one line, within bounded memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .fuzz import mutate

NUM = 150  # damaged files a kind


@pytest.mark.parametrize(
    ("kinds", "needs"),
    [
        ("safetensors,torch,legacy,shards", "torch"),
        ("onnx", "onnx"),
        ("folder", "transformers"),
    ],
)
def test_damaged_files_are_read_or_refused(tmp_path: Path, kinds: str, needs: str) -> None:
    pytest.importorskip(needs, reason=f"reading these files needs {needs}")
    output = subprocess.run(
        [sys.executable, "-m", "tests.loading.fuzz", kinds, str(NUM), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [f["kind"] for f in found] == kinds.split(",")
    for outcome in found:
        assert not outcome["failures"], outcome
        assert outcome["read"] + outcome["refused"] == NUM
        assert outcome["read"] > 0 and outcome["refused"] > NUM // 3  # neither blind nor deaf
        assert outcome["grown_mib"] < 200, outcome


def test_mutations_follow_from_their_seed_and_do_damage() -> None:
    content = bytes(range(256)) * 4
    found = [mutate(content, random.Random(seed)) for seed in range(50)]
    assert found == [mutate(content, random.Random(seed)) for seed in range(50)]
    assert sum(f != content for f in found) > 40
