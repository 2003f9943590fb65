"""Attention around torch's own layers, with tokens, positions and latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention import LENGTH, WIDTH, SelfAttention, plain
from .case import Family, draw, floats, heads, perms


class Tokens(nn.Module):
    """A patch embedding, a class token and positions, learned or of fixed frequencies."""

    def __init__(self, positions: str) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if positions == "learned":
            self.place = nn.Parameter(torch.zeros(1, 5, WIDTH))
        else:
            rate = 10.0 ** -(torch.arange(WIDTH) / WIDTH)
            waves = torch.sin(torch.arange(5)[:, None] * rate + torch.arange(WIDTH) % 2)
            self.register_buffer("place", waves, persistent=False)
        self.norm, self.attention = nn.LayerNorm(WIDTH), SelfAttention(fused=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head((x + self.attention(self.norm(x)))[:, 0])


class Latents(nn.Module):
    """Perceiver: learned queries read the input, their answers are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(4, WIDTH))
        self.embed = nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(WIDTH, 2, kdim=6, vdim=6, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.embed(x)
        queries = self.latents.expand(len(x), -1, -1)
        return self.head(self.attention(queries, keys, keys, need_weights=False)[0].mean(1))


class Library(nn.Module):
    """nn.MultiheadAttention with any of its options, on itself or on a second stream."""

    def __init__(self, cross: tuple[int, int] | None = None, **settings: Any) -> None:
        super().__init__()
        self.batch_first = settings.get("batch_first", False)
        self.embed, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        kdim, vdim = cross or (None, None)
        if cross:
            self.key, self.value = nn.Linear(4, cross[0]), nn.Linear(4, cross[1])
        self.cross = cross
        self.attention = nn.MultiheadAttention(WIDTH, 2, kdim=kdim, vdim=vdim, **settings)

    def forward(self, x: Tensor) -> Tensor:
        q = self.embed(x)
        k, v = (self.key(x.tanh()), self.value(x.tanh())) if self.cross else (q, q)
        if not self.batch_first:
            q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        y, _ = self.attention(q, k, v)
        return self.head(q + y).mean(0 if not self.batch_first else 1)


class Layers(nn.Module):
    """torch's own encoder and decoder layers."""

    def __init__(self, decoder: bool, **settings: Any) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 10, batch_first=True, **settings)
        nested = {"enable_nested_tensor": False}
        self.encoder = nn.TransformerEncoder(layer, 2, **nested)
        if decoder:
            self.target = nn.Linear(4, WIDTH)
            layer = nn.TransformerDecoderLayer(WIDTH, 2, 9, batch_first=True, **settings)
            self.decoder = nn.TransformerDecoder(layer, 1)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        x = self.encoder(self.embed(x))
        if target is not None:
            x = self.decoder(self.target(target), x)
        return self.head(x).mean(1)


def library(name: str, symmetry: Any, **settings: Any) -> Family:
    return Family(
        name=name, build=lambda: Library(**settings), inputs=floats(2, LENGTH, 4),
        symmetry=perms(WIDTH) * symmetry,
    )  # fmt: skip


two = heads(2, WIDTH // 2)
FAMILIES = [
    library("mha", two),
    library("mha-batch-first", two, batch_first=True),
    library("mha-no-bias", two, bias=False, batch_first=True),
    library("mha-separate-projections", two * perms(5, 6), cross=(5, 6), batch_first=True),
    library("mha-bias-kv", two, add_bias_kv=True, batch_first=True),
    library("mha-zero-attention", two, add_zero_attn=True),
    Family(name="class-token", build=lambda: Tokens("learned"), inputs=floats(2, 3, 4, 4),
           symmetry=perms(WIDTH) * plain),
    Family(name="fixed-positions", build=lambda: Tokens("fixed"), inputs=floats(2, 3, 4, 4),
           symmetry=plain, why="constant waves tell the dims of the stream apart"),
    Family(name="latent-queries", build=Latents, inputs=floats(2, LENGTH, 4),
           symmetry=perms(4, WIDTH, WIDTH, 6) * two, least=perms(WIDTH, WIDTH, 6) * two,
           why="the queries themselves may be reordered, as their answers are averaged"),
    Family(name="transformer-encoder", build=lambda: Layers(False), inputs=floats(2, LENGTH, 4),
           symmetry=perms(WIDTH) * (two * perms(10)) ** 2),
    Family(name="transformer-encoder-norm-first",
           build=lambda: Layers(False, norm_first=True, activation="gelu"),
           inputs=floats(2, LENGTH, 4), symmetry=perms(WIDTH) * (two * perms(10)) ** 2),
    Family(name="transformer-decoder", build=lambda: Layers(True),
           inputs=lambda dtype: (
               draw(2, LENGTH, 4, dtype=dtype), draw(2, 3, 4, dtype=dtype, seed=2)),
           symmetry=perms(WIDTH, WIDTH) * (two * perms(10)) ** 2 * two**2 * perms(9),
           why="queries and keys read two streams through one packed projection"),
]  # fmt: skip
