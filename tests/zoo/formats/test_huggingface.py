"""Laws of importing Hugging Face folders: weights as saved, properties as their cards say."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphrep import ParameterGraph
from graphrep.zoo.formats.huggingface import HuggingFaceModels
from graphrep.zoo.formats.model_cards import metric_columns, number_or_text, read_card
from graphrep.zoo.record import Record, Skipped

transformers = pytest.importorskip("transformers", reason="these folders need transformers")

BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 20,
    "max_position_embeddings": 16,
}
GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 12, "n_positions": 8}


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """transformers and what it imports may warn; only graphrep's warnings count here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save(folder: Path, kind: str = "bert", seed: int = 0, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    if kind == "bert":
        config = transformers.BertConfig(**{**BERT, **settings})
        model = transformers.BertForSequenceClassification(config)
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**GPT2, **settings}))
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return model.state_dict()


def write_card(folder: Path, metadata: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{metadata}---\n# A model\n\nTrained once.\n")


def result(metric: str, value: object, data: str = "imdb", **more: str) -> str:
    config = "".join(f"      {k}: {v}\n" for k, v in more.items())
    return (
        "  - task:\n      type: text-classification\n    dataset:\n"
        f"      type: {data}\n      name: {data.upper()}\n{config}"
        f"    metrics:\n    - type: {metric}\n      value: {value}\n"
    )


def card(*results: str, before: str = "") -> str:
    return f"{before}model-index:\n- name: a\n  results:\n{''.join(results)}"


def read_all(reader: HuggingFaceModels) -> tuple[dict[str, Record], dict[str, str]]:
    """Records by name and the reasons of what was skipped."""
    records, skipped = {}, {}
    for name in reader.names():
        for found in reader.read(name):
            if isinstance(found, Skipped):
                skipped[found.name] = found.reason
            else:
                assert found.name == name
                records[name] = found
    return records, skipped


def same(record: Record, place: int, expected: dict[str, Tensor]) -> bool:
    buffers = {k: v[place] for k, v in record.buffers.items()}
    found = ParameterGraph(record.architecture, record.theta[place], buffers).state_dict()
    return set(found) == set(expected) and all(found[k].equal(v) for k, v in expected.items())


def test_models_of_several_families_come_in_bit_for_bit_each_design_once(tmp_path: Path) -> None:
    states = {f"tuned/{n}": save(tmp_path / "tuned" / str(n), seed=n) for n in range(3)}
    states["relu"] = save(tmp_path / "relu", hidden_act="relu")
    states["gpt"] = save(tmp_path / "gpt", "gpt2", seed=7)
    states["gpt-b"] = save(tmp_path / "gpt-b", "gpt2", seed=8)
    reader = HuggingFaceModels(tmp_path)
    assert list(reader.names()) == sorted(states)
    records, skipped = read_all(reader)
    assert not skipped and all(same(records[n], 0, s) for n, s in states.items())
    assert not same(records["tuned/1"], 0, states["tuned/2"])
    assert reader.designs.num_traced == 3  # tied embeddings, which the file has once, included
    prints = {n: r.architecture.fingerprint for n, r in records.items()}
    assert len(set(prints.values())) == 3
    assert prints["tuned/0"] == prints["tuned/2"] != prints["relu"]
    assert records["gpt"].architecture.name == "GPT2LMHeadModel"
    facts = records["tuned/0"].properties
    assert (facts["model_type"], facts["hidden_size"], facts["num_hidden_layers"]) == ("bert", 8, 1)
    assert facts["architectures"] == "BertForSequenceClassification"
    assert "assumed input 'input_ids' 1,8" in facts["notes"]


def test_a_card_gives_metrics_as_numbers_and_metadata_as_text(tmp_path: Path) -> None:
    save(tmp_path / "a")
    about = "license: mit\nlanguage: [en, de]\ntags: [x, y]\nbase_model: org/base\n"
    write_card(
        tmp_path / "a",
        card(result("accuracy", 0.75), result("f1", "'0.5'"), before=about),
    )
    save(tmp_path / "b")
    write_card(
        tmp_path / "b", card(result("accuracy", 91), result("accuracy", "71.0 ± 1.2", "sst2"))
    )
    records, _ = read_all(HuggingFaceModels(tmp_path))
    found = records["a"].properties
    assert (found["accuracy"], found["f1"]) == (0.75, 0.5)
    assert (found["license"], found["language"], found["tags"]) == ("mit", "en, de", "x, y")
    assert found["base_model"] == "org/base"
    found = records["b"].properties
    assert (found["imdb/accuracy"], found["sst2/accuracy"]) == (91, "71.0 ± 1.2")
    assert "accuracy" not in found and "license" not in found


def eval_results(*rows: dict[str, Any]) -> Sequence[Any]:
    from huggingface_hub import EvalResult

    common = {"task_type": "t", "dataset_type": "d", "dataset_name": "D", "metric_type": "acc"}
    return [EvalResult(**{**common, **row}) for row in rows]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([{"metric_value": 1}], {"acc": 1}),
        ([{"metric_value": 1}, {"metric_value": 1}], {"acc": 1}),
        (
            [
                {"dataset_split": "val", "metric_value": 1},
                {"dataset_split": "t", "metric_value": 2},
            ],
            {"val/acc": 1, "t/acc": 2},
        ),
        (
            [
                {"dataset_config": "x", "metric_value": 1},
                {"dataset_config": "y", "metric_value": 2},
            ],
            {"d/x/acc": 1, "d/y/acc": 2},
        ),
        (
            [{"dataset_type": "e", "metric_value": 1}, {"metric_type": "f1", "metric_value": 2}],
            {"e/acc": 1, "d/f1": 2},
        ),
        ([{"metric_value": None}, {"metric_value": float("nan")}], {}),
    ],
)
def test_columns_of_metrics_are_as_short_as_tells_them_apart(
    rows: list[dict[str, Any]], columns: dict[str, Any]
) -> None:
    assert metric_columns(eval_results(*rows)) == (columns, ())


