"""What the commands do, as functions: each takes checked settings and says what it made."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .files import write_whole
from .graph import ParameterGraph
from .loading import Loaded, load_graph
from .representation import Representation
from .settings import Settings
from .tracking import Tracker
from .views import record_graph
from .zoo import Recipe, Zoo, create_zoo, evaluate

if TYPE_CHECKING:
    import pandas as pd


def zoo_folder(output: Path, recipe: Recipe) -> str:
    """Where a recipe's zoo lies: another recipe, another folder."""
    identity = json.dumps(recipe.identity(), sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return str(output / "zoos" / f"{recipe.name}-{digest}")


def make_zoo(settings: Settings, path: str | None = None, engine: str = "pool") -> Zoo:
    """Open the zoo of these settings, making it or the rest of it first.

    With `zoo_path` set, it is the zoo there, made or imported by whomever.
    """
    if settings.zoo_path and path is None:
        return Zoo.open(settings.zoo_path)
    folder = path or zoo_folder(settings.output, settings.zoo)
    return create_zoo(settings.zoo, folder, engine=engine)


def make_zoos(settings: Settings) -> list[Zoo]:
    """The zoos of zoo_path=[a,b], or else of zoo=[a,b], made first where they are not there."""
    if settings.zoo_paths:
        return [Zoo.open(path) for path in settings.zoo_paths]
    return [create_zoo(r, zoo_folder(settings.output, r)) for r in settings.zoos]


def graph_of_file(path: Path, model: str | None, inputs: Sequence[str]) -> Loaded:
    """The graph of a file of any kind, and what was unwrapped, assumed or found odd in it."""
    return load_graph(path, model=model, input_shape=inputs or None)


def log_graph(graph: ParameterGraph, path: Path, overrides: Sequence[str]) -> str:
    """Record all views of a file's network in MLflow; says where they are."""
    settings = Settings.load(overrides)
    identity = f"{path.resolve()} {graph.architecture.fingerprint}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    folder = settings.output / "graphs" / f"{path.stem}-{digest}"
    tracker = Tracker(settings.tracking)
    run_id = record_graph(graph, tracker, folder, path.name, {"file": str(path)})
    if not run_id:
        return f"record: {folder}"
    return f"record: {folder}\nrun: {run_id} in {settings.tracking.store_uri} (graphrep ui)"


def log_zoo(zoo: Zoo, overrides: Sequence[str]) -> str:
    """Record a zoo's page of plots in MLflow; says where it is."""
    from .zoo_page import record_zoo

    settings = Settings.load(overrides)
    folder = settings.output / "zoo_pages" / zoo.path.name
    run_id = record_zoo(zoo, Tracker(settings.tracking), folder)
    if not run_id:
        return f"record: {folder}"
    return f"record: {folder}\nrun: {run_id} in {settings.tracking.store_uri} (graphrep ui)"


def train_one(settings: Settings) -> tuple[Path, str]:
    """Train one representation with anchors to sample from; its folder and MLflow URI.

    With objective=property it is a `PropertyPredictor`'s; without anchors then, and where the
    objective trains no decoder.

    Of several processes that torchrun started, the first makes zoos, records and saves.
    """
    from .evaluation.comparison import train_representation
    from .predictor import PropertyPredictor
    from .progress import in_short, show_progress
    from .training import join_processes
    from .training.objectives import PropertyPrediction

    team = join_processes(settings.training.device)
    urls = team.share([zoo.url for zoo in make_zoos(settings)] if team.leads else [])
    zoos = [Zoo.open(url) for url in urls]
    name = f"{settings.model.encoder.name}-seed{settings.seed}"
    folder = settings.output / "train" / _joint_name([zoo.path.name for zoo in zoos]) / name
    names = "+".join(zoo.name for zoo in zoos)
    tracker = Tracker(settings.tracking)
    params = {**settings.plain, "zoo": names, "encoder": settings.model.encoder.name}
    params["settings"] = {k: settings.plain[k] for k in ("encoder", "zoo")}
    num_steps = settings.training.num_steps
    with tracker.run(name, params, folder, resume=True) as run:
        for zoo in zoos:
            run.log_dataset(zoo.properties, zoo.name, str(zoo.path))
        with show_progress(name, num_steps, visible=team.leads) as advance:

            def show_speed(metrics: Mapping[str, float], step: int) -> None:
                if "train/weights_per_second" in metrics:
                    weights = in_short(metrics["train/weights_per_second"])
                    networks = in_short(metrics["train/networks_per_second"])
                    advance(step, f"{weights} weights/s, {networks} networks/s")

            representation, _, objective = train_representation(
                zoos,
                settings.model,
                settings.objective,
                settings.training,
                folder / "training",
                run,
                on_step=advance,
                on_metrics=show_speed,
                say=lambda note: advance(0, note),
            )
        uri = ""
        if team.leads:
            if isinstance(objective, PropertyPrediction):  # its decoder learns nothing to sample
                predictor = PropertyPredictor(representation, objective.head)
                predictor.save_pretrained(folder / "model")
            else:
                if representation.decodes:
                    _fit_anchors(representation, zoos, settings.evaluation.sampling.anchor_share)
                representation.save_pretrained(folder / "model")
            uri = run.log_model(folder / "model", settings.model.encoder.name)
    return folder / "model", uri


def _fit_anchors(representation: Representation, zoos: Sequence[Zoo], share: float) -> None:
    """The best networks of each zoo; one that does not say which are good has none."""
    from .evaluation.sampling import best_networks

    graphs: list[ParameterGraph] = []
    for zoo in zoos:
        try:
            graphs += best_networks(zoo, share)
        except ValueError as error:
            warnings.warn(f"no networks to sample near: {error}", stacklevel=2)
    if graphs:
        representation.fit_anchors(graphs)


def _joint_name(names: Sequence[str]) -> str:
    """One name for several zoos, short enough for a folder."""
    joined = "+".join(names)
    if len(joined) <= 120:
        return joined
    return f"{len(names)}-zoos-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"


def probe_zoo(model: str, path: Path, settings: Settings) -> pd.DataFrame:
    """Scores of every property of a zoo, a row each."""
    import pandas as pd

    from .evaluation.comparison import embed_splits, probe_all

    zoo, representation = Zoo.open(path), Representation.from_pretrained(model)
    embedding = embed_splits(representation, zoo)
    rows = []
    for score in probe_all(embedding, zoo, settings.evaluation.probes, settings.seed):
        row: dict[str, object] = {"property": score.property}
        for kind in ("r2", "kendall_tau", "accuracy"):
            row[kind] = getattr(score, kind)
            interval = getattr(score, f"{kind}_interval")
            row[f"{kind} 95 %"] = "" if interval is None else "{:.2f} to {:.2f}".format(*interval)
        rows.append({**row, "majority": score.majority})
    return pd.DataFrame(rows)


def sample_networks(
    model: str, num: int, method: str, bandwidth: float, seed: int, zoo: Path | None, output: Path
) -> pd.DataFrame:
    """Write sampled state dicts, one safetensors file each; with a zoo, test them on its images."""
    import pandas as pd
    from safetensors.torch import save_file

    representation = Representation.from_pretrained(model)
    graphs = representation.sample(num, method=method, bandwidth=bandwidth, seed=seed)  # type: ignore[arg-type]
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    opened = None if zoo is None else Zoo.open(zoo)
    images = None if opened is None else opened.images()
    for number, graph in enumerate(graphs):
        path = output / f"sample-{number:04d}.safetensors"
        state = dict(graph.state_dict())
        write_whole(path, partial(save_file, state))
        row: dict[str, object] = {"file": path.name, "architecture": graph.architecture.name}
        if opened is not None and images is not None:
            same = opened.properties["architecture"] == graph.architecture.fingerprint
            if not same.any():
                raise ValueError(f"{zoo}: holds no network of '{graph.architecture.name}'")
            module = graph.load_into(opened.network(int(same.to_numpy().argmax())))
            row["accuracy"] = evaluate(module, images.test_images, images.test_labels)[0]
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    overrides: Sequence[str], encoders: Sequence[str], seeds: Sequence[int], name: str
) -> None:
    """Run a comparison, print its table and where to look."""
    from rich.console import Console

    from .evaluation.benchmark import run_benchmark
    from .evaluation.recording import terminal_table

    console = Console()
    chosen = [Settings.load([*overrides, f"encoder={e}"]) for e in encoders]
    first = chosen[0]
    zoo = make_zoo(first)
    folder = first.output / name
    outcome = run_benchmark(
        zoo,
        [s.model for s in chosen],
        first.objective,
        first.training,
        first.evaluation,
        Tracker(first.tracking),
        folder,
        seeds=seeds,
        settings={k: v for k, v in first.plain.items() if k not in ("encoder", "zoo")},
    )
    console.print(terminal_table(outcome.board, outcome.ground))
    console.print(f"summary:  {folder / 'summary.json'}", highlight=False, soft_wrap=True)
    for trial_name, uri in outcome.models.items():
        console.print(f"model:    {trial_name:<20} {uri}", highlight=False, soft_wrap=True)
    console.print("look at it: graphrep ui (or make ui)", highlight=False)
