"""Laws of importing files of weights: bit for bit, each design once, nothing silently left out.

The last part runs on networks that others trained, where `$GRAPHREP_CHECKPOINTS` is set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphrep import ParameterGraph
from graphrep.checkpoint import read_checkpoint
from graphrep.zoo.formats.checkpoints import Checkpoints
from graphrep.zoo.record import Record, Skipped
from tests.real_checkpoints import CASES, CHECKPOINTS

HERE = "tests.zoo.formats.test_checkpoints:"


class TwoInputs(nn.Module):
    """No chain, so that only a factory can say what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.norm(torch.relu(self.left(x) + self.right(y))))


def failing() -> nn.Module:
    raise KeyError("no settings")


def net(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def save(path: Path, module: nn.Module, **beside: Any) -> dict[str, Tensor]:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = module.state_dict()
    torch.save({"state_dict": state, **beside} if beside else state, path)
    return state


def read_all(reader: Checkpoints) -> tuple[dict[str, Record], dict[str, str]]:
    """Records by name and the reasons of what was skipped."""
    records, skipped = {}, {}
    for name in reader.names():
        try:
            for found in reader.read(name):
                if isinstance(found, Skipped):
                    skipped[found.name] = found.reason
                else:
                    assert found.name == name and name not in records
                    records[name] = found
        except ValueError as error:
            skipped[name] = str(error)
    return records, skipped


def state_of(record: Record, place: int = 0) -> dict[str, Tensor]:
    buffers = {k: v[place] for k, v in record.buffers.items()}
    return ParameterGraph(record.architecture, record.theta[place], buffers).state_dict()


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(
        torch.equal(found[k].nan_to_num(9), v.nan_to_num(9)) for k, v in expected.items()
    )


def test_mixed_files_come_in_bit_for_bit_and_each_design_is_traced_once(tmp_path: Path) -> None:
    states = {
        f"{kind}/net_{seed}.pt": save(tmp_path / kind / f"net_{seed}.pt", net(width, seed))
        for kind, width in (("narrow", 4), ("wide", 6))
        for seed in range(3)
    }
    broken = net(4, 9)
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    states["narrow/net_9.pt"] = save(tmp_path / "narrow" / "net_9.pt", broken)
    save_file(net(6, 8).state_dict(), tmp_path / "wide" / "net_8.safetensors")
    states["wide/net_8.safetensors"] = net(6, 8).state_dict()
    reader = Checkpoints(tmp_path)
    records, skipped = read_all(reader)
    assert not skipped and set(records) == set(states) == set(reader.names())
    assert all(same(state_of(records[n]), dict(s)) for n, s in states.items())
    designs = {id(r.architecture): r.architecture for r in records.values()}
    assert sorted(a.num_parameters for a in designs.values()) == [26, 38]
    assert len({a.fingerprint for a in designs.values()}) == 2
    assert reader.designs.num_traced == 2 + 1  # safetensors keep no order, so one once more
    assert "assumed ReLU" in str(records["wide/net_0.pt"].properties["notes"])
    assert "1 NaN of 12 values" in str(records["narrow/net_9.pt"].properties["notes"])
    assert "NaN" not in str(records["narrow/net_0.pt"].properties["notes"])


def test_checkpoints_of_a_run_are_one_model_in_order_of_time(tmp_path: Path) -> None:
    states = {
        epoch: save(tmp_path / "r" / f"epoch_{epoch}.pt", net(seed=epoch), epoch=epoch - 1, acc=0.5)
        for epoch in (10, 2, 1)
    }
    save(tmp_path / "r" / "best.pt", net(seed=2), epoch=1)
    records, skipped = read_all(Checkpoints(tmp_path))
    assert list(records) == ["r/*.pt"] and not skipped
    record = records["r/*.pt"]
    assert [row.get("epoch") for row in record.rows] == [1, 2, 10, 1]
    assert [row.get("epoch_in_file") for row in record.rows] == [0, 1, 9, None]
    assert [row.get("saved_as") for row in record.rows] == [None, None, None, "best"]
    assert record.rows[0]["acc"] == 0.5
    for place, epoch in enumerate((1, 2, 10, 2)):
        assert same(state_of(record, place), states[epoch])
    apart = Checkpoints(tmp_path, group=False).names()
    assert apart == ["r/best.pt", "r/epoch_1.pt", "r/epoch_10.pt", "r/epoch_2.pt"]


def test_numbers_that_may_tell_networks_apart_join_nothing_unless_asked(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"net_{number}.pt", net(seed=number))
    assert Checkpoints(tmp_path).names() == [f"net_{n}.pt" for n in range(3)]
    reader = Checkpoints(tmp_path, epoch_pattern=r"_(?P<epoch>\d+)")
    assert reader.names() == ["net*.pt"]
    assert [row["epoch"] for row in read_all(reader)[0]["net*.pt"].rows] == [0, 1, 2]
    for pattern in ("(", r"_(\d+)"):
        with pytest.raises(ValueError, match="epoch_pattern"):
            Checkpoints(tmp_path, epoch_pattern=pattern)


def test_a_run_of_two_designs_falls_apart_and_an_odd_file_within_is_said(tmp_path: Path) -> None:
    for epoch, width in ((1, 4), (2, 4), (3, 6)):
        save(tmp_path / f"epoch_{epoch}.pt", net(width))
    records, skipped = read_all(Checkpoints(tmp_path))
    assert list(records) == [f"epoch_{e}.pt" for e in (1, 2, 3)] and not skipped
    assert records["epoch_3.pt"].rows == [{"epoch": 3}]
    save(tmp_path / "epoch_4.pt", net(4))
    (tmp_path / "epoch_5.pt").write_bytes(b"PK\x03\x04 cut short")
    records, skipped = read_all(Checkpoints(tmp_path))
    assert [row["epoch"] for row in records["*.pt"].rows] == [1, 2, 4]
    assert "another architecture" in skipped.pop("epoch_3.pt")
    assert "not a readable torch file" in skipped.pop("epoch_5.pt") and not skipped


def test_what_is_no_weights_is_passed_over_by_suffix_alone_and_all_else_is_tried(
    tmp_path: Path,
) -> None:
    save(tmp_path / "net.pth.tar", net())
    save(tmp_path / "odd.suffix", net(seed=1))
    save(tmp_path / ".hidden" / "net.pt", net())
    for name in ("config.json", "log.txt", "a/picture.png", "a/PICTURE.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    torch.save(torch.optim.SGD(net().parameters(), 0.1).state_dict(), tmp_path / "optimizer.pt")
    torch.save(net(), tmp_path / "whole.pt")
    (tmp_path / "tensorflow.h5").write_bytes(b"\x89HDF")
    (tmp_path / "empty").write_bytes(b"")
    reader = Checkpoints(tmp_path)
    assert reader.facts["passed_over"] == {".json": 1, ".txt": 1, ".png": 2}
    records, skipped = read_all(reader)
    assert set(records) == {"net.pth.tar", "odd.suffix"}
    assert "holds no tensors by name" in skipped["optimizer.pt"]
    assert "never executes" in skipped["whole.pt"]
    assert "Expected a torch file or safetensors" in skipped["tensorflow.h5"]
    assert "empty" in skipped["empty"]
    assert not any(str(tmp_path) in reason for reason in skipped.values())
    assert list(Checkpoints(tmp_path / "odd.suffix").names()) == ["odd.suffix"]
    for place, says in (("nothing", "no such folder"), ("a", "no files that may be weights")):
        with pytest.raises(ValueError, match=says):
            Checkpoints(tmp_path / place)


def test_a_pattern_or_the_top_of_a_folder_chooses_files(tmp_path: Path) -> None:
    for run in "xyz":
        save(tmp_path / "runs" / run / "best.pt", net(seed=ord(run)))
        save(tmp_path / "runs" / run / "last.pt", net())
    save(tmp_path / "runs" / "top.pt", net())
    table = tmp_path / "table.csv"
    table.write_text("run,accuracy\nx,0.5\nz,0.75\n")
    reader = Checkpoints(f"{tmp_path}/runs/*/best.pt", properties=table)
    assert reader.names() == ["x/best.pt", "y/best.pt", "z/best.pt"]
    records, _ = read_all(reader)
    assert [r.properties.get("accuracy") for r in records.values()] == [0.5, None, 0.75]
    assert reader.facts["files_without_row"] == ["y/best.pt"]
    assert Checkpoints(tmp_path / "runs", recursive=False).names() == ["top.pt"]
    assert len(Checkpoints(f"{tmp_path}/runs/**/*.pt").names()) == 4  # runs of two, and one


def test_shards_are_one_model(tmp_path: Path) -> None:
    state = net().state_dict()
    half = {k: v for k, v in state.items() if k.startswith("0")}
    save_file(half, tmp_path / "model-00001-of-00002.safetensors")
    save_file(
        {k: v for k, v in state.items() if k not in half},
        tmp_path / "model-00002-of-00002.safetensors",
    )
    places = {k: f"model-0000{1 + (k not in half)}-of-00002.safetensors" for k in state}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    records, skipped = read_all(Checkpoints(tmp_path))
    assert list(records) == [index.name] and not skipped
    assert same(state_of(records[index.name]), dict(state))
    index.unlink()
    assert len(Checkpoints(tmp_path).names()) == 2


def test_the_table_overrides_what_files_say_and_lists_what_is_not_there(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", net(), epoch=3, best_prec1=91.5, note="long run", optimizer={"x": 1})
    save(tmp_path / "b.pt", net(), epoch=4)
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"a.pt": {"epoch": 30, "lr": 0.1, "split": "test"}, "c.pt": {}}))
    reader = Checkpoints(tmp_path, properties=table)
    assert reader.facts["num_rows_without_file"] == 1
    assert reader.facts["files_without_row"] == ["b.pt"]
    records, skipped = read_all(reader)
    assert skipped == {"c.pt": "c.pt: named in table.json but not there"}
    record = records["a.pt"]
    told = {**record.rows[0], **record.properties}
    assert {k: told[k] for k in ("epoch", "best_prec1", "note", "lr")} == {
        "epoch": 30,
        "best_prec1": 91.5,
        "note": "long run",
        "lr": 0.1,
    }
    assert "optimizer" not in told and record.split == "test"
    assert records["b.pt"].rows == [{"epoch": 4}] and records["b.pt"].split is None


