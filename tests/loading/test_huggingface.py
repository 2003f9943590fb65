"""Laws of Hugging Face folders: architecture and values are theirs, their code is not run."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphrep.loading import load_graph

transformers = pytest.importorskip("transformers", reason="these folders need transformers")

TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 24,
}
IMAGE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 24}
CLIP = {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 8}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_key_value_heads": 1}),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", RESNET),
    "clip": ("CLIPModel", "CLIPConfig", CLIP),
}
INPUTS = {
    "bert": "'input_ids' 1,8",
    "t5": "'input_ids' 1,8; 'decoder_input_ids' 1,4",
    "vit": "'pixel_values' 1,3,16,16",
    "resnet": "'pixel_values' 1,3,64,64",
    "clip": "'input_ids' 1,8; 'pixel_values' 1,3,16,16",
}


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """transformers and what it imports may warn; only graphrep's warnings count here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save(folder: Path, family: str, **options: Any) -> Any:
    kind, config, settings = FAMILIES[family]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, **options)
    return model.eval()


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ValueError) as error:
        load_graph(folder, **options)
    assert str(error.value).startswith(str(folder))
    return str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_becomes_the_graph_of_its_model(tmp_path: Path, family: str) -> None:
    model = save(tmp_path, family)
    loaded = load_graph(tmp_path)
    assert type(loaded.module) is type(model)
    found, expected = loaded.graph.state_dict(), model.state_dict()
    assert set(found) == set(expected)
    assert all(found[n].equal(v) for n, v in expected.items())
    assert any(not u.fixed for u in loaded.graph.architecture.units)
    assert loaded.graph.architecture.verified
    assert f"assumed input {INPUTS[family]}" in loaded.notes if family in INPUTS else True
    assert any(f"built {type(model).__name__} of transformers" in n for n in loaded.notes)


def test_shards_and_shapes_that_are_asked_for(tmp_path: Path) -> None:
    model = save(tmp_path, "vit", max_shard_size="5KB")
    assert not (tmp_path / "model.safetensors").exists()
    loaded = load_graph(tmp_path, input_shape="2,3,16,16")
    assert any("shards" in n for n in loaded.notes)
    assert "assumed input 'pixel_values' 2,3,16,16" in loaded.notes
    found = loaded.graph.state_dict()
    assert all(found[n].equal(v) for n, v in model.state_dict().items())


def test_half_precision_stays_as_the_file_has_it(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    state = {n: v.bfloat16() for n, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    found = load_graph(tmp_path).graph.state_dict()
    assert all(found[n].dtype == torch.bfloat16 and found[n].equal(v) for n, v in state.items())


def test_other_names_or_shapes_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    state = load_file(tmp_path / "model.safetensors")
    del state["classifier.bias"]
    state["classifier.weight"] = torch.zeros(5, 16)
    state["other"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors")
    lines = [" ".join(line.split()) for line in refusal(tmp_path).splitlines()]
    assert "does not fit BertForSequenceClassification: 3 of" in lines[0]
    assert "classifier.weight found [5, 16], expected [2, 16]" in lines
    assert "classifier.bias missing, expected [2]" in lines
    assert "other found [3], not expected" in lines
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "own", "auto_map": {"AutoModel": "own.Net"}}, "its own code, which is"),
        ({"model_type": 3}, "model_type '3' is not one of transformers"),
        ({"num_hidden_layers": 10**8}, "'num_hidden_layers' is 100,000,000"),
        ({"hidden_size": 10**12}, "'hidden_size' is 1,000,000,000,000"),
        ({"intermediate_size": 10**8}, "describes 3,"),
        ({"num_hidden_layers": -1}, "does not fit"),
        ({"hidden_size": 15}, "transformers does not open it"),
        ({"hidden_act": "own"}, "transformers does not open it"),
        ({"quantization_config": {"quant_method": "own"}}, "describes quantised weights"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be_built_are_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    save(tmp_path, "bert")
    place = tmp_path / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **change}))
    assert says in refusal(tmp_path)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    marker = tmp_path / "marker"
    (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Net: pass\n")
    place = tmp_path / "config.json"
    config = json.loads(place.read_text())
    config |= {"auto_map": {"AutoConfig": "own.Net", "AutoModel": "own.Net"}}
    place.write_text(json.dumps(config))
    assert load_graph(tmp_path).module is not None  # transformers' own class serves
    config |= {"architectures": ["Net"]}
    place.write_text(json.dumps(config))
    refusal(tmp_path)  # BertModel, which has no head for the file's
    config |= {"model_type": "own"}
    place.write_text(json.dumps(config))
    refusal(tmp_path)
    assert not marker.exists()


def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path) -> None:
    assert "without config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "is a folder without model.safetensors" in refusal(tmp_path)


def test_without_transformers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "bert")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "Run: pip install transformers" in refusal(tmp_path)
