"""CIFAR-10 as files: true pixels as npz or binary archive, else JPEG copies.

The "python" archive is a pickle and is refused. Decoded JPEG copies are kept
in the user's cache folder.

Letters in shapes: N images.
Source of the binary layout: Krizhevsky 2009.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..files import sha256, write_whole
from .image_files import (
    DAMAGED,
    SOURCES,
    RawImages,
    bytes_of,
    channels_first,
    check,
    damaged,
    data_folder,
    not_found,
    read_arrays,
    read_npz,
)

_CIFAR_RECORDS = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
_CIFAR_FOLDERS = (".", "cifar10", "cifar-10-batches-bin")
_CIFAR_PICKLES = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")


def read_cifar10() -> RawImages:
    """CIFAR-10 from true pixels where there are any, else from JPEG copies.

    Raises:
        ValueError: no copy found, only a pickled one, or a damaged one.
    """
    folder = data_folder()
    if (npz := folder / "cifar10.npz").exists():
        raw, place = read_npz(npz), npz
    elif records := [f for f in _CIFAR_FOLDERS if (folder / f / _CIFAR_RECORDS[0]).exists()]:
        place = folder / records[0]
        raw = _read_records(place, {name: bytes_of(place / name) for name in _CIFAR_RECORDS})
    elif (place := folder / "cifar-10-binary.tar.gz").exists():
        raw = _read_records(place, _members(place, _CIFAR_RECORDS))
    elif (place := folder / "cifar10_jpeg.npz").exists():
        raw = _read_jpeg(place)
    else:
        for pickled in _CIFAR_PICKLES:
            if (folder / pickled).exists():
                raise ValueError(
                    f"{folder / pickled}: this is CIFAR-10's python version, a pickle that could "
                    "run any code when read. Get the binary version instead: "
                    f"{SOURCES['cifar10']}"
                )
        looked = ["cifar10.npz", *(f"{f}/{_CIFAR_RECORDS[0]}" for f in _CIFAR_FOLDERS)]
        raise not_found("cifar10", folder, [*looked, "cifar-10-binary.tar.gz", "cifar10_jpeg.npz"])
    check(raw, place, "cifar10")
    return raw


def read_cifar10_test1k() -> tuple[np.ndarray, np.ndarray]:
    """1,000 test images of CIFAR-10 with their true pixels, and their labels."""
    folder = data_folder()
    path = folder / "cifar10_test1k_lossless.npz"
    if not path.exists():
        raise not_found("cifar10_test1k", folder, [path.name])
    arrays = read_arrays(path, ("x_test", "y_test"))
    return channels_first(arrays["x_test"]), arrays["y_test"].astype(np.int64)


def _members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Files of a tar archive by their last name, read without unpacking."""
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    content[Path(member.name).name] = file.read()
    except (*DAMAGED, tarfile.TarError) as error:
        raise damaged(path, error) from error
    if missing := [name for name in names if name not in content]:
        raise damaged(path, f"it lacks {', '.join(missing)}")
    return content


def _read_records(path: Path, files: dict[str, bytes]) -> RawImages:
    """Records of CIFAR-10's binary version: a label byte, then 3 x 32 x 32 pixels."""
    images, labels = [], []
    for name in _CIFAR_RECORDS:
        values = np.frombuffer(files[name], np.uint8)
        if values.size == 0 or values.size % 3073:
            raise damaged(path / name, f"{values.size} bytes are not records of 3073")
        records = values.reshape(-1, 3073)
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(-1, 3, 32, 32))
    return RawImages(
        train_images=np.concatenate(images[:-1]),
        train_labels=np.concatenate(labels[:-1]),
        test_images=images[-1],
        test_labels=labels[-1],
    )


def _read_jpeg(path: Path) -> RawImages:
    """CIFAR-10 kept as JPEG bytes; decoded once, then read from the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphrep"
    decoded = cache / f"cifar10-{sha256(path)[:16]}.npz"
    if decoded.exists():
        try:
            return read_npz(decoded)
        except ValueError:
            decoded.unlink(missing_ok=True)  # a damaged copy of ours: decode again
    names = ("jpeg_train", "offset_train", "y_train", "jpeg_test", "offset_test", "y_test")
    arrays = read_arrays(path, names)
    content = {
        f"{axis}_{part}": array
        for part in ("train", "test")
        for axis, array in (
            ("x", _decode(path, arrays[f"jpeg_{part}"], arrays[f"offset_{part}"])),
            ("y", arrays[f"y_{part}"]),
        )
    }
    raw = RawImages(
        train_images=channels_first(content["x_train"]),
        train_labels=content["y_train"].astype(np.int64),
        test_images=channels_first(content["x_test"]),
        test_labels=content["y_test"].astype(np.int64),
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(decoded, lambda unfinished: _save_npz(unfinished, content))
    except OSError:
        pass  # a home that cannot be written costs seconds a load, not the run
    return raw


def _save_npz(path: Path, content: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **content)  # type: ignore[arg-type]


def _decode(path: Path, jpeg: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Images [N, 32, 32, 3]; image i is the bytes from offset i to offset i + 1."""
    from PIL import Image, UnidentifiedImageError

    content = jpeg.tobytes()
    images = np.empty((len(offsets) - 1, 32, 32, 3), np.uint8)
    for i, (start, end) in enumerate(pairwise(offsets)):
        try:
            with Image.open(io.BytesIO(content[start:end])) as image:
                images[i] = np.asarray(image.convert("RGB"))
        except (*DAMAGED, UnidentifiedImageError) as error:
            raise damaged(path, f"image {i}: {error}") from error
    return images
