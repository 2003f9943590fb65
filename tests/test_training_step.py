"""Laws of one step: its gradient is that of the mean over all its networks, however they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphrep.model import WeightModel
from graphrep.training import (
    BatchOrder,
    Networks,
    Objective,
    Processes,
    Rows,
    SelfSupervisedConfig,
    TrainingConfig,
    ViewConfig,
    build_objective,
    loop,
    train,
)
from graphrep.training.distributed import choose_device
from graphrep.training.draws import generator_of
from graphrep.training.step import Step

from .test_training import CONFIG, OBJECTIVE, Stop, build, groups, objective_of, same

PLAIN = SelfSupervisedConfig(views=ViewConfig(permute=False, noise=0.0, mask_ratio=0.0))


def doubles(num: int, which: slice = slice(None)) -> list[Networks]:
    return [Networks(n.architecture, n.theta.double()) for n in groups(num)[which]]


def gradients(config: TrainingConfig, number: int) -> tuple[list[Tensor | None], list[Tensor]]:
    """Of a step, by the package and written out: the mean over networks of all batches."""
    model = build().double()
    objective = objective_of(model).double()
    model.scaling.fit((n.architecture, n.theta) for n in doubles(7))
    order = BatchOrder(doubles(7), config.batch_size, config.seed)
    step = Step(model, objective, order, config, Processes())
    choices = order.step(number, step.num_batches)
    step.gradients(choices)
    found = [None if p.grad is None else p.grad.clone() for p in step.parameters]
    sizes = torch.tensor([float(len(c)) for c in choices], dtype=torch.float64)
    weights = sizes / sizes.sum()
    losses = []
    for choice in choices:
        rows, generator = order.read(choice), generator_of(config.seed, choice.number)
        losses.append(objective.losses(model, rows, generator)["loss"])
    expected = []
    for w in (weights, torch.full_like(weights, 1 / len(weights))):
        whole = (torch.stack(losses) * w).sum()
        parts = torch.autograd.grad(whole, step.parameters, allow_unused=True, retain_graph=True)
        expected.append(torch.cat([g.flatten() for g in parts if g is not None]))
    return found, expected


def test_an_accumulated_gradient_is_that_of_the_mean_over_all_networks() -> None:
    config = replace(CONFIG, accumulate=3, clip_norm=0.0)
    found, (by_networks, by_batches) = gradients(config, 1)  # batches of 4 and of 3
    flat = torch.cat([g.flatten() for g in found if g is not None])
    scale = by_networks.abs().max()
    assert (flat - by_networks).abs().max() < 1e-12 * scale
    assert (flat - by_batches).abs().max() > 1e-4 * scale


def test_clipping_bounds_the_gradient_of_the_whole_step() -> None:
    config = replace(CONFIG, accumulate=3, clip_norm=0.0)
    _, (expected, _) = gradients(config, 1)
    limit = 0.25 * float(expected.norm())
    clipped, _ = gradients(replace(config, clip_norm=limit), 1)
    flat = torch.cat([g.flatten() for g in clipped if g is not None])
    assert float(flat.norm()) == pytest.approx(limit, rel=1e-4)
    assert torch.allclose(flat / flat.norm(), expected / expected.norm(), atol=1e-9)


def losses_of(
    config: TrainingConfig, objective: SelfSupervisedConfig, networks: list[Networks], folder: Path
) -> list[float]:
    """The loss of every step."""
    model = build().double()
    torch.manual_seed(1)
    wanted = build_objective(objective, model).double()
    found: list[float] = []

    def keep(metrics: dict[str, float], step: int) -> None:
        if "train/loss" in metrics:
            found.append(metrics["train/loss"])

    train(model, wanted, networks, [], config, folder, on_metrics=keep)
    return found


def test_two_batches_of_half_the_size_train_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is drawn for a batch, so that it does not matter how it is cut."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    config = replace(CONFIG, num_steps=12, validate_every=12)
    networks = doubles(8, slice(1, None))
    one = losses_of(replace(config, batch_size=8), PLAIN, networks, tmp_path / "one")
    two = losses_of(replace(config, accumulate=2), PLAIN, networks, tmp_path / "two")
    half = losses_of(config, PLAIN, networks, tmp_path / "half")
    assert len(one) == 12 and one[-1] < 0.98 * one[0]
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-9
    assert max(abs(a - b) for a, b in zip(one, half, strict=True)) > 1e-4


class Dropping(Objective):
    """An objective with a module that draws by itself."""

    def __init__(self, model: WeightModel) -> None:
        super().__init__()
        self.config = OBJECTIVE
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(model.embedding_dim, 1)

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        found = model.encode(rows.theta, rows.architecture).model
        return {"loss": (self.head(self.drop(found)) - 1).square().mean()}


@pytest.mark.parametrize(
    "changes",
    [{"accumulate": 2}, {"precision": "bfloat16"}, {"patience": 2, "learning_rate": 1.0}, {}],
    ids=["accumulated", "bfloat16", "patience", "dropout"],
)
def test_a_resumed_run_equals_an_unbroken_one_in_every_mode(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    config = replace(CONFIG, num_steps=16, validate_every=4, **changes)
    steps: list[int] = []

    def run(folder: str, stop: int = 0) -> dict[str, Tensor]:
        def on_step(step: int) -> None:
            steps.append(step)
            if step == stop:
                raise Stop

        model = build()
        torch.manual_seed(2)
        objective = objective_of(model) if changes else Dropping(model)
        result = train(
            model, objective, groups(), groups(4), config, tmp_path / folder, on_step=on_step
        )
        final = torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)
        assert final["step"] == (result.history[-1]["step"])
        return {**final["model"], **{f"o.{k}": v for k, v in final["objective"].items()}}

    unbroken = run("unbroken")
    torch.rand(7)  # what others draw in between
    with pytest.raises(Stop):
        run("broken", stop=6)
    assert same(unbroken, run("broken"))
    assert steps.count(5) == 3 and steps.count(4) == 2  # it went on from step 4


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    config = replace(CONFIG, num_steps=400, validate_every=2, patience=3, learning_rate=1.0)
    steps: list[int] = []

    def run(folder: str, config: TrainingConfig) -> loop.Result:
        steps.clear()
        model = build()
        objective = objective_of(model)
        return train(
            model, objective, groups(), groups(4), config, tmp_path / folder, on_step=steps.append
        )

    result = run("patient", config)
    assert result.history[-1]["step"] == result.best_step + 3 * 2 < 100
    assert len(run("patient", config).history) == len(result.history) and not steps  # it stays
    long = run("endless", replace(config, patience=0, num_steps=result.best_step + 10))
    assert long.history[-1]["step"] == result.best_step + 10


def test_bfloat16_is_for_products_alone(tmp_path: Path) -> None:
    model = {precision: build() for precision in ("float32", "bfloat16")}
    kinds: set[torch.dtype] = set()
    watched = model["bfloat16"].decoder.outward
    watched.register_forward_hook(
        lambda module, args, output: kinds.add(output.dtype) if module.training else None
    )
    for precision, own in model.items():
        config = replace(CONFIG, precision=precision)
        train(own, objective_of(own), groups(), groups(4), config, tmp_path / precision)
    assert kinds == {torch.bfloat16}
    found, exact = (model[p].state_dict() for p in ("bfloat16", "float32"))
    assert all(v.dtype == exact[k].dtype for k, v in found.items())
    state = torch.load(tmp_path / "bfloat16" / "checkpoint.pt", weights_only=True)
    moments = [m["exp_avg"].dtype for m in state["optimiser"]["state"].values()]
    assert set(moments) == {torch.float32}
    assert not same(found, exact)


def test_throughput_is_measured(tmp_path: Path) -> None:
    found: list[dict[str, float]] = []
    model, networks = build(), groups()
    config = replace(CONFIG, num_steps=20, accumulate=2)
    result = train(
        model,
        objective_of(model),
        networks,
        [],
        config,
        tmp_path,
        on_metrics=lambda metrics, step: found.append(metrics),
    )
    (metrics,) = (m for m in found if "train/loss" in m)
    order = BatchOrder(networks, config.batch_size, config.seed)
    chosen = [choice for step in range(20) for choice in order.step(step, 2)]
    weights = sum(order.read(choice).theta.numel() for choice in chosen)
    assert metrics["train/weights_per_second"] * result.train_seconds == pytest.approx(weights)
    num = sum(map(len, chosen))
    assert metrics["train/networks_per_second"] * result.train_seconds == pytest.approx(num)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"balance": 2.0}, r"balance must lie in \[0, 1\], got 2"),
        ({"precision": "half"}, "precision must be one of float32, bfloat16, got 'half'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, auto"),
        ({"clip_norm": -1.0}, "clip_norm must be 0 or more"),
        ({"patience": -1}, "patience must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"training\.device=cpu"):
        train(model, objective_of(model), groups(), [], replace(CONFIG, device="cuda"), tmp_path)
    assert choose_device("auto") == torch.device("cpu")


def test_a_rise_of_one_step_trains(tmp_path: Path) -> None:
    """torch's one-cycle schedule would divide by zero."""
    model = build()
    config = replace(CONFIG, num_steps=4, warmup=0.2, validate_every=4)
    result = train(model, objective_of(model), groups(), groups(4), config, tmp_path)
    assert result.best_step == 4
