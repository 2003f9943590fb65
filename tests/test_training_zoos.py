"""One model on several zoos: how they are named, trained on together, and started by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graphrep import Representation
from graphrep.config import compose, sweep
from graphrep.evaluation.comparison import train_representation
from graphrep.model import ModelConfig, WeightModel
from graphrep.settings import Settings
from graphrep.tracking import Run
from graphrep.training import TrainingConfig, evaluate
from graphrep.training.targets import networks_of
from graphrep.workflows import make_zoo, make_zoos, train_one
from graphrep.zoo import Record, Zoo, append_to

from .evaluation.planted import architecture
from .test_cli import TINY
from .test_training import ENCODER, OBJECTIVE, groups, objective_of

BOTH = "zoo=[digits_cnn_small,digits_mlp_small]"
SMALL = ["encoder=statistics", "model.latent_dim=8", "model.decoder.model_dim=16"]


@pytest.fixture(scope="module")
def zoos(tmp_path_factory: pytest.TempPathFactory) -> list[Zoo]:
    """Two zoos, made by the settings that name both."""
    output = tmp_path_factory.mktemp("zoos")
    return make_zoos(Settings.load([BOTH, f"output={output}", *TINY]))


def paths(zoos: list[Zoo]) -> str:
    return f"zoo_path=[{','.join(zoo.url for zoo in zoos)}]"


def test_a_list_of_recipes_gives_each_of_them_with_its_settings() -> None:
    settings = Settings.load([BOTH, "zoo.num_models=9"])
    assert [recipe.name for recipe in settings.zoos] == ["digits_cnn_small", "digits_mlp_small"]
    assert [recipe.num_models for recipe in settings.zoos] == [9, 9]
    alone = [
        Settings.load([f"zoo={recipe.name}", "zoo.num_models=9"]).zoo for recipe in settings.zoos
    ]
    assert list(settings.zoos) == alone and len(alone[0].networks) == 1
    assert [content["name"] for content in compose([BOTH])["zoo"]] == [r.name for r in alone]
    assert Settings.load(["zoo=[digits_demo]"]).zoo == Settings.load(["zoo=digits_demo"]).zoo
    assert sweep([BOTH, "seed=1,2"]) == [[BOTH, "seed=1"], [BOTH, "seed=2"]]


def test_a_command_for_one_zoo_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes one zoo, got zoo=\[digits_cnn_small,digits_mlp"):
        make_zoo(Settings.load([BOTH, f"output={tmp_path}"]))
    with pytest.raises(ValueError, match=r"takes one zoo, got zoo_path=\[a,s3://b/c\]"):
        make_zoo(Settings.load(["zoo_path=[a,s3://b/c]"]))
    with pytest.raises(ValueError, match="choices: base, cifar"):
        Settings.load(["zoo=[digits_cnn,nothing]"])
    for wrong in ("zoo=[]", "zoo=[digits_cnn,digits_cnn]"):
        with pytest.raises(ValueError, match="none of them twice"):
            Settings.load([wrong])
    assert Settings.load(["zoo_path=there"]).zoo_path == "there"
    assert Settings.load().zoo_path is None


def test_several_zoos_train_one_model_that_knows_all_their_networks(
    zoos: list[Zoo], tmp_path: Path
) -> None:
    settings = Settings.load([paths(zoos), f"output={tmp_path}", *TINY, *SMALL])
    folder, _ = train_one(settings)
    assert folder.parent.parent.name == "+".join(zoo.path.name for zoo in zoos)
    representation = Representation.from_pretrained(folder)
    names = [name for zoo in zoos for name in zoo.architectures]
    assert list(representation.architectures) == names and len(set(names)) > 2
    for zoo in zoos:
        assert len(set(zoo.architectures) & set(representation.anchors)) == 1
        assert representation.encode(zoo.graphs[:3]).shape[0] == 3
    # one scaling over the training splits of all
    scaling = WeightModel(ModelConfig()).scaling
    networks = [n for zoo in zoos for n in networks_of(zoo, "train", settings.objective)]
    scaling.fit((n.architecture, n.theta) for n in networks)
    assert torch.equal(scaling.scale, representation.model.scaling.scale)
    scaling.fit((n.architecture, n.theta) for n in networks[:1])
    assert not torch.equal(scaling.scale, representation.model.scaling.scale)
    assert "validation/digits_mlp_small/loss" in (folder.parent / "metrics.jsonl").read_text()


@pytest.mark.parametrize("objective", ["masked", "responses", "blocks"])
def test_samples_come_from_decoders_that_learned(
    zoos: list[Zoo], tmp_path: Path, objective: str
) -> None:
    chosen = [f"objective={objective}", f"output={tmp_path}", "encoder.unit_dim=8"]
    settings = Settings.load([paths(zoos[:1]), *TINY, "encoder=graph", *SMALL[1:], *chosen])
    folder, _ = train_one(settings)
    representation = Representation.from_pretrained(folder)
    assert representation.decodes == bool(representation.anchors) == (objective == "masked")
    if representation.decodes:
        assert len(representation.sample(2)) == 2
    else:
        with pytest.raises(ValueError, match="leaves the decoder as it was drawn"):
            representation.sample(2)


def test_a_zoo_that_does_not_say_which_networks_are_good_trains_as_well(tmp_path: Path) -> None:
    with append_to(tmp_path / "bare", name="bare") as writer:
        kind = architecture((4,))
        for number, split in enumerate(["train"] * 8 + ["validation", "test"]):
            weights = torch.randn(1, kind.num_parameters)
            rows = [{"epoch": 0}]
            record = Record(
                name=f"m{number}", architecture=kind, theta=weights, rows=rows, split=split
            )
            writer.add([record])
    chosen = [f"zoo_path={tmp_path / 'bare'}", f"output={tmp_path}"]
    with pytest.warns(UserWarning, match="no networks to sample near.*no column says how good"):
        folder, _ = train_one(Settings.load([*chosen, *TINY, *SMALL]))
    representation = Representation.from_pretrained(folder)
    assert representation.decodes and not representation.anchors


def test_validation_weighs_zoos_as_training_does(zoos: list[Zoo]) -> None:
    model = WeightModel(ModelConfig(encoder=ENCODER))
    objective = objective_of(model)
    networks = [replace(n, theta=n.theta[: 4 + 6 * i], zoo="ab"[i]) for i, n in enumerate(groups())]
    config = TrainingConfig()
    by_size, equal = (
        evaluate(model, objective, networks, replace(config, balance=b)) for b in (0.0, 1.0)
    )
    a, b = by_size["a/loss"], by_size["b/loss"]
    assert a == equal["a/loss"] != b
    assert by_size["loss"] == pytest.approx((4 * a + 10 * b) / 14)
    assert equal["loss"] == pytest.approx((a + b) / 2)
    assert set(evaluate(model, objective, networks[:1], config)) == {
        k for k in by_size if "/" not in k
    }


def test_one_zoo_is_taken_as_before(zoos: list[Zoo], tmp_path: Path) -> None:
    config = ModelConfig(encoder=ENCODER, latent_dim=8)
    training = TrainingConfig(num_steps=2, num_threads=1)
    one, listed = (
        train_representation(given, config, OBJECTIVE, training, tmp_path / name, Run())[0]
        for name, given in (("one", zoos[0]), ("listed", zoos[:1]))
    )
    own, other = one.model.state_dict(), listed.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    assert list(one.architectures) == list(zoos[0].architectures)


def test_the_command_trains_under_torchrun(zoos: list[Zoo], tmp_path: Path) -> None:
    command = [paths(zoos), *TINY, *SMALL]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*run, "-m", "graphrep", "train", f"output={tmp_path / 'two'}", *command],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model:") == 1
    one, _ = train_one(
        Settings.load([f"output={tmp_path / 'one'}", *command, "training.accumulate=2"])
    )
    two = tmp_path / "two" / one.relative_to(tmp_path / "one")
    own, other = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert own.keys() == other.keys()
    for name, value in own.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-4), name
