"""Transformer parts that the token encoder and the shared decoder both use.

Knows tokens as vectors and their positions; knows no network, no loss. All tokens that are
handed in exist: a batch is of one architecture, so its networks have equally many, and longer
sequences are cut into windows without a remainder to fill. So attention needs no mask.

Letters in shapes: B batch, T tokens, D model width, H heads.
Source: SANE, Schürholt et al. 2024, arXiv:2406.09997.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Positions(nn.Module):
    """Learned positions of tokens: cat(E1[n] + E2[l], E3[k])."""

    def __init__(self, model_dim: int, max_tokens: int, max_layers: int, max_rows: int) -> None:
        super().__init__()
        self.limits = (max_tokens, max_layers, max_rows)
        half = model_dim // 2
        self.token = nn.Embedding(max_tokens, half)
        self.layer = nn.Embedding(max_layers, half)
        self.row = nn.Embedding(max_rows, model_dim - half)
        for table in (self.token, self.layer, self.row):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, position: Tensor) -> Tensor:
        """position int64 [T, 3] -> [T, model_dim].

        Positions on the CPU are checked there and moved without waiting for the device.

        Raises:
            ValueError: a network larger than the learned positions.
        """
        most = position.amax(0).tolist() if len(position) else [0, 0, 0]
        names = ("max_tokens", "max_layers", "max_rows")
        for found, limit, name in zip(most, self.limits, names, strict=True):
            if found >= limit:
                raise ValueError(
                    f"this network needs position {found}, but the model has learned {name}="
                    f"{limit}. Train with a larger {name}, or use the graph encoder."
                )
        n, layer, k = position.to(self.row.weight.device, non_blocking=True).unbind(1)
        return torch.cat([self.token(n) + self.layer(layer), self.row(k)], -1)


class Transformer(nn.Module):
    """Pre-norm blocks without biases, all tokens see all; no final norm: [B, T, D] -> same."""

    def __init__(self, model_dim: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(model_dim, num_heads) for _ in range(num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    As `nn.TransformerEncoderLayer` with `norm_first` and without biases or dropout, but
    queries, keys and values stay views of one product.
    """

    def __init__(self, model_dim: int, num_heads: int) -> None:
        super().__init__()
        if model_dim % num_heads:
            raise ValueError(
                f"model_dim must be a multiple of num_heads={num_heads}, got {model_dim}"
            )
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(model_dim, bias=False)
        self.qkv = nn.Linear(model_dim, 3 * model_dim, bias=False)
        self.out = nn.Linear(model_dim, model_dim, bias=False)
        self.norm2 = nn.LayerNorm(model_dim, bias=False)
        self.up = nn.Linear(model_dim, 4 * model_dim, bias=False)
        self.down = nn.Linear(4 * model_dim, model_dim, bias=False)
        nn.init.xavier_uniform_(self.qkv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self._attend(self.qkv(self.norm1(x))))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def _attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [B, T, 3 * D] -> [B, T, D]."""
        if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu" and torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):  # its backward is four times slower in bf16
                return self._attention(qkv.float()).to(qkv.dtype)
        return self._attention(qkv)

    def _attention(self, qkv: Tensor) -> Tensor:
        heads = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(*heads.unbind(0))
        return found.transpose(1, 2).flatten(2)
