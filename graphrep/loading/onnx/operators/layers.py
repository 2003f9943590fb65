"""Layers with weights: products, norms, and what normalises along an axis."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Unsupported, axis_of, operator


@operator("MatMul")
def matmul(call: Call) -> Tensor:
    return torch.matmul(call[0], call[1])


@operator("Gemm")
def gemm(call: Call) -> Tensor:
    a, b, bias = call[0], call[1], call.get(2)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    a = a.t() if call.attribute("transA", 0) else a
    if alpha == 1 and beta == 1 and (bias is None or bias.dim() == 1):
        weight = b if call.attribute("transB", 0) else b.t()
        if bias is None or bias.shape[0] == weight.shape[0]:
            return F.linear(a, weight, bias)
    product = torch.matmul(a, b.t() if call.attribute("transB", 0) else b)
    product = product if alpha == 1 else product * alpha
    return product if bias is None else product + (bias if beta == 1 else bias * beta)


@operator("Einsum")
def einsum(call: Call) -> Tensor:
    return torch.einsum(call.attribute("equation", ""), *call.tensors())


@operator("BatchNormalization")
def batch_norm(call: Call) -> list[Tensor]:
    """As in inference, also where the file was exported in training mode."""
    x, scale, shift, mean, variance = (call[i] for i in range(5))
    found = F.batch_norm(
        x, mean, variance, scale, shift, False, 0.0, call.attribute("epsilon", 1e-5)
    )
    return [found, mean, variance, mean, variance][: len(call.node.outputs)]


@operator("InstanceNormalization")
def instance_norm(call: Call) -> Tensor:
    epsilon = call.attribute("epsilon", 1e-5)
    return F.instance_norm(call[0], weight=call[1], bias=call[2], eps=epsilon)


@operator("GroupNormalization")
def group_norm(call: Call) -> Tensor:
    x, scale, shift, groups = call[0], call[1], call[2], call.attribute("num_groups", 1)
    if scale.shape[0] == x.shape[1]:
        return F.group_norm(x, groups, scale, shift, call.attribute("epsilon", 1e-5))
    spread = [1, groups, *[1] * (x.dim() - 1)]  # before opset 21 a scale for each group
    normed = F.group_norm(x, groups, eps=call.attribute("epsilon", 1e-5))
    parts = normed.unflatten(1, (groups, -1))
    return (parts * scale.view(spread) + shift.view(spread)).flatten(1, 2)


@operator("LayerNormalization")
def layer_norm(call: Call) -> list[Tensor]:
    x, scale, shift = call[0], call[1], call.get(2)
    if len([o for o in call.node.outputs if o]) > 1:
        raise Unsupported("gives mean and deviation beside the normed values")
    shape = x.shape[axis_of(call.attribute("axis", -1), x.dim()) :]
    epsilon = call.attribute("epsilon", 1e-5)
    if scale.shape == shape and (shift is None or shift.shape == shape):
        return [F.layer_norm(x, shape, scale, shift, epsilon)]
    normed = F.layer_norm(x, shape, eps=epsilon) * scale
    return [normed if shift is None else normed + shift]


@operator("RMSNormalization")
def rms_norm(call: Call) -> Tensor:
    x = call[0]
    shape = x.shape[axis_of(call.attribute("axis", -1), x.dim()) :]
    return F.rms_norm(x, shape, eps=call.attribute("epsilon", 1e-5)) * call[1]


@operator("LRN")
def local_response_norm(call: Call) -> Tensor:
    get = call.attribute
    size = get("size", 1)
    return F.local_response_norm(
        call[0], size, get("alpha", 1e-4), get("beta", 0.75), get("bias", 1.0)
    )


@operator("LpNormalization")
def lp_norm(call: Call) -> Tensor:
    order, axis = call.attribute("p", 2), call.attribute("axis", -1)
    return call[0] / torch.linalg.vector_norm(call[0], order, dim=axis, keepdim=True)


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Tensor:
    function = torch.softmax if call.node.op == "Softmax" else torch.log_softmax
    x = call[0]
    if call.node.opset >= 13:
        return function(x, axis_of(call.attribute("axis", -1), x.dim()))
    axis = axis_of(call.attribute("axis", 1), x.dim())
    if prod(x.shape[axis:]) == x.shape[axis]:  # nothing behind the axis to sum over
        return function(x, axis)
    return function(x.flatten(axis), -1).view(x.shape)


@operator("Attention")
def attention(call: Call) -> Tensor:
    """Of opset 23, over [batch, heads, length, dims] and without a cache."""
    q, k, v, mask = call[0], call[1], call[2], call.get(3)
    if q.dim() != 4 or len(call) > 4 or call.attribute("softcap", 0.0):
        raise Unsupported("is attention with packed heads, a cache or a soft cap")
    if k.shape[1] != q.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    causal = bool(call.attribute("is_causal", 0))
    scale = call.attribute("scale")
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
