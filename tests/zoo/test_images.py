"""Image sets: standardising, limits, file formats, real data where there is any."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from graphrep.zoo import load_images, raw_test_images
from graphrep.zoo.images import open_images, save_images

REAL = os.environ.get("GRAPHREP_DATA", "")
needs_data = pytest.mark.skipif(not REAL, reason="GRAPHREP_DATA is not set")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty GRAPHREP_DATA and an empty cache."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("GRAPHREP_DATA", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return data


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, suffix: str = "", first: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 40)
    labels[: len(first)] = first
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (40, 28, 28)),
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28)),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 20),
    }
    for name, array in arrays.items():
        content = idx(array)
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return arrays


def cifar_records(num: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (num, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records.tobytes()


BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def test_digits_are_standardised_and_split_by_class() -> None:
    images = load_images("digits")
    assert images.input_shape == (1, 8, 8)
    assert len(images.train_labels) == 1348 and len(images.test_labels) == 449
    assert abs(float(images.train_images.mean())) < 1e-5
    assert float(images.train_images.std()) == pytest.approx(1, abs=1e-3)
    share = images.train_labels.bincount() / (
        images.train_labels.bincount() + images.test_labels.bincount()
    )
    assert (share - 0.75).abs().max() < 0.01
    both = torch.cat([images.train_images, images.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 1797  # all images once: none in both parts
    assert images.sha256() == load_images("digits").sha256()


def test_limits_keep_the_classes_shares_and_the_scaling() -> None:
    whole, part = load_images("digits"), load_images("digits", train_limit=200, test_limit=50)
    assert len(part.train_labels) == 200 and len(part.test_labels) == 50
    assert part.train_labels.bincount().min() >= 18
    assert (part.mean, part.std) == (whole.mean, whole.std)
    rows = {tuple(image.tolist()) for image in whole.train_images.flatten(1)}
    assert all(tuple(image.tolist()) in rows for image in part.train_images.flatten(1))
    assert part.sha256() != whole.sha256()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        load_images("digits", train_limit=0)


def test_saved_images_are_opened_as_they_were(tmp_path: Path) -> None:
    images = load_images("digits", train_limit=20, test_limit=10)
    save_images(images, tmp_path / "images.safetensors")
    opened = open_images(tmp_path / "images.safetensors")
    assert opened.sha256() == images.sha256()
    assert (opened.name, opened.mean, opened.num_classes) == ("digits", images.mean, 10)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "fashion_mnist", "FashionMNIST/raw"])
def test_idx_files_are_read_as_they_are_published(folder: Path, place: str, suffix: str) -> None:
    arrays = write_idx(folder / place, suffix)
    images = load_images("fashion_mnist")
    pixels = images.train_images * images.std[0] + images.mean[0]
    expected = torch.from_numpy(arrays["train-images-idx3-ubyte"]).float() / 255
    torch.testing.assert_close(pixels[:, 0], expected)
    assert images.train_labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    raw, labels = raw_test_images("fashion_mnist")
    assert raw.dtype == torch.uint8 and raw.shape == (20, 1, 28, 28)
    assert np.array_equal(raw[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()


def test_idx_files_of_the_other_set_are_noticed(folder: Path) -> None:
    write_idx(folder, first=(9, 0, 0, 3, 0, 2, 7, 2, 5, 5))
    load_images("fashion_mnist")
    with pytest.raises(ValueError, match="holds fashion_mnist, not mnist"):
        load_images("mnist")


@pytest.mark.parametrize("harm", ["cut", "magic", "missing", "gzip", "labels", "counts"])
def test_damaged_idx_files_are_errors_that_name_the_file(folder: Path, harm: str) -> None:
    write_idx(folder / "mnist", ".gz" if harm == "gzip" else "")
    images = folder / "mnist" / "train-images-idx3-ubyte"
    labels = folder / "mnist" / "train-labels-idx1-ubyte"
    match harm:
        case "cut":
            images.write_bytes(images.read_bytes()[:-5])
            message = r"train-images-idx3-ubyte: .*declares \(40, 28, 28\) but holds"
        case "magic":
            images.write_bytes(b"\x80\x04\x95x" + images.read_bytes()[4:])
            message = "train-images-idx3-ubyte: .*it starts with"
        case "missing":
            labels.unlink()
            message = r"train-labels-idx1-ubyte\[.gz\] is missing"
        case "gzip":
            packed = images.with_suffix(".gz")
            packed.write_bytes(packed.read_bytes()[:100])
            message = "train-images-idx3-ubyte.gz: cannot be read"
        case "labels":
            labels.write_bytes(idx(np.full(40, 17)))
            message = "train labels run from 17 to 17"
        case _:
            labels.write_bytes(idx(np.zeros(39)))
            message = r"40 train images but labels \(39,\)"
    with pytest.raises(ValueError, match=message):
        load_images("mnist")


def test_cifar_s_binary_version_is_read_from_folder_and_archive(folder: Path) -> None:
    content = {name: cifar_records(3, i) for i, name in enumerate(BATCHES)}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packed = load_images("cifar10")
    place = folder / "cifar-10-batches-bin"
    place.mkdir()
    for name, data in content.items():
        (place / name).write_bytes(data)
    (folder / "cifar-10-binary.tar.gz").unlink()
    images = load_images("cifar10")
    assert images.sha256() == packed.sha256()
    assert images.input_shape == (3, 32, 32) and len(images.train_labels) == 15
    raw, labels = raw_test_images("cifar10")
    record = np.frombuffer(content["test_batch.bin"], np.uint8)[:3073]
    assert int(labels[0]) == record[0]
    assert raw[0].flatten().tolist() == record[1:].tolist()
    (place / "data_batch_3.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"data_batch_3.bin: .*3 bytes are not records of 3073"):
        load_images("cifar10")


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "data_batch_1"])
def test_cifar_s_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"a pickle .*binary version instead"):
        load_images("cifar10")


def write_jpegs(folder: Path) -> np.ndarray:
    """CIFAR-10 as JPEG bytes, 6 train and 4 test images of even colours."""
    from PIL import Image

    colours = np.arange(30, dtype=np.uint8).reshape(10, 3) * 8
    content: dict[str, np.ndarray] = {}
    for part, rows in (("train", colours[:6]), ("test", colours[6:])):
        files = []
        for colour in rows:
            file = io.BytesIO()
            Image.fromarray(np.tile(colour, (32, 32, 1))).save(file, "jpeg", quality=95)
            files.append(file.getvalue())
        content[f"jpeg_{part}"] = np.frombuffer(b"".join(files), np.uint8)
        content[f"offset_{part}"] = np.cumsum([0, *map(len, files)])
        content[f"y_{part}"] = np.arange(len(rows), dtype=np.uint8)
    np.savez(folder / "cifar10_jpeg.npz", **content)  # type: ignore[arg-type]
    return colours[6:]


def test_jpeg_copies_are_decoded_once_and_cached_whole(folder: Path, tmp_path: Path) -> None:
    colours = write_jpegs(folder)
    raw, _ = raw_test_images("cifar10")
    assert (raw.float().mean((2, 3)) - torch.from_numpy(colours).float()).abs().max() < 4
    (cached,) = (tmp_path / "cache/graphrep").iterdir()
    before = cached.stat().st_mtime_ns
    assert raw_test_images("cifar10")[0].equal(raw)
    assert cached.stat().st_mtime_ns == before
    cached.write_bytes(cached.read_bytes()[:100])
    assert raw_test_images("cifar10")[0].equal(raw)  # decoded again
    assert cached.stat().st_mtime_ns != before


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, tmp_path: Path) -> None:
    write_jpegs(folder)
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert len(raw_test_images("cifar10")[0]) == 4


def test_missing_data_are_errors_that_say_what_to_get(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"found none of mnist\.npz, .*Get 'mnist' from http"):
        load_images("mnist")
    with pytest.raises(ValueError, match=r"found none of cifar10\.npz.*cifar10_jpeg\.npz"):
        load_images("cifar10")
    with pytest.raises(ValueError, match=r"cifar10_test1k_lossless\.npz"):
        raw_test_images("cifar10_test1k")
    with pytest.raises(ValueError, match="has no train part"):
        load_images("cifar10_test1k")
    monkeypatch.setenv("GRAPHREP_DATA", str(folder / "nowhere"))
    with pytest.raises(ValueError, match="which is not a folder"):
        load_images("mnist")
    monkeypatch.delenv("GRAPHREP_DATA")
    with pytest.raises(ValueError, match=r"GRAPHREP_DATA is not set.*digits needs no files"):
        load_images("mnist")


def test_a_damaged_npz_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "mnist.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"mnist\.npz: cannot be read"):
        load_images("mnist")
    np.savez(folder / "mnist.npz", x_train=np.zeros((3, 28, 28)))
    with pytest.raises(ValueError, match=r"mnist\.npz: cannot be read: .*y_train"):
        load_images("mnist")


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_sets_have_their_published_sizes(name: str) -> None:
    images = load_images(name, train_limit=1000)
    assert images.input_shape == (1, 28, 28)
    assert len(images.train_labels) == 1000 and len(images.test_labels) == 10_000
    assert images.mean[0] == pytest.approx(
        {"mnist": 0.1307, "fashion_mnist": 0.2860}[name], abs=1e-4
    )
    assert raw_test_images(name)[0].shape == (10_000, 1, 28, 28)


@needs_data
def test_jpeg_copies_of_cifar_resemble_the_true_pixels() -> None:
    lossless, labels = raw_test_images("cifar10_test1k")
    assert lossless.shape == (1000, 3, 32, 32)
    assert labels.bincount().tolist() == [100] * 10
    copies, labels_of_copies = raw_test_images("cifar10")
    assert copies.shape == (10_000, 3, 32, 32)
    for image, label in zip(lossless[:3], labels, strict=False):
        distances = (copies.float() - image.float()).abs().mean((1, 2, 3))
        (nearest, second), places = distances.topk(2, largest=False)
        assert nearest < 8 < second  # its own copy, then any other
        assert labels_of_copies[places[0]] == label
