"""Transformer parts that the token encoder and the shared decoder both use.

Source: SANE, Schürholt et al. 2024, arXiv:2406.09997.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        n, layer, k = position.to(self.row.weight.device).unbind(1)
        return torch.cat([self.token(n) + self.layer(layer), self.row(k)], -1)


def transformer(model_dim: int, num_heads: int, num_layers: int) -> nn.TransformerEncoder:
    """Pre-norm blocks without biases, all tokens see all."""
    block = nn.TransformerEncoderLayer(
        model_dim,
        num_heads,
        dim_feedforward=4 * model_dim,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
        bias=False,
    )
    return nn.TransformerEncoder(block, num_layers, enable_nested_tensor=False)
