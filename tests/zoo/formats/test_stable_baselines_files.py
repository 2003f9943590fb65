"""Importing policies by hand: RL Zoo's layout, odd settings, damaged and hostile files."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrep.zoo.formats.stable_baselines import StableBaselines, environment_of
from graphrep.zoo.formats.stable_baselines_file import SavedPolicy, read_policy
from graphrep.zoo.formats.stable_baselines_logs import read_yaml
from graphrep.zoo.policies.rebuilt import RebuiltConfig, family_of, rebuild
from graphrep.zoo.record import Record, Skipped
from tests.zoo.formats.policies_by_hand import (
    box,
    ppo_data,
    ppo_state,
    saved,
    serialised,
    trap,
    write_evaluations,
    write_policy,
    write_yaml,
)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as raised:
        read_policy(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def taken(reader: StableBaselines, name: str) -> tuple[Record, dict[str, str]]:
    """A run's record, and what of it was skipped."""
    found = list(reader.read(name))
    records = [item for item in found if isinstance(item, Record)]
    assert len(records) == 1
    return records[0], {item.name: item.reason for item in found if isinstance(item, Skipped)}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two runs of RL Zoo, a model of the hub, and two files of no run."""
    run = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    for file, steps in (("rl_model_100_steps", 100), ("best_model", 200), ("CartPole-v1", 250)):
        write_policy(
            run / f"{file}.zip", ppo_state(5, 4, seed=steps), ppo_data(num_timesteps=steps)
        )
    write_yaml(run / "CartPole-v1" / "args.yml", {"algo": "ppo", "env": "CartPole-v1", "seed": 7})
    config = {"learning_rate": "lin_0.001", "n_timesteps": 250.0, "normalize": True}
    write_yaml(run / "CartPole-v1" / "config.yml", {**config, "policy_kwargs": "dict(a=[1])"})
    write_evaluations(run / "evaluations.npz", [200, 100], [[30.0, 50.0], [10.0, 10.0]])
    other = tmp_path / "logs" / "ppo" / "MiniGrid-Empty-5x5-v0_1"
    write_policy(other / "MiniGrid-Empty-5x5-v0.zip")
    write_yaml(other / "MiniGrid-Empty-5x5-v0" / "config.yml", {"n_envs": 4})
    hub = tmp_path / "ppo-Acrobot-v1"
    write_policy(hub / "ppo-Acrobot-v1.zip")
    hub.joinpath("config.yml").write_text("gamma: 0.5\n")
    hub.joinpath("results.json").write_text(
        json.dumps({"mean_reward": -80.5, "std_reward": 2.5, "n_eval_episodes": 10})
    )
    write_policy(tmp_path / "loose" / "a_10_steps.zip", data=ppo_data(num_timesteps=10))
    write_policy(tmp_path / "loose" / "a_9_steps.zip", data=ppo_data(num_timesteps=9))
    write_policy(tmp_path / "loose" / "b.zip")
    write_policy(tmp_path / ".cache" / "c.zip")
    return tmp_path


def test_models_are_runs(zoo: Path) -> None:
    assert list(StableBaselines(zoo).names()) == [
        "logs/ppo/CartPole-v1_1",
        "logs/ppo/MiniGrid-Empty-5x5-v0_1",
        "loose/a_*_steps.zip",
        "loose/b.zip",
        "ppo-Acrobot-v1",
    ]
    assert list(StableBaselines(zoo / "loose" / "b.zip").names()) == ["b.zip"]
    assert list(StableBaselines(zoo / "ppo-Acrobot-v1").names()) == ["ppo-Acrobot-v1"]


def test_checkpoints_of_a_run_follow_their_steps(zoo: Path) -> None:
    reader = StableBaselines(zoo)
    record, skipped = taken(reader, "logs/ppo/CartPole-v1_1")
    assert [row["environment_steps"] for row in record.rows] == [100, 200, 250]
    first = ppo_state(5, 4, seed=100)["action_net.bias"]
    offset = next(t.offset for t in record.architecture.tensors if t.name == "action_net.bias")
    assert record.theta[0, offset : offset + 2].equal(first)
    assert not record.theta[1, offset : offset + 2].equal(first) and not skipped
    record, _ = taken(reader, "loose/a_*_steps.zip")
    assert [row["file"] for row in record.rows] == ["a_9_steps.zip", "a_10_steps.zip"]


def test_returns_belong_to_the_checkpoint_of_their_steps(zoo: Path) -> None:
    record, _ = taken(StableBaselines(zoo), "logs/ppo/CartPole-v1_1")
    first, best, final = record.rows
    assert (first["test_return"], first["test_return_std"], first["test_episodes"]) == (10, 0, 2)
    assert (best["test_return"], best["test_return_std"]) == (40, 10)
    assert "test_return" not in final  # of its own steps there is none
    assert (final["last_test_return"], final["last_test_steps"]) == (40, 200)
    hub, _ = taken(StableBaselines(zoo), "ppo-Acrobot-v1")
    assert hub.rows[0]["test_return"] == -80.5 and hub.rows[0]["test_episodes"] == 10


def test_settings_come_from_the_file_and_else_from_beside_it(zoo: Path) -> None:
    properties = taken(StableBaselines(zoo), "logs/ppo/CartPole-v1_1")[0].properties
    assert properties["environment"] == "CartPole-v1" and properties["algorithm"] == "ppo"
    assert properties["normalize"] is True and properties["n_timesteps"] == 250
    assert properties["learning_rate_rule"] == "lin_0.001"
    assert properties["policy_kwargs"] == "dict(a=[1])"  # a text, never run
    hub = taken(StableBaselines(zoo), "ppo-Acrobot-v1")[0].properties
    assert hub["gamma"] == 0.9 and hub["environment"] == "Acrobot-v1"
    empty = taken(StableBaselines(zoo), "logs/ppo/MiniGrid-Empty-5x5-v0_1")[0].properties
    assert empty["environment"] == "MiniGrid-Empty-5x5-v0"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ppo-CartPole-v1.zip", "CartPole-v1"),
        ("a2c/PongNoFrameskip-v4_1/best_model.zip", "PongNoFrameskip-v4"),
        ("Ant-v3/tqc-Hopper-v3.zip", "Hopper-v3"),
        ("model.zip", None),
    ],
)
def test_names_of_files_say_the_environment(path: str, expected: str | None) -> None:
    source = Path(__file__).parent
    assert environment_of(source / path, source) == expected


def test_a_damaged_file_of_a_run_is_skipped_and_listed(zoo: Path) -> None:
    run = zoo / "logs" / "ppo" / "CartPole-v1_1"
    content = (run / "best_model.zip").read_bytes()
    (run / "best_model.zip").write_bytes(content[: len(content) // 2])
    write_policy(run / "other.zip", ppo_state(3))
    with zipfile.ZipFile(run / "train_eval_metrics.zip", "w") as archive:
        archive.writestr("0.monitor.csv", "r,l,t")
    (run / "evaluations.npz").write_bytes(b"PK\x03\x04 and no more")
    record, skipped = taken(StableBaselines(zoo), "logs/ppo/CartPole-v1_1")
    assert [row["file"] for row in record.rows] == ["rl_model_100_steps.zip", "CartPole-v1.zip"]
    reasons = {name.rpartition("/")[2]: reason for name, reason in skipped.items()}
    expected = {
        "best_model.zip": "not a readable Stable-Baselines3 file",
        "other.zip": "has another architecture than the other files",
        "train_eval_metrics.zip": "no model of Stable-Baselines3",
        "evaluations.npz": "not readable as evaluations.npz",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert reasons[name].startswith(text)
    assert "test_return" not in record.rows[0]


def test_a_model_without_a_readable_file_is_an_error(tmp_path: Path) -> None:
    write_policy(tmp_path / "a.zip", b"nothing")
    with pytest.raises(ValueError, match=r"^policy\.pth: "):
        list(StableBaselines(tmp_path).read("a.zip"))


def test_a_source_without_zip_files_is_an_error(tmp_path: Path) -> None:
    tmp_path.joinpath("weights.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected zip files of .*, found weights\.pt"):
        StableBaselines(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        StableBaselines(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="part must be one of policy, actor, got 'critic'"):
        StableBaselines(tmp_path, part="critic")


def test_runs_of_several_layouts_make_one_zoo(zoo: Path, tmp_path: Path) -> None:
    from graphrep.zoo.importing import import_zoo

    data = ppo_data(ent_coef="auto", seed=None)
    write_policy(zoo / "loose" / "sac.zip", ppo_state(2), data)
    imported = import_zoo(StableBaselines(zoo), tmp_path / "made", progress=False)
    table = imported.properties
    assert len(table) == 3 + 1 + 2 + 1 + 1 + 1 and table["name"].nunique() == 6
    assert table["test_return"].notna().sum() == 3
    row = table.index[table["name"] == "loose/sac.zip"][0]
    expected = ppo_state(2)
    found = imported.graphs[row].state_dict()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert not found["action_net.bias"].equal(ppo_state(2, seed=1)["action_net.bias"])


# What settings say.

ELU = "<class 'torch.nn.modules.activation.ELU'>"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "tanh"),
        ({"policy_kwargs": serialised("dict", activation_fn=ELU)}, "elu"),
        ({"policy_kwargs": serialised("dict", net_arch="[64]")}, "tanh"),
    ],
)
def test_the_activation_is_what_a_text_says(
    tmp_path: Path, data: dict[str, Any], expected: str
) -> None:
    policy = read_policy(write_policy(tmp_path / "a.zip", data=ppo_data(**data)))
    assert policy.settings["activation"] == expected


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    data = ppo_data(policy_kwargs=serialised("dict", activation_fn="<class 'mine.Sine'>"))
    assert "the activation \"<class 'mine.Sine'>\"" in refusal(
        write_policy(tmp_path / "a.zip", data=data)
    )


def test_a_schedule_that_is_no_constant_has_no_number(tmp_path: Path) -> None:
    schedule = serialised("function")
    data = ppo_data(learning_rate=schedule, clip_range=schedule, lr_schedule=schedule)
    settings = read_policy(write_policy(tmp_path / "a.zip", data=data)).settings
    assert "learning_rate" not in settings and "clip_range" not in settings
    assert settings["algorithm"] == "ppo"
    plain = read_policy(write_policy(tmp_path / "b.zip")).settings
    assert plain["learning_rate"] == 0.0003 and plain["clip_range"] == 0.2


def test_counted_observations_are_read_one_hot(tmp_path: Path) -> None:
    space = serialised("gymnasium.spaces.discrete.Discrete", n="3")
    policy = read_policy(write_policy(tmp_path / "a.zip", data=ppo_data(observation_space=space)))
    assert policy.config.observation_shape == (3,)
    assert policy.settings["observation_space"] == "Discrete(3)"


def test_spread_observations_keep_their_shape(tmp_path: Path) -> None:
    state = ppo_state(5, num_inputs=6)
    path = write_policy(tmp_path / "a.zip", state, ppo_data(observation_space=box(2, 3)))
    (record,) = StableBaselines(path).read("a.zip")
    assert isinstance(record, Record) and record.design is not None
    module = rebuild(RebuiltConfig.from_mapping(record.design["policy"]))
    assert module.act(torch.zeros(4, 2, 3)).shape == (4, 2)


# Hostile files.


def test_nothing_of_a_file_is_unpickled(tmp_path: Path) -> None:
    made = tmp_path / "made"
    trapped = serialised("dict", trap(made))
    data = ppo_data(policy_kwargs=trapped, policy_class=trapped, lr_schedule=trapped)
    path = write_policy(
        tmp_path / "a.zip", data=data, **{"pytorch_variables.pkl": trap(made), "x.pkl": trap(made)}
    )
    assert isinstance(read_policy(path), SavedPolicy)
    assert not made.exists()
    pickle.loads(trap(made))
    assert made.exists()  # the trap works


@pytest.mark.parametrize("inside", ["bare", "saved"])
def test_weights_that_need_code_are_refused(tmp_path: Path, inside: str) -> None:
    from tests.zoo.formats.policies_by_hand import Trap

    made = tmp_path / "made"
    content = trap(made) if inside == "bare" else saved({"a": torch.ones(2), "b": Trap(made)})
    text = refusal(write_policy(tmp_path / "a.zip", content))
    assert "policy.pth: needs " in text and "which graphrep never executes" in text
    assert not made.exists()


@pytest.mark.parametrize("file", ["args.yml", "config.yml"])
def test_yaml_that_would_run_is_listed_and_left(tmp_path: Path, file: str) -> None:
    made = tmp_path / "made"
    write_policy(tmp_path / "run" / "a.zip")
    (tmp_path / "run" / file).write_text(f"!!python/object/apply:os.mkdir ['{made}']\n")
    _, skipped = taken(StableBaselines(tmp_path), "run")
    assert skipped[f"run/{file}"].startswith("not readable as plain YAML")
    assert not made.exists()


@pytest.mark.parametrize(
    "text",
    ["- a", "a: [", "a: &a [*a]", "[" * 400, "!!python/object/apply:collections.OrderedDict 3"],
)
def test_yaml_that_is_no_plain_mapping_gives_nothing_or_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text)
    try:
        assert read_yaml(path) == {}
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
    path.write_text("a: 1\nb: text\nc: [1]\n")
    assert read_yaml(path) == {"a": 1, "b": "text"}


def test_an_evaluation_that_is_pickled_or_too_large_is_listed(tmp_path: Path) -> None:
    import numpy as np

    write_policy(tmp_path / "run" / "a.zip", data=ppo_data(num_timesteps=5))
    path = tmp_path / "run" / "evaluations.npz"
    np.savez(path, timesteps=[5], results=np.array([[{}, 1]], dtype=object))
    assert "claims" in taken(StableBaselines(tmp_path), "run")[1]["run/evaluations.npz"]
    np.savez(path, timesteps=[5], results=np.ones((1, 4)))
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["results.npy"] = content["results.npy"].replace(b"(1, 4), ", b"(1, 4" + b"0" * 3 + b")")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    assert "claims" in taken(StableBaselines(tmp_path), "run")[1]["run/evaluations.npz"]
    write_evaluations(path, [5], [[1.0, 3.0]])
    record, skipped = taken(StableBaselines(tmp_path), "run")
    assert record.rows[0]["test_return"] == 2 and not skipped


def test_an_archive_that_would_grow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    read_policy(write_policy(path, compression=zipfile.ZIP_DEFLATED))
    write_policy(path, compression=zipfile.ZIP_DEFLATED, x=bytes(50 << 20))
    assert path.stat().st_size < 1 << 20
    assert "records claim 52," in refusal(path)
    write_policy(path, data=b" " * (30 << 20), compression=zipfile.ZIP_DEFLATED)
    assert "which Stable-Baselines3 would not write" in refusal(path)


def test_records_under_one_name_are_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("policy.pth", saved(ppo_state(2)))
    assert "two of its records have the same name" in refusal(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "not a readable Stable-Baselines3 file"),
        (b"[1]", "'data' holds a list, expected a mapping"),
        (b"[" * 100_000, "not a readable Stable-Baselines3 file"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a readable Stable-Baselines3 file"),
        (b"\xff\xfe", "not a readable Stable-Baselines3 file"),
    ],
)
def test_settings_that_are_no_mapping_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refusal(write_policy(tmp_path / "a.zip", data=data))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_timesteps": "many", "_n_updates": None, "learning_rate": [1]},
        {"num_timesteps": 1e999, "gamma": float("nan"), "n_envs": {}},
        {"policy_kwargs": 3, "observation_space": "Box", "action_space": [1]},
        {"observation_space": {"_shape": ["a", -4, None], "dtype": 7, "n": "x" * 500}},
        {"clip_range": {"value_schedule": {"ConstantSchedule": 1}}, "seed": True},
        {"policy_kwargs": {"clip_mean": "wide", "squash_output": [], "normalize_images": 0}},
    ],
)
def test_odd_settings_cost_columns_and_no_more(tmp_path: Path, changes: dict[str, Any]) -> None:
    policy = read_policy(write_policy(tmp_path / "a.zip", data=ppo_data(**changes)))
    assert policy.state_dict["action_net.bias"].equal(ppo_state(5, 4)["action_net.bias"])
    assert policy.settings["algorithm"] == "ppo" and policy.config.activation == "Tanh"


def test_other_archives_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"weights")
    assert "not a readable Stable-Baselines3 file" in refusal(path)
    torch.save(ppo_state(2), path)
    assert "no model of Stable-Baselines3. Expected 'data' and 'policy.pth'" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("parameter_list", "[]")
    assert "a model of Stable-Baselines 2, whose weights are TensorFlow's" in refusal(path)


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"lstm_actor.weight_ih_l0": torch.ones(2, 2)}, "is a recurrent policy"),
        ({"features_extractor.extractors.a.cnn.0.bias": torch.ones(2)}, "several observations"),
        ({"net.weight": torch.ones(2, 2)}, "no layout of a policy that is known"),
        ({"action_net.weight": torch.ones(2)}, "observation_shape must hold positive sizes"),
        (without(ppo_state(4, 3), "value_net.weight"), "has no linear layer 'value_net'"),
        ({**ppo_state(4), "critic.weight": torch.ones(1)}, "1 tensors that do not fit the layout"),
        ({**ppo_state(4), "action_net.weight": torch.ones(2, 9)}, "does not run"),
        ({f"features_extractor.cnn.{i}.weight": torch.ones(2, 2, 8, 8) for i in range(3)}
         | {"action_net.weight": torch.ones(2, 2)}, "unknown convolutions"),
    ],
)  # fmt: skip
def test_layouts_that_are_not_known_are_refused(tmp_path: Path, state: Any, says: str) -> None:
    write_policy(tmp_path / "a.zip", state, ppo_data(observation_space=box(2, 9, 9)))
    with pytest.raises(ValueError, match=says):
        list(StableBaselines(tmp_path).read("a.zip"))


def test_claims_of_huge_images_allocate_nothing(tmp_path: Path) -> None:
    state = {
        "features_extractor.cnn.0.weight": torch.ones(2, 3, 8, 8),
        "features_extractor.cnn.2.weight": torch.ones(2, 2, 4, 4),
        "features_extractor.cnn.4.weight": torch.ones(2, 2, 3, 3),
        "features_extractor.linear.0.weight": torch.ones(4, 2),
        "action_net.weight": torch.ones(2, 4),
    }
    data = ppo_data(observation_space=box(3, 1 << 40, 1 << 40, dtype="uint8"))
    with pytest.raises(ValueError, match="do not give the 2 features of its convolutions"):
        list(StableBaselines(write_policy(tmp_path / "a.zip", state, data)).read("a.zip"))


def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path) -> None:
    """Bytes flipped and files cut at random: a ValueError, or a policy."""
    whole = write_policy(tmp_path / "whole.zip", ppo_state(3)).read_bytes()
    stream = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(stream.choice((1, 4))):
            content[stream.randrange(len(content))] = stream.randrange(256)
        if stream.random() < 0.3:
            del content[stream.randrange(len(content)) :]
        path = tmp_path / "a.zip"
        path.write_bytes(content)
        try:
            rebuild(read_policy(path).config)
        except ValueError:
            refused += 1
    assert 100 < refused < 300


def test_the_layout_of_a_state_dict_needs_no_class() -> None:
    shapes = {name: tuple(value.shape) for name, value in ppo_state(4).items()}
    assert family_of(shapes) == "actor_critic"
    assert family_of({"actor.mu.0.weight": (2, 2)}) == "deterministic"
    assert family_of({"actor.mu.0.weight": (2, 2), "actor.log_std": (2, 2)}) == "soft"
