"""Laws of training: a broken run equals an unbroken one, views are what they say; law 7."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphrep.architecture import trace
from graphrep.decoders import DecoderConfig
from graphrep.encoders import GraphEncoderConfig
from graphrep.model import ModelConfig, WeightModel
from graphrep.scaling import Scaling
from graphrep.training import (
    Networks,
    Objective,
    SelfSupervisedConfig,
    TrainingConfig,
    ViewConfig,
    build_objective,
    train,
)
from graphrep.training.objectives.losses import nt_xent, reconstruction
from graphrep.training.objectives.views import make_view

from .architectures import CASES

DECODER = DecoderConfig(model_dim=16, num_heads=2, num_layers=1)
ENCODER = GraphEncoderConfig(unit_dim=8, linear_dim=1, curved_dim=2, value_dim=2, num_rounds=1)
CONFIG = TrainingConfig(num_steps=24, batch_size=4, validate_every=6, num_threads=1)
OBJECTIVE = SelfSupervisedConfig(contrast_weight=0.1)


def build() -> WeightModel:
    torch.manual_seed(0)
    return WeightModel(ModelConfig(encoder=ENCODER, decoder=DECODER, token_size=8, latent_dim=8))


def objective_of(model: WeightModel) -> Objective:
    torch.manual_seed(1)
    return build_objective(OBJECTIVE, model)


def groups(num: int = 10) -> list[Networks]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for case in (CASES[0], CASES[5]):
        architecture = trace(case.module(), case.example())
        theta = torch.randn(num, architecture.num_parameters, generator=generator)
        found.append(Networks(architecture, theta))
    return found


def trained(folder: Path, **hooks) -> dict[str, Tensor]:
    model = build()
    train(model, objective_of(model), groups(), groups(4), CONFIG, folder, **hooks)
    return model.state_dict()


def run(training: list[Networks], validation: list[Networks], config: TrainingConfig, folder: Path):
    model = build()
    return train(model, objective_of(model), training, validation, config, folder)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Stop(Exception):
    pass


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    def stop_at(step: int) -> None:
        if step == 15:
            raise Stop

    unbroken = trained(tmp_path / "unbroken")
    with pytest.raises(Stop):
        trained(tmp_path / "broken", on_step=stop_at)
    steps: list[int] = []
    assert same(unbroken, trained(tmp_path / "broken", on_step=steps.append))
    assert steps[0] == 13  # it went on from the checkpoint of step 12, not from the start


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    model = build()
    other = TrainingConfig(**{**vars(CONFIG), "seed": 1})
    train(model, objective_of(model), groups(), groups(4), other, tmp_path / "other")
    assert not same(trained(tmp_path / "one"), model.state_dict())
    assert same(trained(tmp_path / "again"), trained(tmp_path / "one"))


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.test_training import trained
print("ready", flush=True)
trained(Path(sys.argv[1]), on_step=lambda step: time.sleep(0.05))
"""


def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(root=root), str(tmp_path / "killed")],
        stdout=subprocess.PIPE,
    )
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    reached = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < reached < CONFIG.num_steps
    assert same(trained(tmp_path / "killed"), trained(tmp_path / "unbroken"))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        run(groups(), groups(4), TrainingConfig(num_steps=3), tmp_path)
    with pytest.raises(ValueError, match="other networks"):
        run(groups(9), groups(4), CONFIG, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read"):
        run(groups(), groups(4), CONFIG, tmp_path)


def test_without_validation_the_last_step_is_the_best(tmp_path: Path) -> None:
    result = run(groups(), [], CONFIG, tmp_path)
    assert result.best_step == CONFIG.num_steps


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = build()
    with torch.no_grad():
        model.decoder.outward.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train(model, objective_of(model), groups(), groups(4), CONFIG, tmp_path)


def test_views_hide_what_they_say_and_keep_a_clean_target() -> None:
    architecture, theta = groups()[1].architecture, groups()[1].theta
    scaling = Scaling().fit((n.architecture, n.theta) for n in groups())
    config = ViewConfig(permute=False, noise=0.0, mask_ratio=0.5)
    view = make_view(theta, architecture, scaling, config, 8, torch.Generator().manual_seed(0))
    assert torch.equal(view.target, scaling(theta, architecture))
    assert torch.equal(view.values, view.target * view.visible)
    assert 0.3 < view.visible.float().mean() < 0.7
    noisy = ViewConfig(permute=True, noise=0.1, mask_ratio=0.0)
    view = make_view(theta, architecture, scaling, noisy, 8, torch.Generator().manual_seed(0))
    assert view.visible.all()
    assert not torch.equal(view.target, scaling(theta, architecture))  # another order
    assert torch.allclose(
        view.target.sort(1).values, scaling(theta, architecture).sort(1).values, atol=0.5
    )
    assert (view.values / view.target - 1).std() == pytest.approx(0.1, rel=0.1)


def test_erasing_hides_one_contiguous_part() -> None:
    networks = groups(64)[0]
    architecture, theta = networks.architecture, networks.theta
    config = ViewConfig(permute=False, noise=0.0, mask_ratio=0.0, erase=0.5)
    view = make_view(theta, architecture, Scaling(), config, 8, torch.Generator().manual_seed(0))
    hidden = ~view.visible
    erased = hidden.any(1).float().mean()
    assert 0.3 < erased < 0.7
    edges = (hidden[:, 1:] != hidden[:, :-1]).sum(1)
    assert edges.max() <= 2 and hidden.float().mean(1).max() < 0.35


def test_scaling_comes_back_and_survives_extremes() -> None:
    scaling = Scaling().fit((n.architecture, n.theta) for n in groups())
    for architecture, theta in ((n.architecture, n.theta) for n in groups()):
        variances = [b for b in architecture.blocks if b.role == "variance"]
        positive = theta.abs() + 0.1 if variances else theta
        again = scaling.inverse(scaling(positive, architecture), architecture)
        assert torch.allclose(again, positive, rtol=1e-4, atol=1e-5)
        assert 0.5 < scaling(theta, architecture).std() < 2
    assert scaling(theta * 1e30, architecture).isfinite().all()


def test_reconstruction_counts_real_entries_only() -> None:
    target = torch.zeros(1, 2, 2)
    found = torch.tensor([[[1.0, 99.0], [2.0, 3.0]]])
    real = torch.tensor([[True, False], [True, True]])
    visible = torch.tensor([[[True, True], [False, False]]])
    seen, hidden = reconstruction(found, target, real, visible)
    assert (float(seen), float(hidden)) == (1.0, 6.5)


def test_contrast_prefers_pairs_that_agree() -> None:
    one = torch.eye(4)
    agreeing, swapped = nt_xent(one, one, 0.1), nt_xent(one, one.roll(1, 0), 0.1)
    assert agreeing < 0.01 < swapped
