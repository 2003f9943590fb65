"""Checkpoints in several files: an index names the file of each tensor.

Format: `*.index.json` of Hugging Face, {"metadata": ..., "weight_map": {name: file}}.
"""

from __future__ import annotations

import json
import ntpath
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

INDEX_SUFFIX = ".index.json"
LONGEST_INDEX = 32 << 20  # bytes of JSON
WEIGHTS = (  # usual names, in the order in which transformers looks for them
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder, by its usual name.

    Raises:
        ValueError: none of the usual names is there.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"{folder}: is a folder without {' or '.join(WEIGHTS[:2])}. Name one of the files in it."
    )


def read_json(path: Path, longest: int = LONGEST_INDEX) -> dict[str, Any]:
    """A JSON object from a file of bounded size, its names all different.

    Raises:
        ValueError: no such file, too long, not JSON, not an object, or a name twice.
    """
    try:
        size = path.stat().st_size
        text = path.read_bytes() if size <= longest else b""
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if size > longest:
        raise ValueError(f"{path}: has {size:,} bytes, expected JSON of at most {longest:,}.")
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except (RecursionError, ValueError) as error:  # too deep; no JSON, no text, a name twice
        raise ValueError(
            f"{path}: not readable JSON ({str(error)[:100]}). Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a JSON object.")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"'{twice:.60}' twice in one object")
    return result


def read_shards(
    index: Path, read_file: Callable[[Path], Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors that an index lists, in its order, and what to report.

    Args:
        read_file: Reads one shard.

    Raises:
        ValueError: an index of another form, a shard outside of the folder or missing, a
            tensor in two shards or in none.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index}: has no 'weight_map' of tensors to files. Is it an index?")
    for name, shard in places.items():
        if not isinstance(shard, str) or not _plain_name(shard):
            raise ValueError(
                f"{index}: puts '{name:.80}' into {str(shard)[:80]!r}, expected the name of a file "
                "in the same folder. Correct the index, or do not trust it."
            )
    files = sorted(set(places.values()))
    missing = [f for f in files if not (index.parent / f).is_file()]
    if missing:
        raise ValueError(
            f"{index}: names {len(files)} files, of which {len(missing)} are missing: "
            f"{', '.join(missing[:4])}. Download them into {index.parent}."
        )
    found: dict[str, Tensor] = {}
    home: dict[str, str] = {}
    for file in files:
        content = read_file(index.parent / file)
        if not isinstance(content, Mapping):
            raise ValueError(f"{index.parent / file}: holds no tensors by name, expected a shard.")
        for name, value in content.items():
            if name in home:
                raise ValueError(
                    f"{index}: '{str(name)[:80]}' is in {home[name]} and in {file}, expected in "
                    "one file only. Download the files again, all of one version."
                )
            home[name], found[name] = file, value
    wrong = [n for n, f in places.items() if home.get(n) != f]
    if wrong:
        raise ValueError(
            f"{index}: puts '{wrong[0]:.80}' into {places[wrong[0]]}, which does not hold it "
            f"({len(wrong)} such tensors). Download the files again, all of one version."
        )
    steps = [f"{len(files)} shards"]
    unlisted = [n for n in found if n not in places]
    if unlisted:
        steps.append(f"{len(unlisted)} tensors that the index does not list")
    return {**{n: found[n] for n in places}, **{n: found[n] for n in unlisted}}, steps


def _plain_name(name: str) -> bool:
    """Whether a name stays in its folder, on any system."""
    parts_free = name == ntpath.basename(name) and "\0" not in name
    return parts_free and name not in ("", ".", "..")
