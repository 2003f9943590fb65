"""Which terms of the self-supervised objective carry the graph encoder's probes?

    python benchmarks/objectives.py --steps 600 --seeds 0,1,2

One training a variant and seed on the digits_demo zoo, then the probes on held-out
networks; prints a table of means and writes runs/objectives.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from graphrep.evaluation.comparison import embed_splits, probe_all, train_representation
from graphrep.progress import show_progress
from graphrep.settings import Settings
from graphrep.tracking import Run
from graphrep.workflows import make_zoo

VARIANTS = {
    "masked (base)": [],
    "numbers 0.3": ["objective.views.mask_unit=number"],
    "numbers 0.5": ["objective.views.mask_unit=number", "objective.views.mask_ratio=0.5"],
    "no mask": ["objective.views.mask_ratio=0"],
    "mask 0.5": ["objective.views.mask_ratio=0.5"],
    "hidden x3": ["objective.hidden_weight=3"],
    "contrast 0.05": ["objective.contrast_weight=0.05"],
    "contrast 0.5": ["objective.contrast_weight=0.5"],
    "no permutation": ["objective.views.permute=false"],
    "no noise": ["objective.views.noise=0"],
}


def main(
    steps: int = 600,
    seeds: str = "0,1,2",
    variants: Annotated[str, typer.Option(help="by comma; all if empty")] = "",
    output: Path = Path("runs/objectives"),
    encoder: str = "graph",
) -> None:
    rows = []
    for name in variants.split(",") if variants else VARIANTS:
        for seed in map(int, seeds.split(",")):
            settings = Settings.load(
                [
                    "zoo=digits_demo",
                    f"encoder={encoder}",
                    "training=demo",
                    f"training.num_steps={steps}",
                    f"seed={seed}",
                    f"zoo.seed={seed}",
                    *VARIANTS[name],
                ]
            )
            zoo = make_zoo(settings)
            folder = output / f"{encoder}-{name.replace(' ', '_')}-{steps}-{seed}"
            with show_progress(f"{name} seed {seed}", steps) as bar:
                representation, result, _ = train_representation(
                    zoo,
                    settings.model,
                    settings.objective,
                    settings.training,
                    folder,
                    Run(),
                    on_step=bar,
                )
            scores = probe_all(
                embed_splits(representation, zoo), zoo, settings.evaluation.probes, seed
            )
            row = {"variant": name, "seed": seed, "seconds": result.train_seconds}
            for metric in ("validation/seen", "validation/hidden"):
                row[metric] = result.history[-1][metric]
            for score in scores:
                value = score.kendall_tau if score.accuracy is None else score.accuracy
                row[score.property] = value
            rows.append(row)
            table = pd.DataFrame(rows)
            table.to_csv(output.with_suffix(".csv"), index=False)
            means = table.groupby("variant", sort=False).mean(numeric_only=True)
            print(means.drop(columns="seed").round(3).to_string())


if __name__ == "__main__":
    typer.run(main)