def test_two_values_of_one_metric_that_nothing_tells_apart_are_noted() -> None:
    columns, notes = metric_columns(eval_results({"metric_value": 1}, {"metric_value": 2}))
    assert list(columns.values()) == [1] and len(notes) == 1 and "again" in notes[0]
    found = [number_or_text(v) for v in ("3", " 0.25 ", "92 %", True, [1])]
    assert found == [3, 0.25, "92 %", True, "[1]"]


@pytest.mark.parametrize(
    ("metadata", "note", "kept"),
    [
        ("license: [mit\n", "README.md: while parsing", None),
        ("- a\n- b\n", "should be a dict", None),
        # Where only the metrics are wrong, the rest of the metadata is kept.
        ("license: mit\nmodel-index:\n- name: a\n", "Invalid `model_index`", "mit"),
        ("license: mit\nmodel-index: 3\n", "README.md", "mit"),
    ],
)
def test_a_broken_card_is_a_note_and_costs_no_weights(
    tmp_path: Path, metadata: str, note: str, kept: str | None
) -> None:
    state = save(tmp_path / "a")
    write_card(tmp_path / "a", metadata)
    records, skipped = read_all(HuggingFaceModels(tmp_path))
    assert not skipped and same(records["a"], 0, state)
    assert note in records["a"].properties["notes"]
    assert records["a"].properties.get("license") == kept
    (tmp_path / "a" / "README.md").write_text("# no metadata\n")
    assert read_card(tmp_path / "a") == ({}, ())


