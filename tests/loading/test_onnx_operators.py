"""Law: every operator computes what onnx's own reference does, whatever the opset writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphrep.loading.onnx import open_onnx
from graphrep.loading.onnx.call import OPERATORS

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx")
reference = pytest.importorskip("onnx.reference", reason="onnx's reference is the oracle")
helper = onnx.helper

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)
V = RNG.normal(size=(3, 4)).astype(np.float32)
POSITIVE = np.abs(V) + 0.5
T = RNG.normal(size=(5, 2, 3)).astype(np.float32)  # time, batch, features


def W(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


STATES = [W(2, 2, 4), W(2, 2, 4)]
BOTH_WAYS = {"hidden_size": 4, "direction": "bidirectional"}
AFTER_PRODUCT = {"hidden_size": 4, "linear_before_reset": 1}
CORNERS = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any], int]] = [
    *((op, [V], {}, 18) for op in (
        "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg",
        "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "LeakyRelu",
        "Elu", "Selu", "HardSigmoid", "Celu", "ThresholdedRelu", "Shrink", "Softmax",
        "LogSoftmax", "IsNaN", "Size", "Shape", "GlobalAveragePool",
    ) if op != "GlobalAveragePool"),
    *((op, [POSITIVE], {}, 18) for op in ("Log", "Sqrt", "Reciprocal")),
    *((op, [V, W(4)], {}, 18) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *((op, [V, W(3, 1)], {}, 18) for op in (
        "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal",
    )),
    ("Pow", [POSITIVE, floats(3)], {}, 18), ("Pow", [POSITIVE, W(4)], {}, 18),
    ("Div", [ints(7, -7), ints(2, 2)], {}, 18), ("Mod", [ints(7, -7), ints(3, 3)], {}, 18),
    ("Gelu", [V], {}, 20), ("Gelu", [V], {"approximate": "tanh"}, 20),
    ("PRelu", [X, W(4, 1, 1)], {}, 18), ("PRelu", [V, W(1)], {}, 18),
    ("Clip", [V, np.float32(-0.5), np.float32(0.5)], {}, 18),
    ("Clip", [V, None, np.float32(0.5)], {}, 18), ("Clip", [V], {"min": -0.5, "max": 0.5}, 6),
    ("Where", [V > 0, V, W(3, 4)], {}, 18),
    ("Not", [V > 0], {}, 18), ("And", [V > 0, V < 1], {}, 18),
    ("Cast", [V], {"to": 7}, 18), ("Dropout", [V], {}, 13),
    ("MatMul", [V, W(4, 5)], {}, 18), ("MatMul", [X, W(5, 3)], {}, 18),
    ("Gemm", [V, W(4, 5), W(5)], {}, 18), ("Gemm", [V, W(5, 4), W(5)], {"transB": 1}, 18),
    ("Gemm", [V, W(3, 5), W(4, 5)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, 18),
    ("Einsum", [V, W(4, 5)], {"equation": "ij,jk->ik"}, 18),
    ("Conv", [X, W(6, 4, 3, 3), W(6)], {"pads": [1, 1, 1, 1]}, 18),
    ("Conv", [X, W(6, 4, 3, 2)], {"pads": [0, 1, 2, 0], "strides": [2, 1]}, 18),
    ("Conv", [X, W(4, 1, 3, 3)], {"group": 4, "dilations": [2, 1]}, 18),
    ("Conv", [X, W(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 18),
    ("Conv", [X[0], W(6, 6, 3)], {}, 18),
    ("ConvTranspose", [X, W(4, 3, 3, 3), W(3)], {"strides": [2, 2], "output_padding": [1, 1]}, 18),
    ("ConvTranspose", [X, W(4, 3, 3, 3)], {"pads": [0, 1, 1, 0]}, 18),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}, 18),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, 18),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, 18),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}, 18),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [1] * 4, "count_include_pad": 1}, 18),
    ("GlobalAveragePool", [X], {}, 18), ("GlobalMaxPool", [X], {}, 18),
    ("BatchNormalization", [X, W(4), W(4), W(4), np.abs(W(4)) + 0.5], {}, 15),
    ("LayerNormalization", [V, W(4), W(4)], {}, 17),
    ("LayerNormalization", [X, W(6, 5), W(6, 5)], {"axis": 2}, 17),
    ("InstanceNormalization", [X, W(4), W(4)], {}, 18),
    ("GroupNormalization", [X, W(4), W(4)], {"num_groups": 2}, 21),
    ("LRN", [W(4, 4, 3, 2)], {"size": 3}, 18), ("LpNormalization", [V], {"axis": 1}, 18),
    ("RMSNormalization", [V, W(4)], {}, 23),
    ("Softmax", [X], {"axis": 1}, 18),
    ("LogSoftmax", [X], {}, 18),
    ("Attention", [W(1, 2, 4, 3), W(1, 2, 5, 3), W(1, 2, 5, 3)], {}, 23),
    ("Resize", [X, None, None, ints(2, 4, 12, 10)], NEAREST, 18),
    ("Resize", [X, None, floats(1, 1, 2, 2)], {"mode": "linear"}, 18),
    ("Resize", [X, None, floats(1, 1, 2, 2)], CORNERS, 18),
    ("DepthToSpace", [X], {"blocksize": 2}, 18),
    ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}, 18),
    ("SpaceToDepth", [X[..., :4]], {"blocksize": 2}, 18),
    ("Reshape", [X, ints(0, -1, 5)], {}, 18),
    ("Flatten", [X], {}, 18), ("Flatten", [X], {"axis": 2}, 18),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}, 18), ("Transpose", [V], {}, 18),
    ("Squeeze", [X[:1], ints(0)], {}, 18), ("Squeeze", [X[:1]], {"axes": [0]}, 11),
    ("Squeeze", [X[:1]], {}, 13),
    ("Unsqueeze", [V, ints(0, -1)], {}, 18), ("Unsqueeze", [V], {"axes": [0, 3]}, 11),
    ("Expand", [V, ints(2, 1, 4)], {}, 18), ("Tile", [V, ints(2, 3)], {}, 18),
    ("Concat", [V, W(3, 2)], {"axis": -1}, 18),
    ("Slice", [X, ints(1, 0), ints(-1, 3), ints(2, 3), ints(2, 1)], {}, 18),
    ("Slice", [X, ints(-1), ints(-100), ints(2), ints(-2)], {}, 18),
    ("Slice", [X], {"starts": [1], "ends": [9], "axes": [1]}, 9),
    ("Split", [X, ints(1, 3)], {"axis": 1}, 18), ("Split", [X], {"axis": 1, "split": [3, 1]}, 11),
    ("Split", [X], {"axis": 3, "num_outputs": 2}, 18),
    ("Gather", [X, ints(1, -1)], {"axis": 1}, 18), ("Gather", [X, np.int64(-1)], {"axis": 2}, 18),
    ("Gather", [V, ints(1, 2, 0)], {}, 18),
    ("Gather", [X, np.array([[0, 1], [1, 0]])], {"axis": 1}, 18),
    ("GatherElements", [V, np.array([[0, 1, 2, -1]])], {}, 18),
    ("GatherND", [V, np.array([[0, 1], [2, 3]])], {}, 18),
    ("ScatterElements", [V, np.array([[0, 2, 1, 0]]), W(1, 4)], {}, 18),
    ("ScatterND", [V, np.array([[0], [2]]), W(2, 4)], {}, 18),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(2)], {}, 18),
    ("Pad", [X], {"pads": [0, 1, 0, 0, 0, 0, 1, 0], "value": 0.5}, 10),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 18),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}, 18),
    ("Trilu", [V], {}, 18), ("Trilu", [V, np.int64(1)], {"upper": 0}, 18),
    ("Shape", [X], {"start": 1, "end": -1}, 18),
    ("ConstantOfShape", [ints(2, 3)], {}, 18), ("EyeLike", [V], {"k": 1}, 18),
    ("Range", [np.int64(1), np.int64(9), np.int64(3)], {}, 18),
    ("NonZero", [ints(0, 3, 0, 2)], {}, 18),
    ("OneHot", [ints(0, 2), np.int64(3), floats(-1, 2)], {}, 18),
    *((op, [POSITIVE], {"axes": [1]}, 11) for op in (
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
    )),
    ("ReduceMean", [X, ints(2, 3)], {"keepdims": 0}, 18), ("ReduceSum", [X], {}, 13),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}, 13),
    ("ArgMax", [V], {"axis": 1}, 18), ("ArgMin", [V], {"axis": 0, "keepdims": 0}, 18),
    ("CumSum", [V, np.int64(1)], {}, 18),
    ("CumSum", [V, np.int64(1)], {"reverse": 1, "exclusive": 1}, 18),
    ("TopK", [V, ints(2)], {}, 18),
    ("LSTM", [T, W(1, 16, 3), W(1, 16, 4), W(1, 32)], {"hidden_size": 4}, 14),
    ("LSTM", [T, W(2, 16, 3), W(2, 16, 4), W(2, 32), None, *STATES], BOTH_WAYS, 14),
    ("GRU", [T, W(1, 12, 3), W(1, 12, 4), W(1, 24)], AFTER_PRODUCT, 14),
    ("GRU", [T, W(1, 12, 3), W(1, 12, 4), W(1, 24)], {"hidden_size": 4}, 14),
    ("RNN", [T, W(1, 4, 3), W(1, 4, 4), W(1, 8)], {"hidden_size": 4, "direction": "reverse"}, 14),
]  # fmt: skip
OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2, "Split": 2, "TopK": 2}


def write(
    path: Path, op: str, inputs: list[np.ndarray | None], attributes: dict[str, Any], opset: int
) -> list[str]:
    """A file of one node: its first input is the graph's, the others are initializers."""
    names = ["" if v is None else f"i{i}" for i, v in enumerate(inputs)]
    outputs = [f"o{i}" for i in range(OUTPUTS.get(op, 1))]
    node = helper.make_node(op, names, outputs, **attributes)
    first = inputs[0]
    assert first is not None
    kind = helper.np_dtype_to_tensor_dtype(first.dtype)
    given = [helper.make_tensor_value_info("i0", kind, first.shape)]
    stored = [
        onnx.numpy_helper.from_array(np.asarray(v), n)
        for n, v in zip(names[1:], inputs[1:], strict=True)
        if v is not None
    ]
    if first.dtype == np.int64:  # sizes and places: known, as in exported graphs
        stored.append(onnx.numpy_helper.from_array(np.asarray(first), "i0"))
        given = []
    made = [helper.make_tensor_value_info(o, 0, None) for o in outputs]
    graph = helper.make_graph([node], "one", given, made, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return [g.name for g in given]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "opset"),
    CASES,
    ids=[f"{i}-{op}-{opset}" for i, (op, _, _, opset) in enumerate(CASES)],
)
def test_an_operator_computes_what_the_reference_does(
    tmp_path: Path, op: str, inputs: list[Any], attributes: dict[str, Any], opset: int
) -> None:
    path = tmp_path / "one.onnx"
    given = write(path, op, inputs, attributes, opset)
    module, _, _ = open_onnx(path)
    values = [torch.tensor(inputs[0])] if given else []
    with torch.no_grad():
        found = module(*values)
    found = found if isinstance(found, tuple) else (found,)
    session = reference.ReferenceEvaluator(str(path))
    expected = session.run(None, {n: inputs[0] for n in given})
    for f, e in zip(found, expected, strict=True):
        e = np.asarray(e)
        assert tuple(f.shape) == e.shape
        assert np.allclose(f.numpy(), e, atol=1e-5, rtol=1e-4), op


def test_an_old_softmax_sums_over_all_axes_behind_its_own(tmp_path: Path) -> None:
    """Before opset 13, which onnx's reference does not know."""
    for opset, axes in ((11, (1, 2, 3)), (13, (1,))):
        write(tmp_path / "one.onnx", "Softmax", [X], {"axis": 1}, opset)
        found = open_onnx(tmp_path / "one.onnx")[0](torch.tensor(X))
        assert torch.allclose(found.sum(axes), torch.ones(()))


def test_every_operator_is_tried() -> None:
    tried = {op for op, *_ in CASES} | {"Constant"}
    rare = {
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
        "BitwiseXor", "CastLike", "Cosh", "IsInf", "Or", "Sinh", "Swish", "Tan", "Upsample", "Xor",
    }  # fmt: skip
    assert set(OPERATORS) - tried == rare
