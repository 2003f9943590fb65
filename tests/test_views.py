"""What people look at: the summary, files of all views, and a recorded run with them."""

from __future__ import annotations

import sys
from math import factorial, log10
from pathlib import Path

import networkx
import pandas as pd
import pytest
import torch
from torch import nn

import graphrep
from graphrep import cli
from graphrep.architecture import Architecture
from graphrep.graph import log10_symmetries
from graphrep.summary import Summary, summarize
from graphrep.tracking import Tracker, TrackingConfig
from graphrep.tracking.server import connect
from graphrep.views import record_graph, write_views
from tests.figures.designs import UnusedTensor, grouped_convolutions, straight, transformer
from tests.tracking.conftest import config as config, migrated_store as migrated_store


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


@pytest.fixture
def summary() -> Summary:
    return graphrep.to_graph(net(), torch.randn(1, 1, 4, 4)).summary()


def test_tables_hold_every_unit_group_and_every_block(summary: Summary) -> None:
    a = summary.architecture
    assert summary.units["name"].tolist() == [u.name for u in a.units]
    assert summary.units["activations"].tolist() == ["", "relu", ""]
    assert summary.blocks["name"].tolist() == [b.name for b in a.blocks]
    conv = summary.blocks.set_index("name").loc["0.weight"]
    assert (conv["source"], conv["target"], conv["shape"]) == ("input", "0", "8×1×3×3")
    assert conv["num_parameters"] == 72
    assert summary.blocks.set_index("name").loc["0.bias", "source"] == ""


@pytest.mark.parametrize("arch", [transformer(2), grouped_convolutions(3), straight(3)])
def test_parts_add_up_to_the_totals(arch) -> None:
    summary = summarize(arch)
    assert summary.blocks["num_parameters"].sum() == arch.num_parameters
    assert summary.units["num_parameters"].sum() == arch.num_parameters - summary.num_opaque
    total = summary.units["log10_symmetries"].sum()
    assert total == pytest.approx(log10_symmetries(arch)) and total > 0


def test_units_within_units_say_in_what(summary: Summary) -> None:
    table = summarize(transformer(1, num_heads=3, dim=4)).units.set_index("name")
    at = "model.layers.0.self_attn"
    assert table.loc[f"{at}.q_proj", "within"] == f"3 × 4 in {at}.heads, 12 × 1 in {at}.k_proj"
    assert table.loc[f"{at}.q_proj", "log10_symmetries"] == 0  # they follow their keys
    assert table.loc[f"{at}.k_proj", "log10_symmetries"] == pytest.approx(3 * log10(factorial(4)))
    assert not summary.units["within"].any()  # control


def test_it_prints_as_a_table_with_totals(summary: Summary) -> None:
    text = str(summary)
    for name in [*summary.units["name"], *summary.blocks["name"]]:
        assert any(line.split()[:1] == [name] for line in text.splitlines()), name
    assert "input -> 0" in text and "8×1×3×3" in text
    assert f"parameters  {summary.num_parameters}, 16 of them statistics" in text
    assert "opaque      none" in text
    assert f"10^{log10(factorial(8)):.1f} permutations, verified numerically" in text
    assert repr(summary) == text
    unchecked = graphrep.to_graph(net(), torch.randn(1, 1, 4, 4), verify=False).summary()
    assert "not verified" in str(unchecked) and "not verified" not in text


def test_columns_of_a_printed_table_stand_below_each_other(summary: Summary) -> None:
    lines = str(summary).splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["name", "size"])
    end = lines[start].index("size") + len("size")
    sizes = [line[:end].split()[-1] for line in lines[start + 2 : start + 5]]
    assert sizes == ["1", "8", "3"]


def test_a_very_large_architecture_is_folded_in_print_but_not_in_the_tables() -> None:
    large = summarize(transformer(100))
    lines = str(large).splitlines()
    assert len(lines) < 110 and sum("more ..." in line for line in lines) == 2
    assert len(large.units) == len(large.architecture.units) > 400
    assert "model.layers.0.self_attn.heads" in str(large)  # its beginning
    assert "model.layers.99.mlp.fc1" in str(large)  # and its end
    assert max(map(len, lines)) < 200
    assert not any("more ..." in line for line in str(summarize(straight(3))).splitlines())


def test_opaque_numbers_are_counted() -> None:
    summary = graphrep.to_graph(UnusedTensor(), torch.randn(1, 2)).summary()
    assert summary.num_opaque == 3 and "opaque      3" in str(summary)
    assert summary.totals()["num_opaque"] == 3


def test_a_graph_on_meta_has_a_summary() -> None:
    with torch.device("meta"):
        module = net()
    graph = graphrep.to_graph(module, torch.randn(1, 1, 4, 4), verify=False)
    assert graph.summary().num_parameters == graph.architecture.num_parameters


