"""Importing what Stable-Baselines3 itself wrote: the same functions, the same tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphrep import ParameterGraph
from graphrep.zoo.formats.stable_baselines import StableBaselines
from graphrep.zoo.policies.rebuilt import Rebuilt, RebuiltConfig, rebuild
from graphrep.zoo.record import Record

np = pytest.importorskip("numpy")
gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `rl`")
sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra `rl`")


class Pictures(gymnasium.Env):  # type: ignore[misc]
    """Random images, to three actions."""

    observation_space = gymnasium.spaces.Box(0, 255, (3, 36, 40), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def build(name: str, seed: int = 0) -> Any:
    """One of each layout, as the library builds it."""
    small = {"net_arch": [7, 5]}
    off_policy: dict[str, Any] = {"buffer_size": 100, "learning_starts": 10, "batch_size": 8}
    options: dict[str, Any] = {"seed": seed, "device": "cpu"}
    match name:
        case "ppo":
            kwargs = {"net_arch": {"pi": [7, 5], "vf": [6]}, "activation_fn": nn.ReLU}
            options |= {"n_steps": 16, "batch_size": 16, "n_epochs": 2}
            return sb3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **options)
        case "a2c":
            return sb3.A2C("MlpPolicy", "Pendulum-v1", policy_kwargs=small, **options)
        case "a2c_linear":
            return sb3.A2C("MlpPolicy", "Acrobot-v1", policy_kwargs={"net_arch": []}, **options)
        case "a2c_noise_by_state":
            kwargs = {**small, "squash_output": True}
            return sb3.A2C(
                "MlpPolicy", "Pendulum-v1", use_sde=True, policy_kwargs=kwargs, **options
            )
        case "dqn":
            return sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs=small, **off_policy, **options)
        case "dqn_images":
            kwargs = {"features_extractor_kwargs": {"features_dim": 9}, "net_arch": []}
            return sb3.DQN("CnnPolicy", Pictures(), policy_kwargs=kwargs, **off_policy, **options)
        case "a2c_images":
            kwargs = {"features_extractor_kwargs": {"features_dim": 9}}
            return sb3.A2C("CnnPolicy", Pictures(), policy_kwargs=kwargs, **options)
        case "sac" | "sac_noise_by_state":
            sde = name != "sac"
            return sb3.SAC(
                "MlpPolicy",
                "Pendulum-v1",
                use_sde=sde,
                policy_kwargs=small,
                **off_policy,
                **options,
            )
        case "td3" | "ddpg":
            cls = {"td3": sb3.TD3, "ddpg": sb3.DDPG}[name]
            return cls("MlpPolicy", "Pendulum-v1", policy_kwargs=small, **off_policy, **options)
        case _:
            raise AssertionError(name)


LAYOUTS = (
    "ppo",
    "a2c",
    "a2c_linear",
    "a2c_noise_by_state",
    "a2c_images",
    "dqn",
    "dqn_images",
    "sac",
    "sac_noise_by_state",
    "td3",
    "ddpg",
)
TRAINED = ("ppo", "a2c", "dqn", "sac", "td3")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One of each layout, some of them after a few steps of training."""
    built = {name: build(name) for name in LAYOUTS}
    for name in TRAINED:
        built[name].learn(32)
    return built


