"""Small vision transformers of zoos.

Blocks normalise before each branch. Attention is torch's fused one over a
fused projection to queries, keys and values.

Letters in shapes: B images, T tokens, D width of the stream, H heads.
Source: Dosovitskiy et al. 2021, arXiv:2010.11929.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .design import ACTIVATIONS, NetworkConfig

_POSITION_STD = 0.02  # of learned positions and the class token at the start, as in the paper


class VisionTransformer(nn.Module):
    """Patches as tokens, learned positions, blocks, then the head's reading of the tokens."""

    def __init__(
        self, config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        num_patches = _num_patches(config, input_shape)
        num_tokens = num_patches + (config.head == "token")
        width, size = config.stream_dim, config.patch_size
        self.patches = nn.Conv2d(input_shape[0], width, size, size, bias=config.bias)
        self.token = nn.Parameter(torch.empty(width)) if config.head == "token" else None
        self.positions = nn.Parameter(torch.empty(num_tokens, width))
        self.blocks = nn.ModuleList(Block(config, num_hidden) for num_hidden in config.hidden)
        self.norm = nn.LayerNorm(width)
        num_read = num_tokens if config.head == "flatten" else 1
        self.output = nn.Linear(num_read * width, num_classes, bias=config.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw positions and class token anew; layers have their own method."""
        nn.init.normal_(self.positions, std=_POSITION_STD)
        if self.token is not None:
            nn.init.normal_(self.token, std=_POSITION_STD)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)  # [B, T, D]
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), 1, -1), x], 1)
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        match self.config.head:
            case "token":
                return self.output(x[:, 0])
            case "global":
                return self.output(x.mean(1))
            case _:
                return self.output(x.flatten(1))


class Block(nn.Module):
    """Attention, then an mlp, each added to the stream."""

    def __init__(self, config: NetworkConfig, num_hidden: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.dropout
        self.num_heads = config.num_heads
        width = config.stream_dim
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=config.bias)
        self.projection = nn.Linear(width, width, bias=config.bias)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, num_hidden, bias=config.bias)
        self.down = nn.Linear(num_hidden, width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.dropout(self._attend(self.attention_norm(x)), self.dropout, self.training)
        y = self.down(self.activation(self.up(self.mlp_norm(x))))
        return x + F.dropout(y, self.dropout, self.training)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)  # [B, H, T, D / H]
        return self.projection(y.transpose(1, 2).flatten(2))


def _num_patches(config: NetworkConfig, input_shape: tuple[int, int, int]) -> int:
    _, height, width = input_shape
    size = config.patch_size
    if height % size or width % size:
        raise ValueError(
            f"patch_size={size} does not divide images of {height} x {width} pixels into patches"
        )
    return (height // size) * (width // size)
