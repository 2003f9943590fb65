"""Finding what has changed on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graphrep.zoo import Zoo, append_to
from graphrep.zoo.store import layout
from graphrep.zoo.store.verify import num_files, verify_zoo
from tests.zoo.store.made import make_record


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    with append_to(tmp_path / "zoo") as writer:
        writer.add([make_record(n) for n in range(4)])
    return tmp_path / "zoo"


def test_a_sound_zoo_has_no_problems_and_every_file_is_read(sound: Path) -> None:
    read: list[object] = []
    assert verify_zoo(sound, lambda done=None: read.append(done)) == []
    assert len(read) == num_files(sound) == len([f for f in sound.rglob("*") if f.is_file()]) - 1


def test_any_flipped_bit_is_found_and_its_model_named(sound: Path, tmp_path: Path) -> None:
    for file in sound.rglob("*.safetensors"):
        size = file.stat().st_size
        for place in (size - 1, size // 2, 20):  # values, and the file's own header
            copy = tmp_path / "flipped"
            shutil.copytree(sound, copy)
            damaged = copy / file.relative_to(sound)
            content = bytearray(damaged.read_bytes())
            content[place] ^= 4
            damaged.write_bytes(content)
            problems = verify_zoo(copy)
            assert any(f"weights/{file.name}: its bytes are not those" in p for p in problems)
            if place == size // 2:
                assert any(
                    "the values of 1 checkpoints have changed: model-" in p for p in problems
                )
            shutil.rmtree(copy)


def test_tables_architectures_and_missing_files_are_checked(sound: Path) -> None:
    kept = {f: f.read_bytes() for f in sound.rglob("*") if f.is_file()}

    def problems(name: str, content: bytes | None) -> str:
        file = sound / name
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        found = "\n".join(verify_zoo(sound))
        file.write_bytes(kept[file])
        return found

    assert "properties.parquet: cannot be read" in problems("properties.parquet", b"PAR1")
    assert "splits.parquet: is missing" in problems("splits.parquet", None)
    first, second = sorted((sound / "architectures").iterdir())
    swapped = problems(f"architectures/{first.name}", second.read_bytes())
    assert f"describes {second.stem}, another architecture" in swapped
    assert verify_zoo(sound) == []


def test_a_changed_header_is_found(sound: Path) -> None:
    text = (sound / "zoo.json").read_text()
    (sound / "zoo.json").write_text(text.replace('"licence": "unknown"', '"licence": "CC0-1.0"'))
    assert verify_zoo(sound) == ["zoo.json: what it says has changed since it was written"]
    (sound / "zoo.json").write_text(text)
    assert verify_zoo(sound) == []


def test_staged_models_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), append_to(tmp_path) as writer:
        writer.add([make_record(0)])
        raise RuntimeError
    assert verify_zoo(tmp_path) == []
    (file,) = (tmp_path / "members").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'test_accuracy\\": 1.0', b'test_accuracy\\": 4.0'))
    assert "what it says of its models has changed" in verify_zoo(tmp_path)[0]
    content = bytearray(whole)
    content[-1] ^= 1
    file.write_bytes(content)
    assert "the values of 1 checkpoints have changed: model-0, epoch 1" in verify_zoo(tmp_path)[0]


def test_an_addition_that_was_cut_short_is_told_and_mended(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise RuntimeError("the header is written last")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="last"):
        patch.setattr(layout, "write_header", die)
        with append_to(sound) as writer:
            writer.add([make_record(4)])
    assert len(Zoo.open(sound)) == 10  # eight in its files, two staged
    assert any("an addition was cut short" in p for p in verify_zoo(sound))
    with append_to(sound):
        pass
    assert verify_zoo(sound) == [] and len(Zoo.open(sound)) == 10
