"""Where things stand in a zoo's folder, and its header `zoo.json`.

    zoo.json                           config, versions, hashes of the files below
    splits.parquet                     model -> split; written once
    properties.parquet                 a row a checkpoint, by model, then epoch
    architectures/<fingerprint>.json
    weights/<fingerprint>-00000.safetensors   `theta` [<= 1000, P], `buffer.<name>` [<= 1000, ...]
    members/                           finished members while the zoo is being created

An architecture's rows fill its shards in the order of the properties.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_json

FORMAT = "graphrep zoo"
FORMAT_VERSION = 1
SHARD_ROWS = 1000
SPLITS = ("train", "validation", "test")

HEADER_FILE = "zoo.json"
SPLITS_FILE = "splits.parquet"
PROPERTIES_FILE = "properties.parquet"
ARCHITECTURES = "architectures"
WEIGHTS = "weights"
MEMBERS = "members"


def architecture_file(fingerprint: str) -> str:
    """Place of an architecture in the folder."""
    return f"{ARCHITECTURES}/{fingerprint}.json"


def shard_file(fingerprint: str, number: int) -> str:
    """Place of an architecture's rows from `number * SHARD_ROWS` on."""
    return f"{WEIGHTS}/{fingerprint}-{number:05d}.safetensors"


def write_header(path: Path, header: dict[str, Any]) -> None:
    """Write the header of the zoo in the folder `path`; `read_header` is the inverse."""
    about = {"format": FORMAT, "format_version": FORMAT_VERSION}
    write_json(path / HEADER_FILE, {**about, **header}, indent=1)


def read_header(path: Path) -> dict[str, Any]:
    """The header of the zoo in the folder `path`, finished or not.

    Raises:
        ValueError: no zoo there, a damaged header, or one of another version.
    """
    file = path / HEADER_FILE
    if not file.exists():
        found = "does not exist" if not path.exists() else f"has no {HEADER_FILE}"
        raise ValueError(
            f"{path}: not a zoo, it {found}. A zoo is a folder that `graphrep zoo` or "
            "create_zoo wrote"
        )
    try:
        header = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: damaged, it is not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f'{file}: not the header of a zoo, it lacks "format": "{FORMAT}"')
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file}: has format version {header.get('format_version')}, but this graphrep reads "
            f"{FORMAT_VERSION}. Was it written by a newer graphrep?"
        )
    return header
