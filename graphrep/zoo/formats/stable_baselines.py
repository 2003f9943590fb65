"""Policies that Stable-Baselines3 saved: one zip file, or a tree of them.

A model is a training run: all files of a folder that RL Zoo's training left, all
`NAME_<n>_steps.zip` of one name, or else a single file. The graph holds the whole policy
(actor, critics, targets, spread), so that it gives back `policy.pth`; with `part="actor"`
only what a deterministic action follows from. Observations are as the network takes them:
running statistics that normalise them stand in pickles (`vecnormalize.pkl`) and are not read;
the column `normalize` tells of them where a run has settings.

Source: Raffin et al. 2021, JMLR 22(268); RL Zoo, https://github.com/DLR-RM/rl-baselines3-zoo.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...architecture import Architecture
from ...graph import to_graph
from ..policies.rebuilt import RebuiltConfig, actor_names, rebuild
from ..recipe import check_choice
from ..record import Record, Skipped
from .stable_baselines_file import SavedPolicy, read_policy
from .stable_baselines_logs import ARGUMENTS, CONFIG, EVALUATIONS, RunNotes

PARTS = ("policy", "actor")
STEPS = re.compile(r"(.+)_\d+_steps\.zip")
ENVIRONMENT = re.compile(
    r"(?:(?:ppo|a2c|dqn|qrdqn|sac|tqc|td3|ddpg|trpo|ars|her)-)?(\w[\w.-]*?-v\d+)"
)
CITATION = "Raffin et al. 2021: Stable-Baselines3. Journal of Machine Learning Research 22(268)"


@dataclass(frozen=True)
class Run:
    """The files of one training run."""

    folder: Path
    paths: tuple[Path, ...]  # sorted by name


class StableBaselines:
    """Reader of Stable-Baselines3's zip files; see `graphrep.zoo.formats.reader.Reader`.

    Args:
        source: A zip file, or a folder with such files at any depth.
        part: `policy` for everything that a file holds, `actor` for what acts.

    Raises:
        ValueError: nothing there, or no zip file.
    """

    def __init__(self, source: str | Path, *, part: str = "policy") -> None:
        check_choice("part", part, PARTS)
        self.source = Path(source)
        self.part = part
        self.title = f"Policies of Stable-Baselines3 in {self.source.name}"
        self.facts: Mapping[str, Any] = {"part": part, "citation": CITATION}
        self._runs = find_runs(self.source)
        self._architectures: dict[str, Architecture] = {}

    def names(self) -> Sequence[str]:
        """Every run by its folder or file; see `Reader.names`."""
        return list(self._runs)

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One run: its policies in the order of their steps; see `Reader.read`.

        Raises:
            ValueError: none of its files can be taken; the message says why.
        """
        run = self._runs[name]
        policies: dict[Path, SavedPolicy] = {}
        skipped: dict[Path, str] = {}
        for path in run.paths:
            try:
                policy = self._part_of(read_policy(path))
                rebuild(policy.config)
                policies[path] = policy
            except ValueError as error:
                skipped[path] = str(error).removeprefix(f"{path}: ")
        if not policies:
            only = len(skipped) == 1
            reasons = (r if only else f"{p.name}: {r}" for p, r in skipped.items())
            raise ValueError("; ".join(reasons))
        usual, _ = Counter(_key(policy.config) for policy in policies.values()).most_common(1)[0]
        for path, policy in list(policies.items()):
            if _key(policy.config) != usual:
                skipped[path] = "has another architecture than the other files of its run"
                del policies[path]
        notes = RunNotes.read(run.folder, list(policies))
        for path, reason in {**skipped, **notes.unread}.items():
            yield Skipped(name=f"{name}/{path.name}", reason=reason)
        yield self._record(name, policies, notes)

    def _part_of(self, policy: SavedPolicy) -> SavedPolicy:
        if self.part == "policy":
            return policy
        names = actor_names(policy.config.family, policy.state_dict)
        shapes = {name: policy.config.shapes[name] for name in names}
        return replace(
            policy,
            state_dict={name: policy.state_dict[name] for name in names},
            config=replace(policy.config, shapes=shapes),
        )

    def _record(self, name: str, policies: Mapping[Path, SavedPolicy], notes: RunNotes) -> Record:
        ordered = sorted(policies.items(), key=lambda item: (item[1].num_steps or 0, item[0]))
        config = ordered[-1][1].config
        settings = {k: v for k, v in ordered[-1][1].settings.items() if v is not None}
        environment = notes.environment or next(
            (found for path in policies if (found := environment_of(path, self.source))), None
        )
        return Record.from_state_dicts(
            name,
            self._architecture(config),
            [policy.state_dict for _, policy in ordered],
            [_row(path, policy, notes) for path, policy in ordered],
            properties={"environment": environment, **notes.settings, **settings},
            design={"kind": "stable_baselines", "policy": config.to_mapping()},
        )

    def _architecture(self, config: RebuiltConfig) -> Architecture:
        """Traced once for each design."""
        key = _key(config)
        if key not in self._architectures:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = rebuild(config)
                graph = to_graph(module, module.example_inputs(), name=config.label)
            self._architectures[key] = graph.architecture
        return self._architectures[key]


def find_runs(source: Path) -> dict[str, Run]:
    """The training runs below a folder by their names, without opening a file.

    Raises:
        ValueError: nothing there, or no zip file.
    """
    if source.is_file():
        return {source.name: Run(source.parent, (source,))}
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder. Check the path.")
    by_folder: dict[Path, list[Path]] = {}
    for path in sorted(source.rglob("*.zip")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if path.is_file() and not hidden:
            by_folder.setdefault(path.parent, []).append(path)
    runs: dict[str, Run] = {}
    for folder, paths in by_folder.items():
        place = folder.relative_to(source)
        if is_run(folder, paths):
            runs[place.as_posix() if place.parts else source.name] = Run(folder, tuple(paths))
            continue
        for path in paths:
            match = STEPS.fullmatch(path.name)
            name = (place / (f"{match[1]}_*_steps.zip" if match else path.name)).as_posix()
            before = runs[name].paths if name in runs else ()
            runs[name] = Run(folder, (*before, path))
    if not runs:
        found = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
        raise ValueError(f"{source}: expected zip files of Stable-Baselines3 in it, found {found}")
    return dict(sorted(runs.items()))


def is_run(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether a folder is one training run's: it was evaluated there, or has settings."""
    places = [folder, *(path.with_suffix("") for path in paths)]
    settings = any((place / name).is_file() for place in places for name in (ARGUMENTS, CONFIG))
    return settings or (folder / EVALUATIONS).is_file()


def environment_of(path: Path, source: Path) -> str | None:
    """The environment that the name of a file or of a folder above it says, the nearest."""
    inside = path.relative_to(source).parts[:-1] if source.is_dir() else ()
    for name in (path.stem, *reversed(inside), source.name):
        if match := ENVIRONMENT.match(name):
            return match[1]
    return None


def _row(path: Path, policy: SavedPolicy, notes: RunNotes) -> dict[str, Any]:
    finite = all(bool(value.isfinite().all()) for value in policy.state_dict.values())
    return {
        "epoch": policy.num_steps,  # as in zoos of policies made here
        "environment_steps": policy.num_steps,
        "num_updates": policy.num_updates,
        "file": path.name,
        "diverged": not finite,
        **notes.returns_of(policy.num_steps),
    }


def _key(config: RebuiltConfig) -> str:
    return json.dumps(config.to_mapping(), sort_keys=True)
