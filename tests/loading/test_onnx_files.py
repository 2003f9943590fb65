"""Laws of reading ONNX files: false claims, unknown operators and huge values are refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphrep.loading import load_graph

from .fuzz import write_onnx

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT


def save(
    path: Path, nodes: list[Any], tensors: list[Any], shape: list[Any] | None = None, **more: Any
) -> Path:
    x = helper.make_tensor_value_info("x", FLOAT, [1, 4] if shape is None else shape)
    y = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)
    path.write_bytes(model.SerializeToString())
    return path


def weight(name: str = "w", *shape: int) -> Any:
    values = np.random.default_rng(0).normal(size=shape or (4, 3))
    return numpy_helper.from_array(values.astype(np.float32), name)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError) as error:
        load_graph(path, **options)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


PRODUCT = [node("MatMul", "x w")]


def test_the_first_unknown_operator_is_named(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Bernoulli", "a", name="draw")]
    message = refusal(save(tmp_path / "a.onnx", nodes, [weight()]))
    assert "operator 'Bernoulli' (node 'draw'), number 2 of 2" in message
    assert "--model package.module:factory" in message
    nodes[1] = helper.make_node("Special", ["a"], ["y"], domain="own")
    assert "operator 'own.Special'" in refusal(save(tmp_path / "a.onnx", nodes, [weight()]))


def test_functions_of_the_file_are_written_out_unless_they_multiply(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]

    def function(name: str, inside: list[Any]) -> Any:
        return helper.make_function("own", name, ["a"], ["b"], inside, opsets)

    def call(name: str, inputs: str, outputs: str) -> Any:
        return helper.make_node(name, [inputs], [outputs], domain="own")

    twice = function("F0", [node("Relu", "a", "c"), node("Tanh", "c", "b")])
    nodes = [node("MatMul", "x w", "m"), call("F0", "m", "y")]
    loaded = load_graph(save(tmp_path / "a.onnx", nodes, [weight()], functions=[twice]))
    assert "3 nodes" in loaded.notes[0]
    doubling = [
        function(f"F{i}", [call(f"F{i - 1}", "a", "c"), call(f"F{i - 1}", "c", "b")])
        for i in range(1, 40)
    ]
    nodes[1] = call("F39", "m", "y")
    path = save(tmp_path / "a.onnx", nodes, [weight()], functions=[twice, *doubling])
    assert "its functions come to 1,099,511,627,777 nodes" in refusal(path)
    circle = function("F0", [call("F0", "a", "b")])
    nodes[1] = call("F0", "m", "y")
    assert "calls itself" in refusal(save(path, nodes, [weight()], functions=[circle]))


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            [node("ConstantOfShape", "huge", "c"), node("ReduceSum", "c", "d"), node("Add", "x d")],
            "(node 'c') would take 4,000,000,000,000 bytes",
        ),
        ([node("Expand", "x huge")], "would take"),
        ([node("Tile", "x huge")], "would take"),
        ([node("Pad", "x huge2")], "would take"),
        ([node("Transpose", "x", "t"), node("Mul", "x t")], "would take"),
    ],
)
def test_values_that_would_fill_the_memory_are_refused(
    tmp_path: Path, nodes: list[Any], says: str
) -> None:
    tensors = [
        numpy_helper.from_array(np.array([10**6, 10**6]), "huge"),
        numpy_helper.from_array(np.array([0, 0, 10**6, 10**7]), "huge2"),
    ]
    shapes = {"Transpose": [1, 1 << 20], "Expand": [1, 1]}
    shape = shapes.get(nodes[0].op_type, [1, 4])
    assert says in refusal(save(tmp_path / "a.onnx", nodes, tensors, shape))


def test_sizes_that_inputs_decide_are_refused(tmp_path: Path) -> None:
    nodes = [node("NonZero", "x", "n"), node("Cast", "n", to=1)]
    assert "gives as many places as values" in refusal(save(tmp_path / "a.onnx", nodes, []))
    nodes = [node("Cast", "x", "s", to=7), node("Squeeze", "s i", "t"), node("Reshape", "x t")]
    tensors = [numpy_helper.from_array(np.array([0]), "i")]
    assert "takes sizes or places from values" in refusal(save(tmp_path / "a.onnx", nodes, tensors))


def test_a_branch_is_taken_where_its_condition_is_known(tmp_path: Path) -> None:
    sides = {
        f"{side}_branch": helper.make_graph(
            [node(op, "m", side)], side, [], [helper.make_tensor_value_info(side, FLOAT, None)]
        )
        for side, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        node("MatMul", "x w", "m"), node("Shape", "m", "s"), node("Size", "s", "n"),
        node("Equal", "n two", "same"), node("If", "same", **sides),
    ]  # fmt: skip
    two = numpy_helper.from_array(np.array(2), "two")
    loaded = load_graph(save(tmp_path / "a.onnx", nodes, [weight(), two]))
    assert loaded.module is not None and loaded.module(torch.randn(1, 4)).min() >= 0
    nodes[3] = node("Greater", "m m", "same")
    assert "decides by values" in refusal(save(tmp_path / "a.onnx", nodes, [weight(), two]))


def claim(**fields: Any) -> Any:
    proto = weight()
    for name, value in fields.items():
        if name == "dims":
            del proto.dims[:]
            proto.dims.extend(value)
        else:
            setattr(proto, name, value)
    return proto


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (claim(dims=[1 << 40, 3]), "needs 13,194,139,533,312 bytes, but has 48"),
        (claim(dims=[1 << 62, 1 << 62]), "claims the shape"),
        (claim(dims=[-1, 3]), "claims the shape"),
        (claim(dims=[4, 2]), "needs 32 bytes, but has 48"),
        (claim(data_type=8), "ONNX type 8, which torch has no tensors of"),
        (helper.make_tensor("w", 14, [1], [1j]), "is complex"),
    ],
)
def test_tensors_must_hold_what_they_claim(tmp_path: Path, tensor: Any, says: str) -> None:
    assert says in refusal(save(tmp_path / "a.onnx", PRODUCT, [tensor]))


def external(**entries: str) -> Any:
    proto = weight()
    values = proto.raw_data
    proto.ClearField("raw_data")
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    return proto, values


def test_weights_beside_the_file_are_read_from_its_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    proto, values = external(location="net.data", offset="8", length="48")
    (folder / "net.data").write_bytes(bytes(8) + values)
    loaded = load_graph(save(folder / "a.onnx", PRODUCT, [proto]))
    assert loaded.graph.state_dict()["w"].numpy().tobytes() == values
    (tmp_path / "out.data").write_bytes(values)
    os.symlink(tmp_path / "out.data", folder / "link.data")
    cases = [
        ({"location": "../out.data"}, "expected a file in the model's folder"),
        ({"location": str(tmp_path / "out.data")}, "expected a file in the model's folder"),
        ({"location": "link.data"}, "expected a file in the model's folder"),
        ({"location": "gone.data"}, "which is not there"),
        ({"location": "net.data", "offset": "9"}, "names 48 from 9 of 'net.data', which has 56"),
        ({"location": "net.data", "offset": "-8"}, "from -8"),
        ({"location": "net.data", "length": "100000000000"}, "names 100,000,000,000"),
        ({"location": "net.data", "length": "x"}, "is no number"),
    ]
    for entries, says in cases:
        path = save(folder / "a.onnx", PRODUCT, [external(**entries)[0]])
        assert says in refusal(path), entries


def test_what_is_no_whole_onnx_file_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path / "a.onnx")
    content = (tmp_path / "a.onnx").read_bytes()
    load_graph(tmp_path / "a.onnx")
    for damaged, says in (
        (content[:400], "not a readable ONNX file"),
        (b"", "holds no graph of operators"),
        (b"nothing of the kind", "not a readable ONNX file"),
    ):
        (tmp_path / "a.onnx").write_bytes(damaged)
        assert says in refusal(tmp_path / "a.onnx")


def test_messages_without_content_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A node of 2 bytes would take 100 in memory."""
    path = tmp_path / "a.onnx"
    for nodes, says in (
        (1 << 18, "holds 262,144 nodes, more than 200,000"),
        (4 << 20, "holds more than 3,000,000 fields"),
    ):
        graph = b"\x0a\x00" * nodes
        length = bytes([len(graph) & 127 | 128, len(graph) >> 7 & 127 | 128])
        length += bytes([len(graph) >> 14 & 127 | 128, len(graph) >> 21])
        path.write_bytes(b"\x08\x08\x3a" + length + graph + b"\x42\x02\x10\x11")
        assert says in refusal(path)


