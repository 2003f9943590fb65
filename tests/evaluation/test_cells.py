"""A comparison of methods, whole: cells that resume, scores that are right, a report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pytest
import torch

from graphrep import Representation
from graphrep.evaluation import cells as cells_module
from graphrep.evaluation.cells import Cell, JudgingConfig, is_done, open_zoo, run_cell
from graphrep.evaluation.findings import (
    best_rivals,
    compare,
    joint_against_alone,
    read_findings,
    summarise,
)
from graphrep.evaluation.label_efficiency import LabelConfig
from graphrep.evaluation.methods import MODES, Method, choose_methods
from graphrep.evaluation.properties import Property
from graphrep.evaluation.readers import Setup
from graphrep.evaluation.report import record_report, write_report
from graphrep.evaluation.schedule import Progress, run_cells
from graphrep.evaluation.scores import Bootstrap
from graphrep.figures.style import colours
from graphrep.settings import Settings
from graphrep.tracking import Tracker, TrackingConfig
from graphrep.zoo import Record, Zoo, append_to
from tests.evaluation.planted import architecture, planted_zoo

SMALL = (
    *("encoder.unit_dim=8", "encoder.num_rounds=1", "model.decoder.model_dim=16"),
    *("training.num_steps=6", "training.validate_every=3", "training.batch_size=16"),
)
JUDGING = JudgingConfig(
    properties=(
        Property(name="test_accuracy"),
        Property(name="weight_decay", log=True),
        Property(name="optimiser", category=True),
    ),
    labels=LabelConfig(counts=(10,), num_draws=2),
    bootstrap=Bootstrap(num=20),
)
NOWHERE = TrackingConfig(enabled=False)


@pytest.fixture(scope="module")
def zoos(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("cells")
    first, second = planted_zoo(folder / "first"), planted_zoo(folder / "second", seed=1)
    return first.url, second.url


def setup_of(method: Method, *more: str) -> Setup | None:
    if not method.trained:
        return None
    small = SMALL if "encoder=graph" in method.overrides else SMALL[2:]
    settings = Settings.load([*method.overrides, *small, *more])
    return Setup(model=settings.model, objective=settings.objective, training=settings.training)


def cell(zoos: Sequence[str], name: str, mode: str, seed: int = 0, **changes: object) -> Cell:
    (method,) = choose_methods([name], [mode])
    made = Cell(
        zoos=tuple(zoos),
        targets=tuple(zoos),
        method=method,
        seed=seed,
        judging=JUDGING,
        setup=setup_of(method, f"training.seed={seed}"),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def scores_on(folder: Path, zoo: str) -> dict[tuple[str, str], dict]:
    content = json.loads((folder / f"on-{Path(zoo).name}.json").read_text())
    return {(row["labels"], row["property"]): row for row in content["scores"]}


def test_a_finished_cell_is_not_done_again_and_an_interrupted_one_goes_on(
    zoos: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cell(zoos[:1], "graph", "self_supervised", targets=zoos)
    folder = one.folder(tmp_path)
    judge = cells_module._judge
    calls: list[str] = []

    def stopping(*args: object, **named: object) -> object:
        calls.append("judged")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(cells_module, "_judge", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_cell(one, folder)
    assert not is_done(one, folder) and len(scores_on(folder, zoos[0])) == 3
    first = (folder / "on-first.json").stat().st_mtime_ns
    steps: list[int] = []
    run_cell(one, folder, on_step=steps.append)
    assert is_done(one, folder) and len(calls) == 3 and steps == []
    assert (folder / "on-first.json").stat().st_mtime_ns == first
    unbroken = tmp_path / "unbroken"
    monkeypatch.setattr(cells_module, "_judge", judge)
    run_cell(one, unbroken)
    for zoo in zoos:
        assert scores_on(folder, zoo) == scores_on(unbroken, zoo)


def test_other_settings_and_other_networks_have_other_folders(
    zoos: tuple[str, str], tmp_path: Path
) -> None:
    one = cell(zoos[:1], "graph", "self_supervised")
    assert one.folder(tmp_path) == cell(zoos[:1], "graph", "self_supervised").folder(tmp_path)
    assert replace(one, targets=zoos).folder(tmp_path) == one.folder(tmp_path)  # judged later
    others = [
        replace(one, setup=setup_of(one.method, "training.num_steps=5")),
        replace(one, judging=replace(JUDGING, max_models=30)),
        replace(one, zoos=zoos[1:]),
        replace(one, division="models:10"),
        cell(zoos[:1], "graph", "self_supervised", seed=1),
    ]
    folders = {other.folder(tmp_path) for other in others}
    assert len(folders) == len(others) and one.folder(tmp_path) not in folders


@pytest.mark.parametrize(
    ("name", "mode", "properties"),
    [
        ("graph", "untrained", 3),
        ("graph", "end_to_end", 1),
        ("statistics_asinh", "features", 3),
        ("statistics_asinh", "end_to_end", 1),
        ("raw", "boosting", 1),
    ],
)
def test_every_mode_gives_scores(
    zoos: tuple[str, str], tmp_path: Path, name: str, mode: str, properties: int
) -> None:
    one = cell(zoos[:1], name, mode, targets=zoos)
    run_cell(one, tmp_path)
    own, across = scores_on(tmp_path, zoos[0]), scores_on(tmp_path, zoos[1])
    assert len(own) == properties
    assert {labels for labels, _ in own} == {"own"}
    expected = {"other"} if mode == "end_to_end" else {"own", "other"}
    assert {labels for labels, _ in across} == expected
    assert all(-1 <= row["kendall_tau"] <= 1 for row in own.values() if row["accuracy"] is None)


def test_a_trained_model_is_kept_and_gives_the_same_embedding(
    zoos: tuple[str, str], tmp_path: Path
) -> None:
    run_cell(cell(zoos[:1], "graph", "self_supervised"), tmp_path)
    representation = Representation.from_pretrained(tmp_path / "model")
    zoo = Zoo.open(zoos[0])
    with np.load(tmp_path / "embedding-first.npz") as arrays:
        kept, split = arrays["embedding"], arrays["split"]
    assert (split == zoo.properties["split"].to_numpy()).all()
    found = representation.encode([zoo.graphs[3], zoo.graphs[50]])
    assert found == pytest.approx(kept[[3, 50]], abs=1e-5)
    assert found != pytest.approx(kept[[4, 51]], abs=1e-3)


def test_end_to_end_training_learns_what_is_asked(zoos: tuple[str, str], tmp_path: Path) -> None:
    """Enough steps to beat chance; the optimiser was not asked for, then it is."""
    method = choose_methods(["graph"], ["end_to_end"])[0]
    setup = setup_of(method, "training.num_steps=90", "training.validate_every=30")
    judging = replace(JUDGING, supervised=("test_accuracy", "optimiser", "weight_decay"))
    one = replace(cell(zoos[:1], "graph", "end_to_end"), setup=setup, judging=judging)
    run_cell(one, tmp_path)
    own = scores_on(tmp_path, zoos[0])
    assert set(own) == {
        ("own", name) for name in ("test_accuracy", "optimiser", "log_weight_decay")
    }
    assert own["own", "test_accuracy"]["kendall_tau"] > 0.5
    assert own["own", "optimiser"]["accuracy"] > 0.8
    assert own["own", "log_weight_decay"]["kendall_tau"] > 0.5


def test_a_whole_comparison_leaves_tables_figures_and_runs(
    zoos: tuple[str, str], tmp_path: Path
) -> None:
    """Two zoos, alone and together, two seeds, in two processes; started again it is at rest."""
    plan = [cell(zoos, "graph", "self_supervised"), cell(zoos[:1], "graph", "self_supervised", 1)]
    for zoo in zoos:
        plan.append(cell([zoo], "graph", "self_supervised"))
        plan.append(cell([zoo], "statistics_plain", "features"))
    plan.append(cell(zoos[:1], "token", "self_supervised", setup=None))  # cannot work
    folders = [(one, one.folder(tmp_path)) for one in plan]
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    said: list[str] = []
    failed = run_cells(folders, tracking, benchmark_id="b", workers=2, say=said.append)
    assert list(failed) == ["first: token, seed 0"]
    assert len(said) == len(plan) + 1 and said[0] == "7 cells, 0 done before"
    findings = read_findings([folder for _, folder in folders])

    results = findings.results
    assert set(results["trained_on"]) == {"first", "second", "first+second"}
    assert set(results["score"]) == {"r2", "kendall_tau", "accuracy"}
    assert len(findings.resampled) == len(results) and len(findings.label_efficiency) > 0
    report = write_report(findings, tmp_path)
    text = report.read_text()
    assert "## first, the zoo's split" in text and "graph minus each rival" in text
    assert "One model for many zoos minus one for each" in text
    assert "## Trained on 2 zoos together, judged on first" in text
    assert "The zoos: first, second." in text
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"test_accuracy-zoo.png", "advantage-probe.png", "labels-test_accuracy.png"} <= names
    assert len(pd.read_csv(tmp_path / "results.csv")) == len(results)
    record_report(tmp_path, Tracker(tracking), ["first", "second"], "b")

    import mlflow

    runs = mlflow.MlflowClient(tracking.store_uri).search_runs(["1"], max_results=50)
    kinds = [run.data.tags["kind"] for run in runs]
    assert kinds.count("summary") == 1 and kinds.count("cell") == 6
    summary = next(run for run in runs if run.data.tags["kind"] == "summary")
    assert {f"test_accuracy/{zoo}/graph" for zoo in ("first", "second")} < set(summary.data.metrics)
    assert "test_accuracy/first/graph: from 2 zoos together" in summary.data.metrics
    of_graph = next(r for r in runs if r.data.params["encoder"] == "graph")
    assert of_graph.data.params["seed"] in ("0", "1") and "zoo" in of_graph.data.params
    assert any(key.startswith("probe_tau/test_accuracy") for key in of_graph.data.metrics)

    done = [item for item in folders if item[0].setup or item[0].method.name != "token"]
    again: list[str] = []
    assert not run_cells(done, tracking, benchmark_id="b", say=again.append)
    assert again == ["6 cells, 6 done before"]


class Deadly(JudgingConfig):
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (9,)


def made_findings(tmp_path: Path, shift: float) -> Path:
    """Cells as files: graph and one floor on one zoo, three seeds of graph."""
    random = np.random.default_rng(0)
    draws = 0.6 + 0.05 * random.normal(size=500)
    for method, mode, seeds, value in (
        ("graph", "self_supervised", (0, 1, 2), 0.6 + shift),
        ("graph_responses", "self_supervised", (0,), 0.9),  # a variant of ours is no rival
        ("statistics_plain", "features", (0,), 0.6),
    ):
        for seed in seeds:
            folder = tmp_path / f"{method}-{seed}"
            folder.mkdir(parents=True)
            facts = {"zoos": ["z"], "method": method, "mode": mode, "label": method}
            facts |= {"seed": seed, "split": "zoo", "num_train": 100}
            (folder / "cell.json").write_text(json.dumps(facts))
            row = {"property": "test_accuracy", "labels": "own", "majority": None, "penalty": 1.0}
            for kind in ("r2", "accuracy"):
                row |= {kind: None, f"{kind}_low": None, f"{kind}_high": None}
            row |= {"kendall_tau": value, "kendall_tau_low": 0.5, "kendall_tau_high": 0.7}
            content = {"zoo": "z", "scores": [row], "label_efficiency": []}
            content |= {"read_seconds": 0.1, "num_networks": 200}
            (folder / "on-z.json").write_text(json.dumps(content))
            own = draws + value - 0.6 + 0.001 * random.normal(size=500)
            np.savez(folder / "on-z.npz", **{"own/test_accuracy/kendall_tau": own})
    return tmp_path


@pytest.mark.parametrize("shift", [0.03, -0.03, 0.0])
def test_a_lead_smaller_than_each_interval_is_seen_in_pairs(tmp_path: Path, shift: float) -> None:
    folders = sorted(made_findings(tmp_path, shift).iterdir())
    findings = read_findings(folders)
    table = summarise(findings).set_index("method")
    assert table.loc["graph", "num_seeds"] == 3
    assert table.loc["graph", "low"] < 0.6 < table.loc["graph", "high"]  # alone it says nothing
    difference = compare(findings).iloc[0]
    assert difference["difference"] == pytest.approx(shift)
    assert (difference["low"] > 0) == (shift > 0) and (difference["high"] < 0) == (shift < 0)
    best = best_rivals(compare(findings)).set_index("method")
    assert best["rival"].to_dict() == dict.fromkeys(
        ("graph", "graph_responses"), "statistics_plain"
    )
    assert best.loc["graph_responses", "difference"] == pytest.approx(0.3)
    assert joint_against_alone(findings).empty


def test_two_cells_that_no_table_tells_apart_are_refused(tmp_path: Path) -> None:
    """Runs of 500 and of 1,200 steps would count as two seeds of one method."""
    folders = sorted(made_findings(tmp_path / "a", 0.0).iterdir())
    longer = shutil.copytree(folders[0], tmp_path / "longer")
    for folder, num_steps in ((folders[0], 500), (longer, 1200)):
        facts = json.loads((folder / "cell.json").read_text())
        (folder / "cell.json").write_text(json.dumps({**facts, "num_steps": num_steps}))
    with pytest.raises(ValueError, match="two cells are 'graph', seed 0, trained on z") as caught:
        read_findings([*folders, longer])
    assert "[500, 1200]" in str(caught.value)


def test_a_rival_without_a_score_leaves_the_others(tmp_path: Path) -> None:
    """A constant prediction ranks nothing: its Kendall tau is not defined."""
    folders = sorted(made_findings(tmp_path, 0.1).iterdir())
    alone = next(f for f in folders if f.name.startswith("statistics"))
    without = shutil.copytree(alone, tmp_path / "raw-0")
    facts = json.loads((without / "cell.json").read_text())
    facts |= {"method": "raw", "label": "raw"}
    (without / "cell.json").write_text(json.dumps(facts))
    content = json.loads((without / "on-z.json").read_text())
    content["scores"][0] |= {"kendall_tau": float("nan")}
    (without / "on-z.json").write_text(json.dumps(content))
    best = best_rivals(compare(read_findings([*folders, without])))
    assert set(best["rival"]) == {"statistics_plain"} and len(best) == 2
    rest = [f for f in folders if f != alone]
    assert best_rivals(compare(read_findings([*rest, without]))).empty


def test_methods_that_run_networks_are_no_rivals_of_those_that_do_not(tmp_path: Path) -> None:
    folders = sorted(made_findings(tmp_path, 0.1).iterdir())
    rename = {"graph_responses-0": "graph_probed", "statistics_plain-0": "answers"}
    for folder in folders:
        if (new := rename.get(folder.name)) is not None:
            facts = json.loads((folder / "cell.json").read_text())
            facts |= {"method": new, "label": new}
            (folder / "cell.json").write_text(json.dumps(facts))
    differences = compare(read_findings(folders))
    assert set(differences["method"]) == {"graph", "graph_probed"}
    best = best_rivals(differences).set_index("method")["rival"]
    assert best.to_dict() == {"graph_probed": "answers"}


def test_a_zoo_made_anew_is_judged_anew(tmp_path: Path) -> None:
    """Other networks, or the same with other properties, at the same place."""
    source, target = planted_zoo(tmp_path / "source"), tmp_path / "target"
    one = replace(cell([source.url], "raw", "features"), targets=(source.url, str(target)))
    planted_zoo(target, num=30, seed=1)
    run_cell(one, tmp_path / "cell")
    assert is_done(one, tmp_path / "cell")
    before = scores_on(tmp_path / "cell", str(target))
    for num, seed in ((40, 1), (40, 2)):
        shutil.rmtree(target)
        planted_zoo(target, num=num, seed=seed)
        cells_module._identity.cache_clear()
        assert not is_done(one, tmp_path / "cell")
        run_cell(one, tmp_path / "cell")
        assert is_done(one, tmp_path / "cell")
        assert scores_on(tmp_path / "cell", str(target)) != before
        before = scores_on(tmp_path / "cell", str(target))
    place = source.path / "properties.parquet"
    table, folder = pd.read_parquet(place), one.folder(tmp_path)
    table.assign(test_accuracy=1 - table["test_accuracy"]).to_parquet(place)
    cells_module._identity.cache_clear()
    assert one.folder(tmp_path) != folder


def test_a_killed_worker_does_not_stop_the_others(zoos: tuple[str, str], tmp_path: Path) -> None:
    """Nor does a cell that kills its process whenever it is tried."""
    good = [cell(zoos[:1], name, "features") for name in ("raw", "statistics_plain")]
    judging = Deadly(properties=JUDGING.properties)
    deadly = replace(cell(zoos[:1], "graph", "self_supervised"), judging=judging)
    plan = [(deadly, tmp_path / "deadly"), *((one, one.folder(tmp_path)) for one in good)]
    failed = run_cells(plan, NOWHERE, benchmark_id="b", workers=2, say=lambda line: None)
    assert list(failed) == [deadly.title] and "BrokenProcessPool" in failed[deadly.title]
    assert all(is_done(one, folder) for one, folder in plan[1:])


def test_cells_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of 1 cells has results"):
        read_findings([tmp_path])


def test_methods_are_chosen_by_name_family_and_mode() -> None:
    every = choose_methods()
    assert len(set(colours([m.name for m in every]).values())) == len({m.name for m in every})
    assert {m.mode for m in every} == set(MODES) - {"untrained"}
    assert len({(m.name, m.mode) for m in every}) == len(every)
    family = choose_methods(["hyperrep"], ["self_supervised"])
    assert [m.name for m in family] == [
        f"hyperrep_{o}" for o in ("e_d", "e_c", "e_cd", "e_c_plus_d")
    ]
    variant = choose_methods(["wide"], variants=["wide = graph encoder.unit_dim=96"])
    assert {m.name for m in variant} == {"wide"}
    assert all(m.overrides[-1] == "encoder.unit_dim=96" for m in variant)
    for wrong, message in (
        ({"names": ["gpt"]}, "no method 'gpt'"),
        ({"modes": ["fast"]}, "no mode fast"),
        ({"names": ["raw"], "modes": ["self_supervised"]}, "none of the methods"),
        ({"variants": ["x"]}, "a variant is"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_methods(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", choose_methods(), ids=lambda m: f"{m.name}-{m.mode}")
def test_every_method_is_a_configuration(method: Method) -> None:
    if method.trained:
        settings = Settings.load(method.overrides)
        assert (settings.objective.name == "property") == (method.mode == "end_to_end")


def test_time_left_is_told_by_method(zoos: tuple[str, str]) -> None:
    slow = [cell(zoos[:1], "graph", "self_supervised", seed) for seed in (0, 1)]
    fast = [cell([zoo], "raw", "features") for zoo in zoos]
    progress = Progress([*slow, *fast], workers=2)
    assert progress.left_s == 0
    assert "[1/4]" in progress.line(slow[0], 100.0)
    assert progress.left_s == pytest.approx((100 + 2 * 100) / 2)
    progress.line(fast[0], 2.0)
    assert progress.left_s == pytest.approx((100 + 2) / 2)
    assert "failed" not in progress.line(fast[1], None)
    assert progress.left_s == pytest.approx(100 / 2)


def test_a_zoo_that_grows_is_not_compared(zoos: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "growing"
    shutil.copytree(zoos[0], path)
    assert len(open_zoo(str(path), 5)) == 10  # two checkpoints a model
    kind = architecture((4,))
    weights = torch.zeros(1, kind.num_parameters)
    record = Record(name="new", architecture=kind, theta=weights, rows=[{"epoch": 0}])
    with append_to(path) as writer:
        writer.add([record])
        with pytest.raises(ValueError, match="growing: an unfinished zoo"):
            open_zoo(str(path))
    assert len(open_zoo(str(path))) == 121