def test_views_are_written_as_asked_for(tmp_path: Path) -> None:
    graph = graphrep.to_graph(net(), torch.randn(1, 1, 4, 4))
    paths = {
        "picture": tmp_path / "net.svg",
        "neurons": tmp_path / "neurons.png",
        "graphml": tmp_path / "net.graphml",
        "architecture": tmp_path / "net.json",
    }
    chosen = {"json" if name == "architecture" else name: p for name, p in paths.items()}
    assert write_views(graph, **chosen) == paths
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths.values()}
    assert Architecture.from_json(paths["architecture"].read_text()) == graph.architecture
    assert write_views(graph) == {}
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
        write_views(graph, picture=tmp_path / "net.jpeg")


def test_a_recorded_graph_has_all_views_in_mlflow(config: TrackingConfig, tmp_path: Path) -> None:
    graph = graphrep.to_graph(net(), torch.randn(1, 1, 4, 4))
    run_id = record_graph(graph, Tracker(config), tmp_path / "run", "small net", {"file": "a.pt"})
    client = connect(config)
    run = client.get_run(run_id)
    params = run.data.params
    assert params["fingerprint"] == graph.architecture.fingerprint
    assert params["num_parameters"] == str(graph.architecture.num_parameters)
    assert float(params["log10_symmetries"]) == pytest.approx(log10(factorial(8)), abs=1e-3)
    assert params["verified"] == "true" and params["file"] == "a.pt"
    assert run.data.metrics["log10_symmetries"] == pytest.approx(log10(factorial(8)), abs=1e-3)
    assert (run.info.status, run.data.tags["kind"]) == ("FINISHED", "graph")
    assert graph.architecture.fingerprint in run.data.tags["mlflow.note.content"]
    found = {f.path for at in ("", "tables", "figures") for f in client.list_artifacts(run_id, at)}
    assert found >= {
        "summary.txt",
        "report.txt",
        "architecture.json",
        "tables/units.csv",
        "tables/blocks.csv",
        "figures/architecture.png",
        "figures/architecture.svg",
        "figures/neurons.png",
    }
    record = tmp_path / "run"
    assert (record / "summary.txt").read_text() == f"{graph.summary()}\n"
    assert "<text" in (record / "figures/architecture.svg").read_text()
    assert len(pd.read_csv(record / "tables/blocks.csv")) == len(graph.architecture.blocks)


def test_a_graph_too_large_for_dots_is_recorded_without_them(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = net()
    graph = graphrep.to_graph(module, torch.randn(1, 1, 4, 4), verify=False)
    assert record_graph(graph, Tracker(TrackingConfig(enabled=False)), tmp_path / "run") == ""
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"architecture.png", "architecture.svg"}


def make_net() -> nn.Module:
    """A factory that `graphrep graph --model` finds."""
    return net()


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `graphrep graph`."""
    monkeypatch.setattr(sys, "argv", ["graphrep", "graph", *arguments])
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_the_command_writes_what_it_is_asked_for_and_logs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save(net().state_dict(), tmp_path / "net.pt")
    source = (str(tmp_path / "net.pt"), "--model", "tests.test_views:make_net")
    source = (*source, "--input", "1,1,4,4")
    status, out, err = command(
        monkeypatch, capsys, *source, f"output={tmp_path}", "tracking.enabled=false", "--log",
        "--summary", "--picture", str(tmp_path / "net.svg"), "--neurons", str(tmp_path / "n.png"),
        "--graphml", str(tmp_path / "net.graphml"), "--level", "architecture",
    )  # fmt: skip
    assert status == 0, err
    assert "log10 orders" in out and "8×1×3×3" in out
    assert networkx.read_graphml(tmp_path / "net.graphml").number_of_nodes() == 3
    assert "<text" in (tmp_path / "net.svg").read_text()
    (record,) = (tmp_path / "graphs").iterdir()
    assert f"record: {record}" in out and (record / "summary.txt").exists()

    status, out, _ = command(monkeypatch, capsys, *source)
    assert status == 0 and "log10 orders" not in out and "record" not in out  # control
    status, _, err = command(monkeypatch, capsys, *source, "tracking.experiment=other")
    assert status == 2 and "--log" in err
    status, _, err = command(monkeypatch, capsys, *source, "--picture", str(tmp_path / "net.bmp"))
    assert status == 2 and ".png, .svg or .pdf" in err
    status, _, err = command(
        monkeypatch, capsys, *source, "--graphml", str(tmp_path / "a.xml"), "--level", "layers"
    )
    assert status == 2 and "'neurons' or 'architecture'" in err
