"""Plain settings out of the JSON of a Stable-Baselines3 file.

What JSON lacks stands there as a pickle in base64, beside texts that describe it. The
pickles are never opened: plain values and those texts are all that is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NOT_SETTINGS = {"verbose", "start_time", "tensorboard_log", "num_timesteps", "device"}
LONGEST_TEXT = 200  # letters; longer ones are no settings
NUMBER_OR_RULE = {"learning_rate", "clip_range", "ent_coef", "target_entropy", "normalize"}
ONLY = {  # a file does not say its algorithm's class, but has settings that only one has
    "ppo": "clip_range",
    "trpo": "cg_max_steps",
    "a2c": "gae_lambda",
    "dqn": "exploration_final_eps",
    "tqc": "top_quantiles_to_drop_per_net",
    "sac": "target_entropy",
    "td3": "policy_delay",
}


def settings_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decided the training and has a plain value, by the library's names.

    A schedule that is constant counts as its number; any other has none.
    """
    result: dict[str, Any] = {
        "algorithm": algorithm_of(data),
        "observation_space": describe_space(data.get("observation_space")),
        "action_space": describe_space(data.get("action_space")),
    }
    for name, value in data.items():
        if name.startswith("_") or name in NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            value = _constant(value)
        if is_plain(value):
            result[column_of(name, value)] = value
    if "lr_schedule" in result:
        result.setdefault("learning_rate", result.pop("lr_schedule"))
    return result


def column_of(name: str, value: Any) -> str:
    """Where a setting stands in a table: texts and numbers of one name in two columns."""
    return f"{name}_rule" if name in NUMBER_OR_RULE and isinstance(value, str) else name


def algorithm_of(data: Mapping[str, Any]) -> str | None:
    """Which algorithm has these settings, such as `ppo`; None for one not known here."""
    if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0:
        return "ddpg"
    return next((name for name, key in ONLY.items() if key in data), None)


def describe_space(space: Any) -> str | None:
    """A space in words, such as `Box[4]` or `Discrete(2)`; None where nothing is said."""
    if not isinstance(space, Mapping) or not (name := class_name(space.get(":type:"))):
        return None
    if (count := whole(space.get("n"))) is not None:
        return f"{name}({count})"
    return f"{name}{list(shape_of(space))}"


def shape_of(space: Any) -> tuple[int, ...]:
    """Of an observation, where a space says it."""
    if not isinstance(space, Mapping):
        return ()
    found = space.get("_shape", space.get("shape"))
    sizes = [whole(size) for size in found] if isinstance(found, list) else []
    return tuple(size for size in sizes if size is not None and size > 0)


def class_name(text: Any) -> str:
    """`ReLU` of "<class 'torch.nn.modules.activation.ReLU'>"; of anything else, nothing."""
    match = re.fullmatch(r"<class '[\w.]*?(\w{1,80})'>", text) if isinstance(text, str) else None
    return match[1] if match else ""


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a table: a number, a truth, a short text."""
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    return isinstance(value, bool) or number(value) is not None


def is_true(value: Any, default: bool = False) -> bool:
    """A truth that stands in JSON as itself or as text."""
    return default if value is None else str(value) == "True"


def whole(value: Any) -> int | None:
    """A whole number that stands in JSON as itself or as text."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def number(value: Any) -> float | None:
    """A finite number that stands in JSON as itself or as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _constant(schedule: Mapping[str, Any]) -> float | None:
    text = schedule.get("value_schedule")
    if not isinstance(text, str):
        return None
    match = re.fullmatch(r"ConstantSchedule\(val=(.{1,30})\)", text)
    return number(match[1]) if match else None
