"""One zip file of Stable-Baselines3: its weights and settings, without unpickling.

What the archive claims is held against the file before anything is read; `policy.pth`
then goes through the same checks as any checkpoint.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoint import read_checkpoint
from ...checkpoint.tensor_files import damaged
from ..policies.rebuilt import ACTIVATIONS, RebuiltConfig, family_of, num_features
from .stable_baselines_settings import (
    LONGEST_TEXT,
    class_name,
    is_true,
    number,
    settings_of,
    shape_of,
    whole,
)

KIND = "Stable-Baselines3"
WEIGHTS = "policy.pth"
SETTINGS = "data"
VERSION = "_stable_baselines3_version"
MOST_RECORDS = 1000  # of an archive; these have six to ten
MOST_SETTINGS = 64 << 20  # bytes; the last observations of many environments are among them
GROWTH = 4  # bytes that come out of an archive, a byte of it; the library packs nothing
SHARED = {  # extractors that a critic may share with the actor
    "vf_features_extractor.": "features_extractor.",
    "critic.features_extractor.": "actor.features_extractor.",
}


@dataclass(frozen=True, kw_only=True)
class SavedPolicy:
    """What one file holds."""

    state_dict: dict[str, Tensor]
    config: RebuiltConfig
    settings: dict[str, Any]  # of the training and the policy; plain values
    num_steps: int | None  # of the environment, up to this file
    num_updates: int | None


def read_policy(path: Path) -> SavedPolicy:
    """The policy of one file.

    Raises:
        ValueError: no file of Stable-Baselines3, damaged, larger than it may be, or a policy
            whose layout is not known; the path and the reason are named.
    """
    sizes = _sizes(path)
    if not {WEIGHTS, SETTINGS} <= set(sizes):
        likely = f"no model of {KIND}"
        if "parameter_list" in sizes:
            likely = "a model of Stable-Baselines 2, whose weights are TensorFlow's"
        shown = ", ".join(f"{name:.40}" for name in list(sizes)[:6]) or "nothing"
        raise ValueError(
            f"{path}: {likely}. Expected '{SETTINGS}' and '{WEIGHTS}' in it, found {shown}."
        )
    data = _read_settings(path, sizes[SETTINGS])
    version = ""
    if sizes.get(VERSION, LONGEST_TEXT) < LONGEST_TEXT:
        version = _read(path, VERSION).decode(errors="replace").strip()
    state_dict = _read_weights(path)
    try:
        config = describe_policy(data, state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return SavedPolicy(
        state_dict=state_dict,
        config=config,
        settings={
            "activation": config.activation.lower(),  # as in zoos that are made here
            "hidden": hidden_of(config),
            "stable_baselines3_version": version or None,
            **settings_of(data),
        },
        num_steps=whole(data.get("num_timesteps")),
        num_updates=whole(data.get("_n_updates")),
    )


def describe_policy(data: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> RebuiltConfig:
    """What a policy is, from the shapes of its tensors and the texts of its settings.

    Raises:
        ValueError: a layout or an activation that is not known here.
    """
    shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
    family = family_of(shapes)
    given = data.get("policy_kwargs")
    given = given if isinstance(given, Mapping) else {}
    space = data.get("observation_space")
    shape = shape_of(space)
    if math.prod(shape) != (width := num_features(shapes)) and not _has_images(shapes):
        shape = (width,)  # one-hot, or nothing said
    bytewise = isinstance(space, Mapping) and space.get("dtype") == "uint8" and len(shape) == 3
    clip_mean = number(given.get("clip_mean"))
    return RebuiltConfig(
        family=family,
        activation=_activation(given, "Tanh" if family == "actor_critic" else "ReLU"),
        shapes=shapes,
        observation_shape=shape,
        scaled=bytewise and is_true(given.get("normalize_images"), default=True),
        squashed=is_true(given.get("squash_output")),
        clip_mean=2.0 if clip_mean is None else clip_mean,
        shared_features=_shares_features(state_dict),
    )


def hidden_of(config: RebuiltConfig) -> str:
    """Widths of the actor's hidden layers behind its extractor, such as `64-64`."""
    chains = {
        "actor_critic": "mlp_extractor.policy_net",
        "q_network": "q_net.q_net",
        "soft": "actor.latent_pi",
        "deterministic": "actor.mu",
    }
    pattern = re.escape(chains[config.family]) + r"\.(\d+)\.weight"
    found = ((re.fullmatch(pattern, name), shape) for name, shape in config.shapes.items())
    widths = [width for _, width in sorted((int(m[1]), shape[0]) for m, shape in found if m)]
    ends_linear = config.family in ("q_network", "deterministic")
    return "-".join(map(str, widths[:-1] if ends_linear else widths))


def _sizes(path: Path) -> dict[str, int]:
    """What the records of an archive claim to hold, by name.

    Raises:
        ValueError: no archive, or one that would grow beyond what the library writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
        size = path.stat().st_size
        if min((record.header_offset for record in records), default=0) > 0:
            # Cut within a record that is an archive itself, as weights are.
            raise zipfile.BadZipFile("the archive does not begin where the file does")
    except Exception as error:  # zipfile raises many kinds on damaged archives
        raise damaged(path, KIND, error) from error
    claimed = sum(record.file_size for record in records)
    if len(records) > MOST_RECORDS or claimed > GROWTH * size:
        raise ValueError(
            f"{path}: its {len(records):,} records claim {claimed:,} bytes and the file has "
            f"{size:,}, which {KIND} would not write."
        )
    sizes = {record.filename: record.file_size for record in records}
    if len(sizes) < len(records):
        raise ValueError(f"{path}: two of its records have the same name.")
    return sizes


def _read(path: Path, name: str) -> bytes:
    """One record, of the size that was checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except Exception as error:  # and what it unpacks with raises others
        raise damaged(path, KIND, error) from error


def _read_settings(path: Path, size: int) -> dict[str, Any]:
    if size > MOST_SETTINGS:
        raise ValueError(f"{path}: '{SETTINGS}' claims {size:,} bytes, over {MOST_SETTINGS:,}.")
    try:
        data = json.loads(_read(path, SETTINGS))
    except (ValueError, RecursionError) as error:
        raise damaged(path, KIND, error) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path}: '{SETTINGS}' holds a {type(data).__name__}, expected a mapping of settings."
        )
    return data


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict, by way of a copy: readers of checkpoints check files, not records."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / WEIGHTS
        copy.write_bytes(_read(path, WEIGHTS))
        try:
            return read_checkpoint(copy).state_dict
        except ValueError as error:
            raise ValueError(str(error).replace(f"{copy}", f"{path}: {WEIGHTS}")) from error


def _activation(given: Mapping[str, Any], default: str) -> str:
    """The class that `policy_kwargs` names; the library's default where it names none."""
    if "activation_fn" not in given:
        return default
    name = class_name(given["activation_fn"])
    if name not in ACTIVATIONS:
        raise ValueError(
            f"has the activation {given['activation_fn']!r:.80}; known here are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return name


def _has_images(shapes: Mapping[str, Any]) -> bool:
    return any(".cnn." in name for name in shapes)


def _shares_features(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the extractor of a critic holds the very values of the actor's."""
    for critic, actor in SHARED.items():
        for name, value in state_dict.items():
            if name.startswith(critic):
                other = state_dict.get(actor + name.removeprefix(critic))
                if other is None or not value.equal(other):
                    return False
    return True