def test_onnx_is_told_by_its_content_too(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.bin")
    assert load_graph(tmp_path / "net.bin").notes[0].startswith("ONNX graph of 8 nodes")


def test_an_input_that_does_not_fit_is_explained(tmp_path: Path) -> None:
    write_onnx(tmp_path / "a.onnx")
    message = refusal(tmp_path / "a.onnx", input_shape="1,2,8,8")
    assert "operator 'Conv'" in message and "does not run on shapes [[1, 2, 8, 8]" in message
    assert "Pass --input with sizes that fit" in message
    message = refusal(tmp_path / "a.onnx", input_shape=[(1, 1, 8, 8), (1, 2)])
    assert "got 2 shapes for 1 inputs ('x')" in message


def test_names_that_modules_cannot_have_are_changed_and_reported(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x training", "a"), node("MatMul", "a type.float", "b")]
    nodes += [node("Add", "b type", "c"), node("Add", "c ..", "y")]
    tensors = [weight("training", 4, 3), weight("type.float", 3, 3), weight("type", 3)]
    loaded = load_graph(save(tmp_path / "a.onnx", nodes, [*tensors, weight("..", 3)]))
    assert set(loaded.graph.state_dict()) == {"training_", "type.float", "type", "_._._"}
    assert "2 names changed" in loaded.notes[0]
    assert loaded.module is not None
    loaded.graph.load_into(loaded.module)  # strict


def test_without_onnx_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "Run: pip install onnx" in refusal(tmp_path / "a.onnx")
