"""Image sets as files: where they lie under `$GRAPHREP_DATA`, npz and IDX layouts.

Scales nothing and knows no networks. Nothing is ever unpickled.

Letters in shapes: N images, C channels, H and W height and width.
Source of IDX: LeCun et al. 1998.
"""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SOURCES = {
    "mnist": "http://yann.lecun.com/exdb/mnist or any mirror",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)",
    "cifar10_test1k": "1,000 images of CIFAR-10's test set: x_test [1000, 32, 32, 3], y_test",
}
_IDX_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "."),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "."),
}
# Both sets ship files of the same names; their first labels tell them apart.
_FIRST_LABELS = {
    "mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    "fashion_mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
}
DAMAGED = (OSError, EOFError, ValueError, KeyError, struct.error, zlib.error)


@dataclass(frozen=True, kw_only=True)
class RawImages:
    """An image set as published: uint8 [N, C, H, W] and int64 labels [N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    brightest: int = 255  # the value that stands for 1


def data_folder() -> Path:
    """The folder that `$GRAPHREP_DATA` names.

    Raises:
        ValueError: the variable is unset or names no folder.
    """
    value = os.environ.get("GRAPHREP_DATA")
    if not value:
        raise ValueError(
            "the environment variable GRAPHREP_DATA is not set. It names the folder with the "
            "image sets (mnist.npz, fashion_mnist.npz, ...). images=digits needs no files."
        )
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise ValueError(f"GRAPHREP_DATA is '{value}', which is not a folder")
    return folder


def read_mnist_like(name: str) -> RawImages:
    """MNIST or Fashion-MNIST from `<name>.npz` or from the four published IDX files.

    Raises:
        ValueError: no copy found, or a copy that is damaged or of the other set.
    """
    folder = data_folder()
    npz = folder / f"{name}.npz"
    if npz.exists():
        raw = read_npz(npz)
        check(raw, npz, name)
        return raw
    for place in _IDX_FOLDERS[name]:
        if images := _idx_file(folder / place, "train-images", 3):
            raw = RawImages(
                train_images=_read_idx(images, 3)[:, None],
                train_labels=_read_idx(_need_idx(images.parent, "train-labels", 1), 1),
                test_images=_read_idx(_need_idx(images.parent, "t10k-images", 3), 3)[:, None],
                test_labels=_read_idx(_need_idx(images.parent, "t10k-labels", 1), 1),
            )
            check(raw, images.parent, name)
            return raw
    looked = [f"{place}/train-images-idx3-ubyte[.gz]" for place in _IDX_FOLDERS[name]]
    raise not_found(name, folder, [npz.name, *looked])


def not_found(name: str, folder: Path, looked_for: Iterable[str]) -> ValueError:
    names = ", ".join(looked_for)
    return ValueError(
        f"{folder} (GRAPHREP_DATA): found none of {names}. Get '{name}' from {SOURCES[name]}"
    )


def damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path}: cannot be read: {why}. Is the file damaged or cut short?")


def check(raw: RawImages, path: Path, name: str) -> None:
    for part in ("train", "test"):
        images, labels = getattr(raw, f"{part}_images"), getattr(raw, f"{part}_labels")
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            raise damaged(path, f"{part} images are {images.dtype} {images.shape}")
        if labels.shape != (len(images),):
            raise damaged(path, f"{len(images)} {part} images but labels {labels.shape}")
        if labels.min() < 0 or labels.max() > 9:
            raise damaged(path, f"{part} labels run from {labels.min()} to {labels.max()}")
    for other, labels_of_other in _FIRST_LABELS.items():
        if other != name and tuple(raw.train_labels[:10]) == labels_of_other:
            raise ValueError(
                f"{path}: holds {other}, not {name}. Put IDX files into a folder "
                f"'{name}' of their own: both sets use the same file names."
            )


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error


def channels_first(images: np.ndarray) -> np.ndarray:
    """[N, H, W] or [N, H, W, C] to contiguous [N, C, H, W]."""
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    return np.ascontiguousarray(images)


def read_npz(path: Path) -> RawImages:
    arrays = read_arrays(path, ("x_train", "y_train", "x_test", "y_test"))
    return RawImages(
        train_images=channels_first(arrays["x_train"]),
        train_labels=arrays["y_train"].astype(np.int64).reshape(-1),
        test_images=channels_first(arrays["x_test"]),
        test_labels=arrays["y_test"].astype(np.int64).reshape(-1),
    )


def _idx_file(folder: Path, stem: str, num_axes: int) -> Path | None:
    for name in (f"{stem}-idx{num_axes}-ubyte", f"{stem}.idx{num_axes}-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    return None


def _need_idx(folder: Path, stem: str, num_axes: int) -> Path:
    if path := _idx_file(folder, stem, num_axes):
        return path
    raise ValueError(
        f"{folder}: {stem}-idx{num_axes}-ubyte[.gz] is missing beside the other IDX files"
    )


def bytes_of(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except DAMAGED as error:
        raise damaged(path, error) from error


def _read_idx(path: Path, num_axes: int) -> np.ndarray:
    content = bytes_of(path)
    header = 4 + 4 * num_axes
    magic = struct.pack(">HBB", 0, 8, num_axes)  # two zeros, unsigned bytes, axes
    if len(content) < header or content[:4] != magic:
        raise damaged(path, f"it starts with {content[:4]!r}, an IDX file with {magic!r}")
    shape = struct.unpack(f">{num_axes}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != int(np.prod(shape)):
        raise damaged(path, f"it declares {shape} but holds {values.size} bytes")
    array = values.reshape(shape)
    return array.astype(np.int64) if num_axes == 1 else array