def test_a_run_in_two_splits_is_refused(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(tmp_path / f"epoch_{epoch}.pt", net())
    table = tmp_path / "table.csv"
    table.write_text("file,split\nepoch_1.pt,train\nepoch_2.pt,test\n")
    records, skipped = read_all(Checkpoints(tmp_path, properties=table))
    assert not records and "lie in test and train" in skipped["*.pt"]
    table.write_text("file,split,acc\nepoch_1.pt,train,1\nepoch_2.pt,training,2\n")
    records, _ = read_all(Checkpoints(tmp_path, properties=table))
    assert records["*.pt"].split == "train"
    assert [row["acc"] for row in records["*.pt"].rows] == [1, 2]


def test_a_table_names_the_factory_of_each_file(tmp_path: Path) -> None:
    states = {f"two_{n}.pt": save(tmp_path / f"two_{n}.pt", TwoInputs()) for n in range(3)}
    save(tmp_path / "chain.pt", net())
    save(tmp_path / "bad.pt", net())
    save(tmp_path / "wrong.pt", net())
    rows = [f'{name},{HERE}TwoInputs,"1,4;1,3"' for name in states]
    rows += [f"bad.pt,{HERE}failing,", f'wrong.pt,{HERE}TwoInputs,"1,4;1,3"', "chain.pt,,"]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,model,input_shape", *rows]))
    reader = Checkpoints(tmp_path, properties=table)
    records, skipped = read_all(reader)
    assert reader.designs.num_traced == 2
    assert set(records) == {*states, "chain.pt"}
    assert all(same(state_of(records[n]), s) for n, s in states.items())
    assert len({id(records[n].architecture) for n in states}) == 1
    assert records["two_0.pt"].architecture.name == "TwoInputs"
    assert records["two_0.pt"].properties["factory"] == HERE + "TwoInputs"
    assert "KeyError: 'no settings'" in skipped.pop("bad.pt")
    assert "does not fit TwoInputs" in skipped.pop("wrong.pt") and not skipped
    without = read_all(Checkpoints(tmp_path))[1]
    assert set(without) == set(states)
    assert "Pass --model" in without["two_0.pt"]
    options = {"model": HERE + "TwoInputs", "input_shape": ["1,4", "1,3"]}
    assert set(read_all(Checkpoints(tmp_path, **options))[0]) == set(states)  # type: ignore[arg-type]


def test_a_folder_that_transformers_saved_is_one_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="these folders need transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=12, n_positions=8)
    transformers.utils.logging.disable_progress_bar()
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt")
    save(tmp_path / "net.pt", net())
    reader = Checkpoints(tmp_path)
    assert reader.names() == ["gpt", "net.pt"]
    records, skipped = read_all(reader)
    assert records["gpt"].architecture.name == "GPT2LMHeadModel" and not skipped
    assert Checkpoints(tmp_path / "gpt").names() == ["gpt"]


REAL = pytest.mark.skipif(not CHECKPOINTS, reason="GRAPHREP_CHECKPOINTS is not set")
FACTORIES = {
    "resnet20-12fca82f": "ResNet20",
    "cifar10_resnet__resnet2b": "ResNet2b",
    "pnet": "PNet",
    "rnet": "RNet",
    "oval__cifar_base": "cnn_base",
    "oval__cifar_deep": "cnn_deep",
} | {case.name: "cnn_a" for case in CASES if "cnn_a" in case.name or "wide" in case.name}


def real_table(path: Path) -> Path:
    """What the folder's index knows, as somebody would write it down."""
    rows = []
    for case in CASES:
        factory = FACTORIES.get(case.name)
        accuracy = case.known[0].accuracy if case.known else None
        row = {"file": case.file, "accuracy": accuracy}
        if factory is not None:
            shape = ",".join(map(str, (1, *case.shape)))
            row |= {"model": f"tests.real_checkpoints:{factory}", "input_shape": shape}
        rows.append(row)
    path.write_text(json.dumps(rows))
    return path


@REAL
def test_real_checkpoints_of_mixed_designs_come_in_with_a_table(tmp_path: Path) -> None:
    reader = Checkpoints(CHECKPOINTS, properties=real_table(tmp_path / "table.json"))
    records, skipped = read_all(reader)
    assert set(records) == {case.file for case in CASES}
    for case in CASES:
        record, stored = records[case.file], case.checkpoint().state_dict
        whole = ("num_batches_tracked",)
        assert record.architecture.num_parameters == sum(
            v.numel() for k, v in stored.items() if not k.endswith(whole)
        )
        hidden = tuple(u.size for u in record.architecture.units if not u.fixed)
        assert hidden == case.hidden
        found = state_of(record)
        assert all(found[k].equal(v) for k, v in stored.items())
        expected = case.known[0].accuracy if case.known else None
        assert record.properties.get("accuracy") == expected
    weights = {
        name: sum(t.numel for t in record.architecture.tensors if t.role == "parameter")
        for name, record in records.items()
    }
    assert weights["resnet_cifar/resnet20-12fca82f.th"] == 269_722
    assert weights["crown/sdp__cifar_cnn_a_mix.model"] == 214_918
    assert (weights["mtcnn/pnet.pt"], weights["mtcnn/rnet.pt"]) == (6_632, 100_178)
    same_design = {r.architecture.fingerprint for n, r in records.items() if "cnn_a" in n}
    assert len(same_design) == 1
    assert reader.designs.num_traced < len(records)
    assert records["resnet_cifar/resnet20-12fca82f.th"].rows[0]["best_prec1"] == pytest.approx(
        91.78, abs=0.01
    )
    assert set(skipped) == {"llama/stories260K.safetensors", "pykan/0.0_state"}
    assert set(reader.facts["files_without_row"]) == set(skipped)


@REAL
def test_without_a_table_plain_chains_come_in_and_the_others_have_reasons() -> None:
    records, skipped = read_all(Checkpoints(CHECKPOINTS))
    chains = {case.file for case in CASES if case.name not in FACTORIES}
    chains |= {case.file for case in CASES if "cifar_" in case.file}
    assert set(records) == chains
    assert len(records) + len(skipped) == sum(
        not name.endswith(".md") for *_, names in os.walk(CHECKPOINTS) for name in names
    )
    assert all("no plain chain of layers" in reason for reason in skipped.values())
    assert records["crown/oval__cifar_base.pth"].rows == [{"err": 0.5454, "epoch": 109}]
    assert read_checkpoint(Path(CHECKPOINTS) / "crown/oval__cifar_base.pth").extra["epoch"] == 109