def test_what_cannot_be_taken_has_a_reason(tmp_path: Path) -> None:
    save(tmp_path / "good")
    save(tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    save(tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    save(tmp_path / "flax")
    (tmp_path / "flax" / "model.safetensors").rename(tmp_path / "flax" / "flax_model.msgpack")
    save(tmp_path / "other")
    state = load_file(tmp_path / "other" / "model.safetensors")
    save_file({**state, "more": torch.zeros(3)}, tmp_path / "other" / "model.safetensors")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    save(tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("{")
    (tmp_path / "good" / "1_Pooling").mkdir()  # a part without weights, as some libraries write
    (tmp_path / "good" / "1_Pooling" / "config.json").write_text('{"mode": "mean"}')
    records, skipped = read_all(HuggingFaceModels(tmp_path))
    assert list(records) == ["good"]
    assert set(skipped) == {"damaged", "empty", "flax", "other", "adapter", "config"}
    assert "not a readable safetensors file" in skipped["damaged"]
    assert "no weights in it" in skipped["empty"] and "found none" in skipped["empty"]
    assert "found flax_model.msgpack" in skipped["flax"]
    assert "does not fit BertForSequenceClassification" in skipped["other"]
    assert "adapter" in skipped["adapter"] and "not readable JSON" in skipped["config"]
    assert not any(str(tmp_path) in reason for reason in skipped.values())
    (tmp_path / "nothing").mkdir()
    for place, says in (("nowhere", "no such folder"), ("nothing", "no saved model in it")):
        with pytest.raises(ValueError, match=says):
            HuggingFaceModels(tmp_path / place)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    save(tmp_path / "a")
    content = json.loads((tmp_path / "a" / "config.json").read_text())
    content |= {"model_type": "own", "auto_map": {"AutoModel": "trap.Model"}}
    (tmp_path / "a" / "config.json").write_text(json.dumps(content))
    (tmp_path / "a" / "trap.py").write_text("raise SystemExit('run')")
    _, skipped = read_all(HuggingFaceModels(tmp_path))
    assert "its own code, which is never run" in skipped["a"] and "trap" not in sys.modules


def test_steps_of_one_training_are_one_model_with_what_its_trainer_wrote(tmp_path: Path) -> None:
    steps = {step: save(tmp_path / "out" / f"checkpoint-{step}", seed=step) for step in (1000, 500)}
    final = save(tmp_path / "out", seed=3)
    for step in steps:
        state = {
            "epoch": step / 500,
            "global_step": step,
            "best_metric": 0.5,
            "best_model_checkpoint": "/somewhere",
            "log_history": [
                {"loss": 2.0, "step": 100, "epoch": 0.2},
                {"loss": step / 1e4, "learning_rate": 0.01, "step": step, "epoch": 1.0},
                {"eval_accuracy": 0.25, "step": step, "epoch": 1.0},
            ],
        }
        place = tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json"
        place.write_text(json.dumps(state))
    (tmp_path / "out" / "all_results.json").write_text('{"eval_accuracy": 0.75, "epoch": 3.0}')
    save(tmp_path / "wider" / "checkpoint-1")
    save(tmp_path / "wider" / "checkpoint-2", hidden_size=4)
    records, skipped = read_all(HuggingFaceModels(tmp_path))
    assert list(records) == ["out", "wider/checkpoint-1", "wider/checkpoint-2"] and not skipped
    record = records["out"]
    assert [row.get("step") for row in record.rows] == [500, 1000, None]
    assert [row["epoch"] for row in record.rows] == [1.0, 2.0, 3.0]
    assert [row.get("loss") for row in record.rows] == [0.05, 0.1, None]
    assert [row["eval_accuracy"] for row in record.rows] == [0.25, 0.25, 0.75]
    assert "/somewhere" not in str(record.rows)
    for place, state in enumerate((steps[500], steps[1000], final)):
        assert same(record, place, state)


def test_the_hubs_cache_is_read_by_names_and_revisions(tmp_path: Path) -> None:
    def revision(repository: str, name: str, branch: str, **settings: Any) -> dict[str, Tensor]:
        folder = tmp_path / repository
        state = save(folder / "snapshots" / name, **settings)
        blob = folder / "blobs" / f"{name}-weights"
        blob.parent.mkdir(exist_ok=True)
        shutil.move(folder / "snapshots" / name / "model.safetensors", blob)
        (folder / "snapshots" / name / "model.safetensors").symlink_to(blob)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / branch).write_text(name)
        return state

    single = revision("models--org--single", "a" * 40, "main")
    late = revision("models--org--runs", "1" * 40, "step200", seed=2)
    early = revision("models--org--runs", "2" * 40, "step50", seed=1)
    revision("models--mixed", "3" * 40, "main")
    revision("models--mixed", "4" * 40, "other", hidden_size=4)
    save(tmp_path / "datasets--org--data" / "snapshots" / "x")
    records, skipped = read_all(HuggingFaceModels(tmp_path))
    assert not skipped
    assert list(records) == [
        "mixed@333333333333",
        "mixed@444444444444",
        "org/runs",
        "org/single",
    ]
    assert same(records["org/single"], 0, single)
    assert records["org/single"].rows == [{"revision": "a" * 40, "reference": "main"}]
    assert [row["reference"] for row in records["org/runs"].rows] == ["step50", "step200"]
    assert same(records["org/runs"], 0, early) and same(records["org/runs"], 1, late)
    inside = tmp_path / "models--org--single"
    assert list(HuggingFaceModels(inside).names()) == ["org/single"]


def test_a_plain_chain_without_a_config_of_transformers_comes_in(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    (tmp_path / "mixin").mkdir()
    save_file(net.state_dict(), tmp_path / "mixin" / "model.safetensors")
    (tmp_path / "mixin" / "config.json").write_text('{"width": 4}')
    records, _ = read_all(HuggingFaceModels(tmp_path))
    assert same(records["mixin"], 0, dict(net.state_dict()))
    assert records["mixin"].properties["width"] == 4
    (tmp_path / "mixin" / "config.json").unlink()
    assert list(read_all(HuggingFaceModels(tmp_path))[0]) == ["mixin"]
