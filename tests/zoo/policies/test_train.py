"""Training and judging policies: determinism, episodes, what is kept."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrep.zoo.policies.episodes import choose_actions, play_episodes
from graphrep.zoo.policies.networks import PolicyConfig, PolicyNetwork
from graphrep.zoo.policies.recipe import PolicyMember, draw_member
from graphrep.zoo.policies.train import (
    PolicyCheckpoint,
    actor_of,
    build_algorithm,
    own_randomness,
    policy_config,
    require_packages,
    train_member,
)
from graphrep.zoo.policies.workshop import PolicyWorkshop
from tests.zoo.policies.members import tiny_member, tiny_recipe

np = pytest.importorskip("numpy")
gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `rl`")
pytest.importorskip("stable_baselines3", reason="needs the extra `rl`")


def trained(member: PolicyMember, *steps: int) -> list[PolicyCheckpoint]:
    return train_member(member, steps, test_episodes=3, test_seed=5)[1]


def same(a: PolicyCheckpoint, b: PolicyCheckpoint) -> bool:
    values = all(a.state_dict[name].equal(b.state_dict[name]) for name in a.state_dict)
    return values and a.returns.equal(b.returns) and a.train_return == b.train_return


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_member_is_the_same_bits_whatever_happened_before(algorithm: str) -> None:
    member = tiny_member(algorithm=algorithm)
    first = trained(member, 128)[0]
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    second = trained(member, 128)[0]
    assert torch.get_num_threads() == 2
    assert random.getstate() == before[0]  # nor does it disturb what follows
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.get_rng_state().equal(before[2])
    torch.set_num_threads(threads)
    assert same(first, second)
    assert not same(first, trained(tiny_member(algorithm=algorithm, seed=4), 128)[0])


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_what_is_kept_changes_nothing_in_the_training(algorithm: str) -> None:
    member = tiny_member(algorithm=algorithm)
    start, early, late = trained(member, 0, 64, 192)
    assert [c.environment_steps for c in (start, early, late)] == [0, 64, 192]
    assert same(late, trained(member, 192)[0])
    assert not same(early, late) and not same(start, early)
    assert start.train_return is None and late.train_return is not None


def test_a_checkpoint_is_of_the_first_update_from_its_steps_on() -> None:
    (kept,) = trained(tiny_member(), 65)
    assert (kept.planned_steps, kept.environment_steps) == (65, 128)


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_actor_decides_as_the_library_s_policy_does(environment: str, activation: str) -> None:
    member = tiny_member(environment=environment, activation=activation)
    with own_randomness():
        algorithm = build_algorithm(member)
        other = build_algorithm(tiny_member(environment=environment, seed=4))
        algorithm.learn(64)
    actor = actor_of(algorithm, policy_config(algorithm, member))
    observations = torch.randn(20, actor.layers[0].in_features)  # type: ignore[arg-type]
    space = algorithm.action_space
    with torch.no_grad():
        outputs = actor(observations)
        theirs = decided(algorithm, observations)
        assert (normalised(outputs, space) - theirs).abs().max() < 1e-6
        assert (theirs - decided(other, observations)).abs().max() > 1e-4
    actions, _ = algorithm.predict(observations.numpy(), deterministic=True)
    assert np.allclose(choose_actions(outputs, space), actions, atol=1e-6)


def decided(algorithm: Any, observations: Tensor) -> Tensor:
    distribution = algorithm.policy.get_distribution(observations).distribution
    return distribution.logits if hasattr(distribution, "logits") else distribution.mean


def normalised(outputs: Tensor, space: Any) -> Tensor:
    return outputs.log_softmax(1) if hasattr(space, "n") else outputs


def one_after_another(
    network: PolicyNetwork, environment: str, starts: list[int] | Tensor
) -> list[float]:
    """The slow, obvious way: an environment, an episode, a step at a time."""
    returns = []
    for start in starts:
        single = gymnasium.make(environment)
        observation, _ = single.reset(seed=start if isinstance(start, int) else 0)
        if isinstance(start, Tensor):
            single.unwrapped.state = start.numpy().astype(np.float64)
            observation = start.numpy()
        total, over = 0.0, False
        while not over:
            with torch.no_grad():
                outputs = network(torch.from_numpy(np.asarray(observation, np.float32))[None])
            action = choose_actions(outputs, single.action_space)[0]
            observation, reward, ended, cut, _ = single.step(action)
            total += float(reward)
            over = ended or cut
        returns.append(total)
        single.close()
    return returns


def make_network(num_observations: int, num_actions: int, seed: int) -> PolicyNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PolicyNetwork(
            PolicyConfig(num_observations=num_observations, num_actions=num_actions, hidden=(8,))
        )


@pytest.mark.parametrize(("environment", "sizes"), [("Pendulum-v1", (3, 1))])
def test_episodes_side_by_side_are_those_one_after_another(
    environment: str, sizes: tuple[int, int]
) -> None:
    network = make_network(*sizes, seed=0)
    returns = play_episodes(network, environment, num_episodes=4, seed=7)
    assert returns.tolist() == pytest.approx(one_after_another(network, environment, [7, 8, 9, 10]))
    other = make_network(*sizes, seed=1)
    assert not returns.equal(play_episodes(other, environment, num_episodes=4, seed=7))


def test_the_library_s_own_vectorised_environment_plays_the_same_game() -> None:
    vector = gymnasium.make_vec("CartPole-v1", num_envs=6)
    starts = torch.from_numpy(vector.reset(seed=7)[0])
    vector.close()
    lengths = set()
    for seed in range(4):
        network = make_network(4, 2, seed)
        returns = play_episodes(network, "CartPole-v1", num_episodes=6, seed=7)
        assert returns.tolist() == one_after_another(network, "CartPole-v1", starts)
        lengths |= set(returns.tolist())
    assert len(lengths) > 4


def test_episodes_start_alike_for_one_seed() -> None:
    network = make_network(4, 2, seed=3)
    first, second, other = (
        play_episodes(network, "CartPole-v1", num_episodes=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first.equal(second) and not first.equal(other)


def test_a_policy_that_diverges_is_flagged_and_kept() -> None:
    start, end = trained(tiny_member(learning_rate=1e36), 0, 256)
    assert not start.diverged and len(start.returns) == 3
    assert end.diverged and len(end.returns) == 0
    assert not all(value.isfinite().all() for value in end.state_dict.values())


def test_training_makes_a_better_policy() -> None:
    member = tiny_member(
        hidden=(16, 16), learning_rate=5e-3, n_envs=8, n_steps=64, batch_size=128, n_epochs=6
    )
    early, late = trained(member, 512, 4096)
    assert early.train_return is not None and late.train_return is not None
    assert late.train_return > 1.3 * early.train_return
    assert float(late.returns.mean()) > 60  # a still hand falls after ten steps


def test_training_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "logs"))
    trained(tiny_member(), 64)
    assert not list(tmp_path.iterdir())
    with own_randomness():
        from stable_baselines3 import PPO

        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").learn(8)
    assert list(tmp_path.iterdir())  # as the library does by itself


@pytest.mark.parametrize("package", ["gymnasium", "stable_baselines3"])
def test_a_missing_package_is_an_error_that_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_packages()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package}, .* pip install graphrep\[rl\]"):
        require_packages()


def test_records_say_everything_of_their_members() -> None:
    recipe = tiny_recipe()
    workshop = PolicyWorkshop(recipe)
    first, second = workshop.make([1, 2])
    member = draw_member(recipe, 1)
    assert first.name == "tiny-000001" and second.name == "tiny-000002"
    assert first.properties == member.to_columns()
    assert [row["epoch"] for row in first.rows] == [0, 128, 256] == list(recipe.kept_steps)
    for row in first.rows:
        assert row["test_episodes"] == 3 and row["test_return"] >= 1
        assert 0 <= row["test_return_std"] < 500 and row["diverged"] is False
    assert first.architecture.verified
    assert not first.theta[0].equal(first.theta[2])


def test_a_record_s_design_builds_the_module_that_earned_its_returns() -> None:
    from graphrep import ParameterGraph

    recipe = tiny_recipe(test_episodes=5)
    (record,) = PolicyWorkshop(recipe).make([0])
    assert record.design is not None and record.design["kind"] == "policy"
    module = PolicyNetwork(PolicyConfig.from_mapping(record.design["network"]))
    returns = []
    for theta in record.theta:
        ParameterGraph(record.architecture, theta).load_into(module)
        returns.append(
            float(
                play_episodes(
                    module, recipe.environment, num_episodes=5, seed=recipe.test_seed
                ).mean()
            )
        )
    assert returns == [row["test_return"] for row in record.rows]
    assert len(set(returns)) > 1


def test_a_failing_member_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no such thing")

    monkeypatch.setattr("graphrep.zoo.policies.workshop.train_member", fail)
    with pytest.raises(RuntimeError, match="member 3 of zoo 'tiny' failed with OSError: no such"):
        PolicyWorkshop(tiny_recipe()).make([3])
