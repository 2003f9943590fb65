"""Nearest networks: the slow search's answer however a table is read, and what it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from graphrep import (
    ParameterGraph,
    Representation,
    embedding_table,
    nearest,
    neighbours,
    random_permutation,
)
from graphrep.cli.app import app
from graphrep.embedding import embed_table, embed_to_parquet
from graphrep.embedding_table import as_frame, names_of
from graphrep.encoders import EncoderConfig, GraphEncoderConfig, RawEncoderConfig
from graphrep.model import ModelConfig, WeightModel
from graphrep.neighbours import METRICS, Space, summarise
from graphrep.zoo import Zoo

DIM = 6


def table(num: int = 60) -> pd.DataFrame:
    """Networks whose embeddings go with each other, on scales that differ a thousandfold."""
    stream = np.random.default_rng(0)
    mixed = stream.normal(size=(num, DIM)) @ stream.normal(size=(DIM, DIM))
    values = mixed * 10.0 ** np.linspace(-2, 1, DIM) + stream.normal(size=DIM)
    found = pd.DataFrame(values, columns=[f"e{i}" for i in range(DIM)])
    found.insert(0, "file", [f"net{i}.pt" for i in range(num)])
    return found


def table_and_queries() -> tuple[pd.DataFrame, pd.DataFrame]:
    """60 networks, and 4 others like them."""
    both = table(64)
    return both[:60], both[60:].reset_index(drop=True)


def values_of(found: pd.DataFrame) -> np.ndarray:
    return found[[f"e{i}" for i in range(DIM)]].to_numpy()


def slow_distance(metric: str, a: np.ndarray, b: np.ndarray, values: np.ndarray) -> float:
    """Between two embeddings, over a table's values, from the definition."""
    if metric == "cosine":
        return float(1 - a @ b / np.sqrt((a @ a) * (b @ b)))
    gap = (a - b) / values.std(0)
    if metric == "standardised":
        return float(np.sqrt((gap**2).sum()))
    share = DIM / (DIM + len(values))
    shrunk = (1 - share) * np.corrcoef(values.T) + share * np.eye(DIM)
    power, vectors = np.linalg.eigh(shrunk)
    return float(np.abs(vectors @ np.diag(power**-0.5) @ vectors.T @ gap).mean())


@pytest.mark.parametrize("chunk_rows", [7, 1000])
@pytest.mark.parametrize("metric", METRICS)
def test_the_nearest_are_those_of_a_search_one_by_one(
    metric: str, chunk_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_table, "CHUNK_ROWS", chunk_rows)
    searched, asked = table_and_queries()
    searched.to_parquet(tmp_path / "e.parquet")
    values = values_of(searched)
    for source in (searched, tmp_path / "e.parquet", str(tmp_path / "e.parquet")):
        found = nearest(source, asked, 3, metric)
        assert list(found["query"]) == np.repeat(asked["file"], 3).tolist()
        assert list(found["rank"]) == [1, 2, 3] * 4
        for number, query in enumerate(values_of(asked)):
            distances = np.array([slow_distance(metric, query, row, values) for row in values])
            mine = found[found["query_row"] == number]
            assert list(mine["row"]) == np.argsort(distances)[:3].tolist()
            assert np.allclose(mine["distance"], np.sort(distances)[:3], rtol=1e-9, atol=1e-9)
            assert list(mine["file"]) == [f"net{row}.pt" for row in mine["row"]]
    backwards = nearest(searched, values_of(asked)[::-1].copy(), 3, metric)
    assert backwards["row"].tolist() != found["row"].tolist()


def test_other_units_of_a_column_change_what_cosine_finds_alone() -> None:
    searched, asked = table_and_queries()
    units, start = 10.0 ** np.arange(DIM), np.arange(DIM)
    columns = [f"e{i}" for i in range(DIM)]
    moved = [t.assign(**dict(zip(columns, (values_of(t) * units + start).T, strict=True)))
             for t in (searched, asked)]  # fmt: skip
    for metric in METRICS:
        before, after = nearest(searched, asked, 5, metric), nearest(*moved, 5, metric)
        same = before["row"].equals(after["row"])
        assert same == (metric != "cosine")
        if same:
            assert np.allclose(before["distance"], after["distance"], rtol=1e-9)


