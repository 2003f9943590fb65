"""Tables of properties as zoos have them: classifiers, INRs, policies, foreign ones; and zoos
of random weights, with copies where a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from graphrep.zoo import Zoo, append_to
from tests.zoo.store.made import make_record

EPOCHS = (0, 1, 5, 25)


def hashes(num: int, generator: np.random.Generator) -> list[str]:
    return [f"{number:016x}" for number in generator.integers(0, 2**62, num)]


def classifiers(num: int = 60, seed: int = 0) -> pd.DataFrame:
    """Several checkpoints a model, settings that vary, one model that diverged."""
    generator = np.random.default_rng(seed)
    rows, count = num * len(EPOCHS), len(EPOCHS)
    epoch = np.tile(EPOCHS, num)
    final = np.repeat(generator.beta(5, 2, num), count)
    accuracy = (final * (1 - np.exp(-epoch / 4)) + 0.1 + generator.normal(0, 0.01, rows)).clip(0, 1)
    decay = np.where(generator.random(num) < 0.3, 0, 10 ** generator.uniform(-6, -2, num))
    table = pd.DataFrame(
        {
            "model": np.repeat(np.arange(num), count),
            "name": [f"member-{i // count}" for i in range(rows)],
            "architecture": np.repeat(generator.choice(["a" * 16, "b" * 16], num), count),
            "split": np.repeat(generator.choice(["train", "validation", "test"], num), count),
            "epoch": epoch,
            "content_hash": hashes(rows, generator),
            "design": 0,
            "train_loss": 1 - accuracy,
            "test_accuracy": accuracy,
            "diverged": np.repeat(np.arange(num) == 3, count),
            "learning_rate": np.repeat(10 ** generator.uniform(-4, -1, num), count),
            "weight_decay": np.repeat(decay, count),
            "activation": np.repeat(generator.choice(["relu", "tanh"], num), count),
            "images": "mnist",
            "seed": np.repeat(generator.integers(0, 2**40, num), count),
        }
    )
    table.loc[table["diverged"], "train_loss"] = np.inf
    return table


def images(num: int = 80, seed: int = 0) -> pd.DataFrame:
    """A network an image: no accuracy, one checkpoint."""
    generator = np.random.default_rng(seed)
    error = 10 ** generator.normal(-3.5, 0.3, num)
    return pd.DataFrame(
        {
            "model": np.arange(num),
            "name": [f"image-{i}" for i in range(num)],
            "architecture": "c" * 16,
            "split": generator.choice(["train", "test"], num),
            "epoch": 500,
            "content_hash": hashes(num, generator),
            "design": 0,
            "mse": error,
            "psnr": -10 * np.log10(error),
            "label": generator.integers(0, 10, num),
        }
    )


def policies(num: int = 30, seed: int = 0) -> pd.DataFrame:
    """Returns instead of accuracies."""
    generator = np.random.default_rng(seed)
    learned = np.tile([-1400.0, -600.0, -200.0], num)
    return pd.DataFrame(
        {
            "model": np.repeat(np.arange(num), 3),
            "name": [f"policy-{i // 3}" for i in range(3 * num)],
            "architecture": "d" * 16,
            "split": np.repeat(generator.choice(["train", "test"], num), 3),
            "epoch": np.tile([0, 1, 2], num),
            "content_hash": hashes(3 * num, generator),
            "design": -1,
            "test_return": learned + generator.normal(0, 50, 3 * num),
            "environment": "Pendulum-v1",
        }
    )


def foreign(num: int = 50, columns: int = 60, seed: int = 0) -> pd.DataFrame:
    """Columns of all sorts with long names, no splits and no hashes."""
    generator = np.random.default_rng(seed)
    kinds = (
        lambda scale: generator.normal(size=num) * scale,
        lambda scale: 10 ** generator.uniform(-8, 3, num),
        lambda scale: np.where(generator.random(num) < 0.5, np.nan, generator.normal(size=num)),
        lambda scale: np.append(generator.normal(size=num - 1), 1e12),
        lambda scale: generator.choice(["cifar10", "svhn_cropped"], num),
        lambda scale: generator.random(num) < 0.5,
        lambda scale: np.full(num, np.nan),
        lambda scale: [f"some text of its own {i}" for i in range(num)],
    )
    content: dict[str, object] = {
        "model": np.arange(num),
        "name": [f"dir/run_{i}" for i in range(num)],
        "architecture": "e" * 16,
        "split": pd.Series([None] * num, dtype="str"),
        "design": -1,
    }
    for i in range(columns):
        name = f"config.a_very_long_name_of_a_column_{i}" if i % 2 else f"optim::column{i}"
        content[name] = kinds[i % len(kinds)](10.0 ** (i - 20))
    content["mixed"] = pd.Series([True, None] * (num // 2), dtype=object)
    return pd.DataFrame(content)


TABLES = {
    "classifiers": classifiers,
    "images": images,
    "policies": policies,
    "foreign": foreign,
}


def zoo_of(path: Path, splits: Sequence[str | None], copies: Sequence[tuple[int, int]] = ()) -> Zoo:
    """A zoo with a model of two checkpoints of random weights for each split.

    Args:
        copies: Pairs (a, b): model b has the weights of model a.
    """
    records = [make_record(i, split=split) for i, split in enumerate(splits)]
    for first, second in copies:
        original = records[first]
        records[second] = make_record(
            second,
            split=splits[second],
            architecture=original.architecture,
            theta=original.theta,
            buffers=original.buffers,
        )
    with append_to(path, name="made by hand") as writer:
        writer.add(records)
    return Zoo.open(path)


def make_module() -> nn.Module:
    """The module whose design most models of `zoo_of` have."""
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