@pytest.fixture(scope="module")
def folder(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    for name, model in models.items():
        model.save(path / f"{name}.zip")
    return path


def read(source: Path, name: str, part: str = "policy") -> Record:
    (record,) = StableBaselines(source, part=part).read(name)
    assert isinstance(record, Record)
    return record


def module_of(record: Record) -> Rebuilt:
    """The rebuilt policy, with the values of the record's last checkpoint."""
    assert record.design is not None
    module = rebuild(RebuiltConfig.from_mapping(record.design["policy"]))
    buffers = {name: value[-1] for name, value in record.buffers.items()}
    ParameterGraph(record.architecture, record.theta[-1], buffers).load_into(module)
    return module


@torch.no_grad()
def act(model: Any, observations: Any) -> Tensor:
    """What the library's own policy prefers: logits or means."""
    policy, seen = model.policy, torch.as_tensor(observations)
    if hasattr(policy, "q_net"):
        return policy.q_net(seen)
    if hasattr(policy, "critic"):
        return policy._predict(seen, deterministic=True)
    distribution = policy.get_distribution(seen)
    logits = getattr(distribution.distribution, "logits", None)
    return distribution.mode() if logits is None else logits


@pytest.mark.parametrize("part", ["policy", "actor"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_rebuilt_policy_does_what_the_library_s_does(
    models: dict[str, Any], folder: Path, name: str, part: str
) -> None:
    model = models[name]
    record = read(folder / f"{name}.zip", f"{name}.zip", part)
    space = model.observation_space
    space.seed(1)
    observations = np.stack([space.sample() for _ in range(30)])
    with torch.no_grad():
        ours = module_of(record).act(torch.as_tensor(observations).float())
    categorical = name in ("ppo", "a2c_linear", "a2c_images")  # the library normalises logits
    ours = ours.log_softmax(1) if categorical else ours
    theirs = act(model, observations)
    assert (ours - theirs).abs().max() < 1e-6
    assert (theirs - act(build(name, seed=1), observations)).abs().max() > 1e-4


@pytest.mark.parametrize("name", LAYOUTS)
def test_theta_gives_back_the_whole_state_dict(
    models: dict[str, Any], folder: Path, name: str
) -> None:
    record = read(folder / f"{name}.zip", f"{name}.zip")
    expected = models[name].policy.state_dict()
    found = module_of(record).state_dict()
    assert set(found) == set(expected)
    assert all(found[key].equal(expected[key]) for key in expected)
    assert record.architecture.verified
    actor = read(folder / f"{name}.zip", f"{name}.zip", part="actor")
    assert set(module_of(actor).state_dict()) < set(expected)
    assert not any(word in key for key in actor_keys(actor) for word in ("critic", "value", "std"))


def actor_keys(record: Record) -> list[str]:
    return [tensor.name for tensor in record.architecture.tensors]


def test_a_folder_of_files_is_a_model_a_file(folder: Path) -> None:
    reader = StableBaselines(folder)
    assert list(reader.names()) == sorted(f"{name}.zip" for name in LAYOUTS)
    records = {name: read(folder, name) for name in ("ppo.zip", "dqn.zip", "td3.zip")}
    algorithms = [record.properties["algorithm"] for record in records.values()]
    assert algorithms == ["ppo", "dqn", "td3"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ppo", {"algorithm": "ppo", "activation": "relu", "hidden": "7-5", "n_steps": 16}),
        ("ppo", {"clip_range": 0.2, "gamma": 0.99, "learning_rate": 3e-4, "seed": 0}),
        ("ppo", {"observation_space": "Box[4]", "action_space": "Discrete(2)"}),
        ("a2c", {"algorithm": "a2c", "activation": "tanh", "gae_lambda": 1.0}),
        ("a2c_linear", {"hidden": ""}),
        ("dqn", {"algorithm": "dqn", "activation": "relu", "buffer_size": 100}),
        ("sac", {"algorithm": "sac", "ent_coef_rule": "auto", "action_space": "Box[1]"}),
        ("td3", {"algorithm": "td3", "hidden": "7-5"}),
        ("ddpg", {"algorithm": "ddpg"}),
        ("a2c_images", {"observation_space": "Box[3, 36, 40]"}),
    ],
)
def test_hyper_parameters_come_out(folder: Path, name: str, expected: dict[str, Any]) -> None:
    properties = read(folder / f"{name}.zip", f"{name}.zip").properties
    assert {key: properties.get(key) for key in expected} == expected
    assert properties["stable_baselines3_version"] == sb3.__version__
    assert all(isinstance(v, str | int | float | None) for v in properties.values())


def test_a_row_says_how_far_the_training_was(models: dict[str, Any], folder: Path) -> None:
    (row,) = read(folder / "ppo.zip", "ppo.zip").rows
    assert row["environment_steps"] == row["epoch"] == models["ppo"].num_timesteps == 32
    assert row["num_updates"] == models["ppo"]._n_updates
    assert row["diverged"] is False and row["file"] == "ppo.zip"


def test_files_that_the_library_s_callbacks_write_are_one_run(tmp_path: Path) -> None:
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
    from stable_baselines3.common.env_util import make_vec_env

    model = build("ppo")
    run = tmp_path / "ppo" / "CartPole-v1_1"
    model.learn(
        64,
        callback=[
            CheckpointCallback(24, str(run)),
            EvalCallback(
                make_vec_env("CartPole-v1", seed=3),
                n_eval_episodes=3,
                eval_freq=24,
                log_path=str(run),
                best_model_save_path=str(run),
                verbose=0,
            ),
        ],
    )
    model.save(run / "CartPole-v1.zip")
    reader = StableBaselines(tmp_path)
    assert list(reader.names()) == ["ppo/CartPole-v1_1"]
    record = read(tmp_path, "ppo/CartPole-v1_1")
    rows = {row["file"]: row for row in record.rows}
    assert [row["environment_steps"] for row in record.rows] == sorted(
        row["environment_steps"] for row in record.rows
    )
    logged = np.load(run / "evaluations.npz")
    first = rows["rl_model_24_steps.zip"]
    assert first["test_return"] == logged["results"][0].mean()
    assert first["test_return_std"] == logged["results"][0].std() and first["test_episodes"] == 3
    best = rows["best_model.zip"]
    assert best["test_return"] == logged["results"].mean(1).max()
    final = rows["CartPole-v1.zip"]
    assert "test_return" not in final and final["last_test_steps"] == 48
    assert record.properties["environment"] == "CartPole-v1"
    assert len(record.theta) == 4 and not record.theta[0].equal(record.theta[-1])
