"""Which files are checkpoints of one training run, told by their names alone.

`epoch_3.pt` and `epoch_4.pt` in one folder are one network at two times; `net_3.pt` and
`net_4.pt` may as well be two networks, so they are never joined. Keeping a run together
matters: splits are by model, and a copy of a training model must not be tested on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import PurePosixPath

STEPS = ("step", "steps", "global_step", "iter", "iters", "iteration", "iterations")
EPOCHS = ("epoch", "ep", "checkpoint", "ckpt")
TIME = re.compile(
    rf"(?<![a-z])(?P<word>{'|'.join((*STEPS, *EPOCHS))})[-_=. ]?(?P<number>\d+)(?!\d)",
    re.IGNORECASE,
)
METRIC = re.compile(  # as Lightning writes them: epoch=3-val_loss=0.25
    r"(?P<metric>[a-z_]*(?:loss|acc|accuracy|error|f1|auc))=(?P<value>-?\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
WHEN = re.compile(
    r"(?<![a-z])(?:(?:checkpoint|ckpt)[-_])?(?P<when>best|last|latest|final)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Moment:
    """A file's place in a run: what it shares with the run's others, and what it says itself."""

    path: str  # relative, with forward slashes
    run: str  # the path with a star for all that changes within a run
    says: dict[str, int | float | str] = field(default_factory=dict)  # columns of its row

    @property
    def order(self) -> tuple[float, float, str]:
        """Sorts by time; files without a number (best, last) come last."""
        epoch, step = self.says.get("epoch", inf), self.says.get("step", inf)
        return float(epoch), float(step), self.path


def moment_of(path: str, pattern: re.Pattern[str] | None = None) -> Moment:
    """What a file's name says of time, or its folder's name where that says nothing else.

    Columns: `epoch` (epoch_3, ep3, checkpoint-3), `step` (step=300, iter_300), `saved_as`
    (best, last, latest, final), and metrics as in val_loss=0.25.

    Args:
        path: Relative, with forward slashes.
        pattern: Instead of these words: what tells a run's checkpoints apart. Its groups
            named `epoch` and `step` are numbers.
    """
    says: dict[str, int | float | str] = {}
    if pattern is not None:
        found = pattern.search(path)
        if found is None:
            return Moment(path, path)
        numbers = {k: v for k, v in found.groupdict().items() if v is not None}
        says = {k: int(v) for k, v in numbers.items() if k in ("epoch", "step")}
        return Moment(path, f"{path[: found.start()]}*{path[found.end() :]}", says)

    def take(match: re.Match[str]) -> str:
        groups = match.groupdict()
        if "number" in groups:
            column = "step" if groups["word"].lower() in STEPS else "epoch"
            says.setdefault(column, int(groups["number"]))
        elif "when" in groups:
            says["saved_as"] = groups["when"].lower()
        else:
            says[groups["metric"].strip("_")] = float(groups["value"])
        return "*"

    place = PurePosixPath(path)
    folders = list(place.parent.parts)
    suffix = "" if place.suffix[1:].isdigit() else place.suffix  # val_loss=0.25 has none
    stem = place.name.removesuffix(suffix)
    for way in (TIME, METRIC, WHEN):
        stem = way.sub(take, stem)
    if folders and (match := TIME.fullmatch(folders[-1]) or WHEN.fullmatch(folders[-1])):
        folders[-1] = take(match)
    stem = re.sub(r"\*(?:[-_. ]*\*)+", "*", stem)
    return Moment(path, "/".join([*folders, stem + suffix]), says)


def find_runs(
    paths: Iterable[str], pattern: re.Pattern[str] | None = None
) -> dict[str, list[Moment]]:
    """Runs by name, in the order of their first file; one file alone goes by its own path."""
    runs: dict[str, list[Moment]] = defaultdict(list)
    for path in paths:
        moment = moment_of(path, pattern)
        runs[moment.run].append(moment)
    return {
        (moments[0].path if len(moments) == 1 else run): sorted(moments, key=lambda m: m.order)
        for run, moments in runs.items()
    }
