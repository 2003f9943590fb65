"""Laws of tables of properties: every kind reads alike, and no row finds its file by luck."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from graphrep.zoo.formats.property_tables import read_table
from graphrep.zoo.formats.row_matching import About, Matched, match_rows
from graphrep.zoo.formats.runs import find_runs

ROWS: list[dict[str, Any]] = [
    {"file": "007", "accuracy": 0.5, "depth": 3, "augmented": True, "optimiser": "sgd"},
    {"file": "b/net.pt", "accuracy": 0.25, "augmented": False, "optimiser": "adam"},
]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"table.{kind}"
    table = pd.DataFrame(ROWS).astype({"depth": "Int64"})
    match kind:
        case "csv" | "csv.gz":
            table.to_csv(path, index=False)
        case "tsv":
            table.to_csv(path, index=False, sep="\t")
        case "parquet":
            table.to_parquet(path)
        case "json":
            path.write_text(json.dumps(ROWS))
        case "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet", "json", "jsonl"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows, column = read_table(write(tmp_path, kind))
    assert column == "file"
    assert rows == ROWS
    types = {type(v) for row in rows for v in row.values()}
    assert types == {str, float, int, bool}


def test_a_json_object_may_name_the_files_itself(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"a.pt": {"acc": 1, "sizes": [3, 4]}, "b.pt": {"acc": None}}))
    rows, column = read_table(path)
    assert rows == [{"acc": 1, "sizes": "[3, 4]", column: "a.pt"}, {column: "b.pt"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "accuracy,depth\n1,2\n", "no column file or path or"),
        ("t.csv", "", "not a readable csv table"),
        ("t.json", "{", "not a readable json table"),
        ("t.json", "[1, 2]", "expected a list of objects"),
        ("t.json", '{"a.pt": 3}', "not a readable json table"),
        ("t.xlsx", "", "tables of properties are .csv"),
        ("t.csv", "file,a\nx,1\n,2\n", "row 2 has no 'file'"),
        ("t.parquet", "PAR1", "not a readable parquet table"),
    ],
)
def test_what_is_no_such_table_is_refused(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as error:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and says in str(error.value)


def match(root: Path, files: list[str], *rows: dict[str, Any]) -> Matched:
    return match_rows(rows, "file", root / "tables" / "table.csv", root, find_runs(files))


FILES = ["a/net.pt", "a/other.pt", "b/net.pt", "b/deep/single.pt"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/net.pt", "a/net.pt"),
        ("./b/net", "b/net.pt"),
        ("b\\net.pt", "b/net.pt"),
        ("other.pt", "a/other.pt"),
        ("single", "b/deep/single.pt"),
        ("b/deep", "b/deep/single.pt"),
        ("deep/", "b/deep/single.pt"),
        ("../a/net.pt", "a/net.pt"),  # from the table's folder
    ],
)
def test_a_row_finds_its_file(tmp_path: Path, name: str, path: str) -> None:
    found = match(tmp_path, FILES, {"file": name, "acc": 1})
    assert found.models == {path: About({"acc": 1})}
    assert found.unnamed == [f for f in FILES if f != path]
    assert match(tmp_path, FILES, {"file": str(tmp_path / path), "acc": 1}).models == found.models


def test_what_may_be_several_files_is_refused_and_what_is_none_is_listed(tmp_path: Path) -> None:
    for name in ("net.pt", "net", "a"):
        with pytest.raises(ValueError, match="may be 2 files") as error:
            match(tmp_path, FILES, {"file": name})
        assert "a/net.pt" in str(error.value)
    found = match(tmp_path, FILES, {"file": "a/net.pt"}, {"file": "gone.pt"}, {"file": "gone.pt"})
    assert found.missing == ["gone.pt"]
    with pytest.raises(ValueError, match=r"none of its 1 rows names a file.*there is a/net\.pt"):
        match(tmp_path, FILES, {"file": "gone.pt"})
    with pytest.raises(ValueError, match=r"rows 1, 2 are all about 'a/net\.pt'"):
        match(tmp_path, FILES, {"file": "a/net.pt"}, {"file": "a/net"})


RUN = ["r/epoch_1.pt", "r/epoch_2.pt", "r/best.pt"]


def test_rows_are_about_a_run_or_about_its_checkpoints(tmp_path: Path) -> None:
    whole = {"file": "r", "lr": 0.1}
    found = match(tmp_path, RUN, whole, {"file": "epoch_2", "acc": 0.5})
    assert found.models == {"r/*.pt": About({"lr": 0.1})}
    assert found.files == {"r/epoch_2.pt": About({"acc": 0.5})}
    assert match(tmp_path, RUN, {**whole, "file": "r/*.pt"}).models == found.models
    rows = [{"file": "r", "epoch": e, "acc": e / 10} for e in (1, 2, 3)]
    found = match(tmp_path, RUN, *rows)
    assert {p: a.values["acc"] for p, a in found.files.items()} == {
        "r/epoch_1.pt": 0.1,
        "r/epoch_2.pt": 0.2,
    }
    assert found.missing == ["r/*.pt (epoch 3)"] and found.unnamed == ["r/best.pt"]
    with pytest.raises(ValueError, match=r"epoch 1 of 'r/.*' is in several rows"):
        match(tmp_path, RUN, rows[0], rows[0])


def test_columns_with_a_meaning_are_told_from_properties(tmp_path: Path) -> None:
    row = {"file": "x", "model": "pkg.nets:make", "input_shape": "1,4; 1,3", "split": "val"}
    about = About.from_row({**row, "architecture": "mlp"}, "file")
    shapes = ["1,4", "1,3"]
    expected = About({"architecture_in_source": "mlp"}, "pkg.nets:make", shapes, "validation")
    assert about == expected
    row = {"file": "x", "model": "resnet20", "split": "fold 3", "input_shape": "[1, 4]"}
    expected = About({"model_in_source": "resnet20", "split_in_source": "fold 3"}, None, [1, 4])
    assert About.from_row(row, "file") == expected