def test_a_whitened_table_has_columns_that_do_not_go_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "shrinkage", lambda num, dim: 0.0)
    values = values_of(table())
    whitened = Space("whitened", [values[:20], values[20:]])(values) * DIM
    assert np.allclose(np.cov(whitened.T, bias=True), np.eye(DIM), atol=1e-9)
    standardised = Space("standardised", [values])(values)
    assert not np.allclose(np.cov(standardised.T, bias=True), np.eye(DIM), atol=1e-2)


@pytest.mark.parametrize("metric", ["whitened", "standardised"])
def test_a_column_that_tells_networks_apart_by_rounding_alone_hardly_counts(metric: str) -> None:
    values = values_of(table())
    stream = np.random.default_rng(2)
    expected = nearest(table(), values[:20], 5, metric)["row"]
    for size, spread, counts in ((1.0, 0.0, False), (1.0, 1e-7, False), (0.0, 1e-7, True)):
        column = size + spread * stream.normal(size=len(values))
        wide = np.concatenate([values, column[:, None]], 1)
        found = nearest(as_frame(wide), wide[:20], 5, metric)["row"]
        assert ((found == expected).mean() < 0.8) == counts


def test_a_table_s_own_networks_are_searched_among_the_others() -> None:
    searched = table()
    twice = pd.concat([searched, searched.iloc[[3, 3, 3]]], ignore_index=True)
    found = nearest(twice, num=2)
    assert not (found["query_row"] == found["row"]).any()
    assert len(found) == 2 * len(twice)
    copies = found[found["query_row"] == 3]
    assert set(copies["row"]) < {60, 61, 62} and np.allclose(copies["distance"], 0, atol=1e-9)
    first = found[found["rank"] == 1]
    assert (first["distance"].to_numpy() < 1e-9).sum() == 4  # the four alike, and no others
    assert len(nearest(twice, num=1000)) == 63 * 62


def test_few_networks_give_few_neighbours() -> None:
    assert nearest(table(3), table(1), 5)["rank"].tolist() == [1, 2, 3]
    assert nearest(table(1), table(2), 5)["rank"].tolist() == [1, 1]
    assert nearest(table(1)).empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "num must be at least 1"),
        ({"metric": "l7"}, "metric must be one of whitened, standardised, cosine"),
        ({"queries": np.zeros((2, DIM + 1))}, r"6 numbers, the queries 7"),
        ({"queries": np.zeros(DIM)}, "two-dimensional"),
        ({"queries": np.full((2, DIM), np.nan)}, "row 0 is not finite"),
        ({"table": pd.DataFrame({"file": ["a.pt"]})}, "holds no embedding"),
        ({"table": table(0)}, "holds no network"),
        ({"table": "nowhere.parquet"}, r"nowhere\.parquet: cannot be read"),
    ],
)
def test_bad_requests_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(**{"table": table(), "queries": table(2), **arguments})


def test_what_is_shown_names_the_network_its_metric_and_what_varies(zoo: Zoo) -> None:
    properties = zoo.properties
    values = np.random.default_rng(0).normal(size=(len(zoo), 3))
    searched = pd.concat([properties, as_frame(values)], axis=1)
    found = nearest(searched, searched.iloc[[5]], 2)
    assert (
        found["query"].tolist() == [f"{properties['name'][5]} epoch {properties['epoch'][5]}"] * 2
    )
    assert found["row"][0] == 5 and found["test_accuracy"][0] == properties["test_accuracy"][5]
    shown = summarise(found, searched)
    assert list(shown.columns[:5]) == ["query", "rank", "distance", "network", "test_accuracy"]
    assert shown["network"][0] == shown["query"][0] and len(shown.columns) <= 9
    assert "dropout" in shown.columns
    assert list(summarise(nearest(table(), table(1), 1), table()).columns)[3:] == ["network"]
    assert names_of(pd.DataFrame({"x": [1, 2]})).tolist() == ["0", "1"]


def test_few_networks_are_turned_less() -> None:
    assert neighbours.shrinkage(10_000, 100) == 0.05
    assert neighbours.shrinkage(100, 100) == 0.5 < neighbours.shrinkage(10, 100) < 1


def representation_of(zoo: Zoo, config: EncoderConfig) -> Representation:
    torch.manual_seed(0)
    model = WeightModel(ModelConfig(encoder=config))
    model.scaling.fit((g.architecture, g.theta) for g in zoo.groups())
    return Representation(model, list(zoo.architectures.values()))


