"""Files of Stable-Baselines3 written by hand: exact small copies of its layout, and of RL Zoo's."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

VERSION = "_stable_baselines3_version"


def serialised(kind: str, content: bytes = b"not even a pickle", **texts: Any) -> dict[str, Any]:
    """What stands in the JSON for a value that JSON lacks."""
    text = base64.b64encode(content).decode()
    return {":type:": f"<class '{kind}'>", ":serialized:": text, **texts}


def box(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    return serialised("gymnasium.spaces.box.Box", _shape=list(shape), dtype=dtype)


def ppo_data(**changes: Any) -> dict[str, Any]:
    """The settings that PPO writes, as far as they matter, and some that do not."""
    return {
        "policy_class": serialised("abc.ABCMeta", __module__="stable_baselines3.common.policies"),
        "verbose": 1,
        "policy_kwargs": {},
        "num_timesteps": 64,
        "_n_updates": 10,
        "seed": 0,
        "learning_rate": 0.0003,
        "observation_space": box(3),
        "action_space": serialised("gymnasium.spaces.discrete.Discrete", n="2"),
        "n_envs": 2,
        "gamma": 0.9,
        "gae_lambda": 0.95,
        "clip_range": serialised(
            "stable_baselines3.common.utils.FloatSchedule",
            value_schedule="ConstantSchedule(val=0.2)",
        ),
        "start_time": 1700000000000000000,
        **changes,
    }


def ppo_state(*hidden: int, num_inputs: int = 3, num_actions: int = 2, seed: int = 0) -> Any:
    """Weights of a PPO policy, critic as wide as actor."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def layer(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator)
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator)

    for net in ("policy_net", "value_net"):
        widths = (num_inputs, *hidden)
        for i in range(len(hidden)):
            layer(f"mlp_extractor.{net}.{2 * i}", widths[i], widths[i + 1])
    last = hidden[-1] if hidden else num_inputs
    layer("action_net", last, num_actions)
    layer("value_net", last, 1)
    return state


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def write_policy(
    path: Path,
    state: Mapping[str, Tensor] | bytes | None = None,
    data: Any = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    **more: bytes,
) -> Path:
    """One zip file; `state` and `data` may be bytes to write as they are."""
    state = ppo_state(5, 4) if state is None else state
    data = ppo_data() if data is None else data
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("data", data if isinstance(data, bytes) else json.dumps(data))
        archive.writestr("pytorch_variables.pth", saved({}))
        archive.writestr("policy.pth", state if isinstance(state, bytes) else saved(dict(state)))
        archive.writestr("policy.optimizer.pth", saved({"state": {}, "param_groups": []}))
        archive.writestr(VERSION, "2.3.0")
        for name, content in more.items():
            archive.writestr(name, content)
    return path


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """As RL Zoo writes it: an ordered mapping under Python's tag."""
    lines = ["!!python/object/apply:collections.OrderedDict"]
    for i, (name, value) in enumerate(values.items()):
        lines += [f"{'- ' if i == 0 else '  '}- - {name}", f"    - {json.dumps(value)}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_evaluations(path: Path, steps: list[int], returns: list[list[float]]) -> None:
    np.savez(path, timesteps=steps, results=returns, ep_lengths=np.ones((len(steps), 2), int))


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def trap(path: Path) -> bytes:
    return pickle.dumps(Trap(path))
