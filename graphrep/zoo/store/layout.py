"""Where things stand in a zoo's folder, and its header `zoo.json`.

    zoo.json                           what the zoo is, its shards, hashes of the files below
    splits.parquet                     model -> split; rows are added, never changed
    properties.parquet                 a row a checkpoint, by model, then epoch; likewise
    architectures/<fingerprint>.json
    weights/<fingerprint>-00000.safetensors   `theta` [rows, P], `buffer.<name>` [rows, ...]
    members/                           finished models that are not yet in the files above
    skipped.csv                        of an import: what could not be taken, and why

The header is written last and decides what belongs to the zoo: shards that it
does not name and table rows beyond its counts are what a killed writer left.
An architecture's rows fill its shards in the order of the properties.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..choices import DTYPES, check_choice, check_fractions
from ..record import SPLITS as SPLITS
from .folder import Folder

FORMAT = "graphrep zoo"
FORMAT_VERSION = 2
SHARD_ROWS = 1000
SHARD_BYTES = 256 * 2**20  # fewer rows where networks are large

HEADER_FILE = "zoo.json"
SPLITS_FILE = "splits.parquet"
PROPERTIES_FILE = "properties.parquet"
SKIPPED_FILE = "skipped.csv"
ARCHITECTURES = "architectures"
WEIGHTS = "weights"
MEMBERS = "members"
SHARED_IMAGES = "members/images.safetensors"  # what the workers of a creation read


def architecture_file(fingerprint: str) -> str:
    """Place of an architecture in the folder."""
    return f"{ARCHITECTURES}/{fingerprint}.json"


def shard_file(fingerprint: str, number: int) -> str:
    """Place of one of an architecture's shards."""
    return f"{WEIGHTS}/{fingerprint}-{number:05d}.safetensors"


def rows_per_shard(row_bytes: int) -> int:
    """How many rows of this size a full shard holds."""
    return max(1, min(SHARD_ROWS, SHARD_BYTES // max(1, row_bytes)))


def write_header(folder: Folder, header: dict[str, Any]) -> None:
    """Write the header of the zoo in a folder; `read_header` is the inverse."""
    about = {"format": FORMAT, "format_version": FORMAT_VERSION}
    content = {**about, **header}
    content["digest"] = header_digest(content)
    text = json.dumps(content, indent=1) + "\n"
    folder.write(HEADER_FILE, lambda unfinished: unfinished.write_text(text))


def header_digest(header: dict[str, Any]) -> str:
    """16 hex digits over all that a header says but this."""
    content = {key: value for key, value in header.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_header(folder: Folder) -> dict[str, Any]:
    """The header of the zoo in a folder.

    Raises:
        ValueError: no zoo there, a damaged header, or one of another version.
    """
    try:
        text = folder.local(HEADER_FILE).read_text()
    except FileNotFoundError as error:
        found = f"has no {HEADER_FILE}" if folder.exists() else "does not exist"
        raise ValueError(
            f"{folder}: not a zoo, it {found}. A zoo is a folder that `graphrep zoo create` or "
            "`graphrep zoo import` wrote"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder}/{HEADER_FILE}: damaged, it is not text: {error}") from error
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder}/{HEADER_FILE}: damaged, it is not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(
            f'{folder}/{HEADER_FILE}: not the header of a zoo, it lacks "format": "{FORMAT}"'
        )
    written = header.get("format_version")
    if written != FORMAT_VERSION:
        remedy = "Was it written by a newer graphrep?"
        if isinstance(written, int) and written < FORMAT_VERSION:
            remedy = "Create it anew from its config: the same members come out"
        raise ValueError(
            f"{folder}/{HEADER_FILE}: has format version {written}, but this graphrep reads "
            f"{FORMAT_VERSION}. {remedy}"
        )
    return header


def new_header(
    *,
    name: str,
    dtype: str,
    licence: str,
    fractions: dict[str, float],
    seed: int,
    recipe: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The header of a zoo without models.

    Args:
        dtype: Of the stored weights, float32 or float16.
        fractions: Of the models that go to `validation` and `test`.
        seed: Of the splits.
        recipe: What the zoo is made from, where graphrep makes it.
        source: Where it was imported from, else.
        facts: More to keep: hashes of the images, say.

    Raises:
        ValueError: an unknown dtype, or fractions that leave no models to train with.
    """
    check_choice("dtype", dtype, DTYPES)
    check_fractions(fractions["validation"], fractions["test"])
    return {
        "name": name,
        "finished": False,
        "recipe": recipe,
        "source": source,
        "facts": facts or {},
        "licence": licence,
        "dtype": dtype,
        "fractions": fractions,
        "seed": seed,
        "versions": {
            package: _version(package) for package in ("graphrep", "torch", "numpy", "safetensors")
        },
        "num_models": 0,
        "num_checkpoints": 0,
        "architectures": {},  # fingerprint -> name, num_parameters, shards: [number, rows] each
        "designs": [],  # what `build_design` builds, by the properties' column `design`
        "storage_loss": {},  # of each shard in float16; `total_loss` sums up
        "sha256": {},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