def disguised(graph: ParameterGraph, seed: int) -> ParameterGraph:
    """A copy in another order of its units, with 1 % of noise."""
    generator = torch.Generator().manual_seed(seed)
    moved = graph.permute(random_permutation(graph.architecture, generator))
    noise = torch.randn(moved.theta.shape, generator=generator)
    return ParameterGraph(moved.architecture, moved.theta * (1 + 0.01 * noise), moved.buffers)


def test_a_disguised_copy_s_parent_is_found_through_an_encoder_that_ignores_order(
    zoo: Zoo,
) -> None:
    copies = [disguised(graph, seed) for seed, graph in enumerate(zoo.graphs)]
    shares = {}
    for config in (GraphEncoderConfig(unit_dim=8, num_rounds=1), RawEncoderConfig()):
        representation = representation_of(zoo, config)
        searched = embed_table(representation, [zoo.path])
        found = nearest(searched, np.asarray(representation.encode(copies)), 1)
        shares[config.name] = (found["row"] == found["query_row"]).mean()
    assert shares["graph"] == 1
    assert shares["raw"] < 0.9


# The command ------------------------------------------------------------------


@pytest.fixture
def model(zoo: Zoo, tmp_path: Path) -> str:
    representation = representation_of(zoo, GraphEncoderConfig(unit_dim=8, num_rounds=1))
    representation.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def command(*arguments: object) -> str:
    """What `graphrep embed` prints."""
    result = CliRunner().invoke(
        app, ["embed", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_finds_the_parent_of_a_file_in_a_zoo_and_in_its_table(
    zoo: Zoo, model: str, tmp_path: Path
) -> None:
    output, query = tmp_path / "e.parquet", tmp_path / "copy.pt"
    torch.save(disguised(zoo.graphs[4], 0).state_dict(), query)
    printed = command(model, zoo.path, "--output", output, "--query", query, "--neighbours", 2)
    name = str(names_of(zoo.properties)[4])
    assert name in printed and "test_accuracy" in printed and "copy.pt" in printed
    written = pd.read_csv(tmp_path / "e-neighbours.csv")
    assert written["row"][0] == 4 and len(written) == 2
    assert set(zoo.properties.columns) < set(written.columns)

    assert "dropout" in printed
    before = output.read_bytes()
    found = tmp_path / "found.parquet"
    printed = command(model, output, "--query", query, "--metric", "cosine", "--found", found)
    assert name in printed and output.read_bytes() == before
    assert len(pd.read_parquet(found)) == 5 and pd.read_parquet(found)["row"][0] == 4

    command(model, output, "--query", zoo.path, "--neighbours", 1)
    every = pd.read_csv(tmp_path / "e-neighbours.csv")
    assert (every["row"] == every["query_row"]).all()
    command(model, output, "--neighbours", 1)
    others = pd.read_csv(tmp_path / "e-neighbours.csv")
    assert len(others) == len(zoo) and not (others["row"] == others["query_row"]).any()


def test_the_command_refuses_what_it_cannot_search(zoo: Zoo, model: str, tmp_path: Path) -> None:
    output = tmp_path / "e.parquet"
    embed_to_parquet(model, [zoo.path], output, progress=False)
    torch.save(zoo.graphs[0].state_dict(), tmp_path / "net.pt")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "stranger.pt")
    for arguments, message in (
        ([], "nothing to search for"),
        (["--metric", "cosine"], "nothing to search for"),
        (["--query", tmp_path / "net.pt", "--found", "x.txt"], r"x\.txt: .* \.csv or \.parquet"),
        (["--query", tmp_path / "stranger.pt"], r"stranger\.pt: fits none"),
        (
            ["--query", tmp_path / "net.pt", "--architecture", "vgg"],
            "architecture 'vgg' is neither",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            command(model, output, *arguments)
    other = representation_of(zoo, GraphEncoderConfig(unit_dim=8, num_rounds=1))
    with torch.no_grad():
        next(other.model.encoder.parameters()).mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="embedded by another model"):
        command(tmp_path / "other", output, "--query", tmp_path / "net.pt")
    command(model, output, "--query", tmp_path / "net.pt")
