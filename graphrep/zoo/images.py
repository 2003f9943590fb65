"""Image sets for training and judging a zoo's networks.

`digits` is built in (scikit-learn); `mnist`, `fashion_mnist` and `cifar10` are
read from `$GRAPHREP_DATA`. `load_images` standardises, `raw_test_images` gives
the published pixels, for networks of others that bring their own scaling.

Letters in shapes: N images, C channels, H and W height and width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import write_whole
from .cifar_files import read_cifar10, read_cifar10_test1k
from .image_files import RawImages, read_mnist_like

IMAGE_SETS = ("digits", "mnist", "fashion_mnist", "cifar10")
RAW_TEST_SETS = (*IMAGE_SETS, "cifar10_test1k")
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, kw_only=True)
class Images:
    """An image set split into a train and a test part.

    Pixels were scaled to 0..1, then standardised with `mean` and `std`, those
    of each channel over the whole train part as published.
    """

    name: str
    train_images: Tensor  # float32 [N, C, H, W]
    train_labels: Tensor  # int64 [N]
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def sha256(self) -> str:
        """Hash of all pixels and labels, as hex digits."""
        digest = hashlib.sha256()
        for name in _TENSORS:
            digest.update(getattr(self, name).contiguous().numpy().data)
        return digest.hexdigest()


def load_images(
    name: str, *, train_limit: int | None = None, test_limit: int | None = None
) -> Images:
    """Read an image set and standardise it.

    Args:
        name: One of `IMAGE_SETS`.
        train_limit: Keep about as many of each class as make this many train
            images, always the same ones; None keeps all.
        test_limit: The same for the test part.

    Raises:
        ValueError: unknown name, `$GRAPHREP_DATA` unset, files missing or damaged.
    """
    raw = _read(name)
    mean, std = _moments(raw)
    train_images, train_labels = _limited(raw.train_images, raw.train_labels, train_limit)
    test_images, test_labels = _limited(raw.test_images, raw.test_labels, test_limit)
    return Images(
        name=name,
        train_images=_standardise(train_images, mean, std, raw.brightest),
        train_labels=torch.from_numpy(train_labels),
        test_images=_standardise(test_images, mean, std, raw.brightest),
        test_labels=torch.from_numpy(test_labels),
        num_classes=10,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def raw_test_images(name: str) -> tuple[Tensor, Tensor]:
    """The test part as published: uint8 [N, C, H, W] and int64 labels [N].

    Args:
        name: One of `RAW_TEST_SETS`. `cifar10` may come from JPEG copies, which
            cost networks trained on true pixels ten points of accuracy;
            `cifar10_test1k` has true pixels.

    Raises:
        ValueError: as for `load_images`.
    """
    if name == "cifar10_test1k":
        images, labels = read_cifar10_test1k()
    else:
        raw = _read(name)
        images, labels = raw.test_images, raw.test_labels
    return torch.from_numpy(images.copy()), torch.from_numpy(labels)


def save_images(images: Images, path: Path) -> None:
    """Write an image set whole; `open_images` is the inverse."""
    from safetensors.torch import save_file

    about = {name: value for name, value in vars(images).items() if name not in _TENSORS}
    tensors = {name: getattr(images, name).contiguous() for name in _TENSORS}
    metadata = {"about": json.dumps(about)}
    write_whole(path, lambda unfinished: save_file(tensors, unfinished, metadata))


def open_images(path: Path) -> Images:
    """Map what `save_images` wrote; processes that open one file share its memory."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in _TENSORS}
    about |= {"mean": tuple(about["mean"]), "std": tuple(about["std"])}
    return Images(**tensors, **about)


def stratified(labels: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Positions of `num` items, each class with its share, in ascending order."""
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * (num / len(labels))
    wanted = np.floor(shares).astype(int)
    short = num - wanted.sum()
    wanted[np.argsort(wanted - shares, kind="stable")[:short]] += 1
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels == c))[:n]
        for c, n in zip(classes, wanted, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _read(name: str) -> RawImages:
    match name:
        case "digits":
            return _digits()
        case "mnist" | "fashion_mnist":
            return read_mnist_like(name)
        case "cifar10":
            return read_cifar10()
        case "cifar10_test1k":
            raise ValueError(
                "'cifar10_test1k' has no train part; raw_test_images('cifar10_test1k') gives "
                "its images"
            )
        case _:
            raise ValueError(f"images must be one of {', '.join(IMAGE_SETS)}, got '{name}'")


def _digits() -> RawImages:
    """scikit-learn's digits, a quarter of each class for the test, always the same."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train = stratified(labels, round(0.75 * len(labels)), seed=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    return RawImages(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        brightest=16,
    )


def _moments(raw: RawImages) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of the train part, scaled to 0..1."""
    total, squares, num = 0.0, 0.0, 0
    for start in range(0, len(raw.train_images), 4096):  # bounds the memory of float64
        part = raw.train_images[start : start + 4096] / raw.brightest
        total = total + part.sum(axis=(0, 2, 3))
        squares = squares + (part**2).sum(axis=(0, 2, 3))
        num += part[:, 0].size
    mean = np.asarray(total / num)
    return mean, np.sqrt(squares / num - mean**2)


def _limited(
    images: np.ndarray, labels: np.ndarray, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if limit is None or limit >= len(labels):
        return images, labels
    if limit < 1:
        raise ValueError(f"a limit of images must be at least 1, got {limit}")
    chosen = stratified(labels, limit, seed=0)
    return images[chosen], labels[chosen]


def _standardise(images: np.ndarray, mean: np.ndarray, std: np.ndarray, brightest: int) -> Tensor:
    pixels = torch.from_numpy(images.astype(np.float32)).div_(brightest)
    shape = (1, -1, 1, 1)
    centre = torch.from_numpy(mean).float().view(shape)
    return pixels.sub_(centre).div_(torch.from_numpy(std).float().view(shape))
