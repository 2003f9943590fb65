"""Configuration: what is composed, what is refused, and what the message says."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from graphrep.config import CONF, choices, compose, groups, sweep
from graphrep.settings import Settings

FILES = [(g, c) for g in groups() for c in choices(g) if (g, c) != ("zoo", "base")]


@pytest.mark.parametrize(("group", "choice"), FILES, ids=lambda x: x)
def test_every_choice_gives_checked_settings(group: str, choice: str) -> None:
    settings = Settings.load([f"{group}={choice}"])
    assert getattr(settings, "model" if group == "encoder" else group) is not None


@pytest.mark.parametrize("group", ["model", "training", "evaluation", "tracking"])
def test_files_name_every_field_of_their_dataclass(group: str) -> None:
    """A setting that YAML does not show cannot be found by reading it."""
    owner = getattr(Settings.load(), group)
    known = {f.name for f in dataclasses.fields(owner)} - {"encoder"}
    assert set(yaml.safe_load((CONF / group / "base.yaml").read_text())) == known


def test_overrides_reach_their_dataclass() -> None:
    settings = Settings.load(
        ["encoder=token", "training.num_steps=7", "seed=3", "zoo.num_models=9"]
    )
    assert settings.model.encoder.name == "token"
    assert (settings.training.num_steps, settings.training.seed) == (7, 3)
    assert settings.zoo.num_models == 9
    assert Settings.load().training.num_steps != 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.num_step=7", r"unknown key 'training\.num_step'.*num_steps.*Did you mean"),
        ("trainig.num_steps=7", r"unknown key.*training.*"),
        ("encoder=gnn", r"encoder has no choice 'gnn'; choices: graph, hyperrep, pna, raw"),
        ("training.num_steps=many", r"training\.num_steps must be a whole number, got 'many'"),
        ("training.num_steps=0", r"num_steps must be at least 1"),
        ("objective.views.mask_ratio=2", r"mask_ratio must lie in \[0, 1\)"),
        ("zoo.search.optimiser=[lion]", r"search\.optimiser must be one of"),
        ("graph", r"'graph' is not an override.*encoder \(graph, hyperrep, pna"),
        ("seed=[", r"seed=\["),
    ],
)
def test_a_bad_override_is_refused_and_the_valid_ones_are_named(
    override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.load([override])


def test_several_values_become_one_run_each() -> None:
    found = sweep(["encoder=graph,token", "seed=1,2", "training.num_steps=5"])
    assert len(found) == 4
    assert {tuple(sorted(c)) for c in found} == {
        tuple(sorted((f"encoder={e}", f"seed={s}", "training.num_steps=5")))
        for e in ("graph", "token")
        for s in (1, 2)
    }


def test_what_is_recorded_is_the_whole_resolved_configuration() -> None:
    plain = compose(["seed=5"])
    assert plain["training"]["seed"] == 5
    assert set(plain) >= {"zoo", "encoder", "model", "training", "evaluation", "tracking"}
