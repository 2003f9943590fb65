"""Laws of names: what differs in time alone is one run, other numbers tell models apart."""

from __future__ import annotations

import re

import pytest

from graphrep.zoo.formats.runs import find_runs, moment_of


@pytest.mark.parametrize(
    ("path", "run", "says"),
    [
        ("a/epoch_003.pt", "a/*.pt", {"epoch": 3}),
        ("a/net-ep12.pth", "a/net-*.pth", {"epoch": 12}),
        ("checkpoint-500/model.safetensors", "*/model.safetensors", {"epoch": 500}),
        ("t/checkpoint_000010/checkpoints", "t/*/checkpoints", {"epoch": 10}),
        ("global_step100.bin", "*.bin", {"step": 100}),
        ("net_iter_20000.caffe.pt", "net_*.caffe.pt", {"step": 20000}),
        (
            "epoch=3-step=400-val_loss=0.25.ckpt",
            "*.ckpt",
            {"epoch": 3, "step": 400, "val_loss": 0.25},
        ),
        ("epoch=3-val_loss=0.25", "*", {"epoch": 3, "val_loss": 0.25}),
        ("a/checkpoint_best.pt", "a/*.pt", {"saved_as": "best"}),
        ("a/model_last.pth.tar", "a/model_*.pth.tar", {"saved_as": "last"}),
        ("a/final/net.pt", "a/*/net.pt", {"saved_as": "final"}),
        # Numbers that may tell networks apart, and words within words.
        ("net_3.pt", "net_3.pt", {}),
        ("seed=1/lr=0.1.pt", "seed=1/lr=0.1.pt", {}),
        ("007.pt", "007.pt", {}),
        ("sweep10.pt", "sweep10.pt", {}),
        ("elastic.pt", "elastic.pt", {}),
        ("perimeter_3.pt", "perimeter_3.pt", {}),
        ("epoch_3_runs/net.pt", "epoch_3_runs/net.pt", {}),
    ],
)
def test_a_name_says_when_and_of_which_run(
    path: str, run: str, says: dict[str, int | float | str]
) -> None:
    moment = moment_of(path)
    assert (moment.run, moment.says) == (run, says)


def test_a_run_is_in_order_of_time_and_others_stay_apart() -> None:
    names = ["a/best.pt", "a/epoch_10.pt", "a/epoch_2.pt", "b/epoch_1.pt", "net_1.pt", "net_2.pt"]
    runs = find_runs(names)
    assert list(runs) == ["a/*.pt", "b/epoch_1.pt", "net_1.pt", "net_2.pt"]
    assert [m.path for m in runs["a/*.pt"]] == ["a/epoch_2.pt", "a/epoch_10.pt", "a/best.pt"]
    assert runs["b/epoch_1.pt"][0].says == {"epoch": 1}


def test_a_pattern_says_it_for_other_names() -> None:
    pattern = re.compile(r"_(?P<epoch>\d+)(?=\.pt)")
    runs = find_runs(["net_3.pt", "net_1.pt", "epoch_5x.pt"], pattern)
    assert {k: [m.says for m in v] for k, v in runs.items()} == {
        "net*.pt": [{"epoch": 1}, {"epoch": 3}],
        "epoch_5x.pt": [{}],
    }
