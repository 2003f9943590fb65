"""Attention written by hand in the ways that people write it.

What may be permuted: whole heads, the dims of each head's queries together with its
keys', and the dims of each head's values together with the output projection's columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Family, floats, grouped_heads, heads, perms

WIDTH, HEADS, DIM, LENGTH = 8, 3, 4, 5  # heads * dim differs from the width of the stream


class Around(nn.Module):
    """A residual stream of 8 around an attention layer: embedding, norm, mean, head."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.head = attention, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(self.norm(x))).mean(1)


def split(x: Tensor, num: int) -> Tensor:
    """[B, N, num * d] -> [B, num, N, d]."""
    return x.unflatten(-1, (num, -1)).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, H * d]."""
    return x.transpose(1, 2).flatten(2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores + bias).softmax(-1) @ v


def distances(length: int = LENGTH) -> Tensor:
    """Position of the key minus position of the query, int64 [N, N]."""
    place = torch.arange(length)
    return place[None, :] - place[:, None]


def rotate(x: Tensor, interleaved: bool) -> Tensor:
    """A rotary embedding of [..., N, d]."""
    length, dim = x.shape[-2:]
    rate = 10.0 ** (-torch.arange(0, dim, 2, dtype=x.dtype, device=x.device) / dim)
    angle = torch.arange(length, dtype=x.dtype, device=x.device)[:, None] * rate
    if interleaved:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x.chunk(2, -1)
    turned = first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


class SelfAttention(nn.Module):
    """Separate or fused projections, key-value heads shared or not, many ways to the scores."""

    def __init__(
        self,
        queries: int = HEADS,
        keys: int = HEADS,
        *,
        fused: bool = False,
        bias: bool = True,
        style: str = "softmax",
        rope: str = "",
        position: str = "",
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.queries, self.keys, self.fused = queries, keys, fused
        self.style, self.rope, self.position = style, rope, position
        sizes = (queries * DIM, keys * DIM, keys * DIM)
        if fused:
            self.qkv = nn.Linear(WIDTH, sum(sizes), bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, size, bias=bias) for size in sizes)
        self.out = nn.Linear(queries * DIM, WIDTH, bias=bias)
        if norm:
            self.q_norm, self.k_norm = nn.RMSNorm(DIM), nn.LayerNorm(DIM)
        self.norm = norm
        if position == "table":  # Swin: a row a distance, a column a head
            self.table = nn.Parameter(torch.zeros(2 * LENGTH - 1, queries))
            self.register_buffer("index", distances() + LENGTH - 1)
        elif position == "buckets":  # T5: several distances share a row
            self.table = nn.Embedding(3, queries)
        elif position == "learned":  # a number a head and pair of places
            self.table = nn.Parameter(torch.zeros(1, queries, LENGTH, LENGTH))

    def bias_of_position(self, x: Tensor) -> Tensor | float:
        match self.position:
            case "table":
                index = self.get_buffer("index")
                return self.table[index.flatten()].view(LENGTH, LENGTH, -1).permute(2, 0, 1)
            case "buckets":
                index = distances().clamp(-1, 1) + 1
                return self.table(index.to(x.device)).permute(2, 0, 1)[None]
            case "learned":
                return self.table
            case "alibi":
                slopes = 2.0 ** -(1 + torch.arange(self.queries, dtype=x.dtype, device=x.device))
                return -slopes[:, None, None] * distances().abs().to(x)
        return 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            sizes = [n * DIM for n in (self.queries, self.keys, self.keys)]
            q, k, v = self.qkv(x).split(sizes, -1)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = split(q, self.queries), split(k, self.keys), split(v, self.keys)
        if self.norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope:
            q, k = (rotate(t, self.rope == "interleaved") for t in (q, k))
        if self.style == "grouped sdpa":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.out(join(y))
        if self.keys != self.queries:
            k, v = (t.repeat_interleave(self.queries // self.keys, 1) for t in (k, v))
        match self.style:
            case "sdpa":
                y = F.scaled_dot_product_attention(q, k, v)
            case "causal sdpa":
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            case "einsum":
                scores = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
                return self.out(torch.einsum("bhqk,bhkd->bqhd", scores, v).flatten(2))
            case "masked":
                scores = q @ k.transpose(-2, -1)
                later = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=x.device).triu(1)
                y = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
            case "linear":  # kernel attention: no softmax, values summed first
                q, k = F.elu(q) + 1, F.elu(k) + 1
                total = k.sum(-2, keepdim=True)
                y = (q @ (k.transpose(-2, -1) @ v)) / (q * total).sum(-1, keepdim=True)
            case _:
                y = softmax_attention(q, k, v, self.bias_of_position(x))
        return self.out(join(y))


class ComplexRope(nn.Module):
    """Llama's first code: rotations as a complex buffer; and nanoGPT's mask as a bool one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * DIM) for _ in range(3))
        self.out = nn.Linear(HEADS * DIM, WIDTH)
        angle = torch.arange(LENGTH)[:, None] * 10.0 ** (-torch.arange(0, DIM, 2) / DIM)
        turns = torch.polar(torch.ones_like(angle), angle)
        self.register_buffer("turns", turns, persistent=False)
        self.register_buffer("earlier", torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())

    def turn(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self.turns).flatten(-2).to(x)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(layer(x), HEADS) for layer in (self.q, self.k, self.v))
        scores = self.turn(q) @ self.turn(k).transpose(-2, -1)
        return self.out(join(scores.masked_fill(~self.earlier, -1e9).softmax(-1) @ v))


class Compressed(nn.Module):
    """Multi-head latent attention: keys and values of all heads from one narrow projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.narrow = nn.Linear(WIDTH, HEADS * DIM), nn.Linear(WIDTH, 5)
        self.norm, self.wide = nn.RMSNorm(5), nn.Linear(5, 2 * HEADS * DIM)
        self.out = nn.Linear(HEADS * DIM, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        kv = split(self.wide(self.norm(self.narrow(x))), HEADS)
        return self.out(join(softmax_attention(split(self.q(x), HEADS), *kv.chunk(2, -1))))


class FusedByHead(nn.Module):
    """One projection whose rows are (3, head, dim) or, as GPT-NeoX has them, (head, 3, dim)."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * DIM)
        self.out = nn.Linear(HEADS * DIM, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "head first":
            q, k, v = self.qkv(x).view(*x.shape[:2], HEADS, 3 * DIM).transpose(1, 2).chunk(3, -1)
        else:
            qkv = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, DIM)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(join(softmax_attention(q, k, v)))


class Einsum(nn.Module):
    """Projections as 3-D parameters [width, head, dim] or [head, width, dim]."""

    def __init__(self, heads_first: bool) -> None:
        super().__init__()
        shape = (HEADS, WIDTH, DIM) if heads_first else (WIDTH, HEADS, DIM)
        self.q, self.k, self.v = (nn.Parameter(torch.zeros(shape)) for _ in range(3))
        self.q_bias = nn.Parameter(torch.zeros(HEADS, DIM))
        self.out = nn.Parameter(torch.zeros(HEADS, DIM, WIDTH))
        self.rule = "bnc,hcd->bhnd" if heads_first else "bnc,chd->bhnd"

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum(self.rule, x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("bhnd,bhmd->bhnm", q + self.q_bias[:, None], k)
        mixed = torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v)
        return torch.einsum("bhnd,hdc->bnc", mixed, self.out)


class ListOfHeads(nn.Module):
    """A module a head, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 3 * DIM) for _ in range(HEADS))
        self.out = nn.Linear(HEADS * DIM, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        each = [softmax_attention(*head(x).chunk(3, -1)) for head in self.heads]
        return self.out(torch.cat(each, -1))


def family(name: str, attention: Any, symmetry: Any, **more: Any) -> Family:
    """A family whose stream of 8 permutes beside what its attention allows."""
    return Family(
        name=name, build=lambda: Around(attention()), inputs=floats(2, LENGTH, 4),
        symmetry=perms(WIDTH) * symmetry, **more,
    )  # fmt: skip


plain = heads(HEADS, DIM)
FAMILIES = [
    family("sdpa", lambda: SelfAttention(style="sdpa"), plain),
    family("sdpa-causal", lambda: SelfAttention(style="causal sdpa", bias=False), plain),
    family("separate-projections", SelfAttention, plain),
    family("fused-qkv", lambda: SelfAttention(fused=True), plain),
    family("fused-qkv-three-first", lambda: FusedByHead("three first"), plain),
    family("fused-qkv-head-first", lambda: FusedByHead("head first"), plain),
    family("masked-scores", lambda: SelfAttention(style="masked"), plain),
    family("einsum-scores", lambda: SelfAttention(style="einsum"), plain),
    family("einsum-projections", lambda: Einsum(False), plain),
    family("einsum-projections-heads-first", lambda: Einsum(True), plain),
    family("linear-attention", lambda: SelfAttention(style="linear"), plain,
           why="an outer product of keys and values has a unit for each pair of dims"),
    family("list-of-heads", ListOfHeads, plain, least=perms(WIDTH) * plain / perms(HEADS),
           why="not found: whole modules change places, not places along an axis"),
    family("grouped-query", lambda: SelfAttention(6, 2), grouped_heads(2, 3, DIM, rope=False)),
    family("grouped-query-sdpa", lambda: SelfAttention(4, 2, style="grouped sdpa"),
           grouped_heads(2, 2, DIM, rope=False)),
    family("grouped-query-rope", lambda: SelfAttention(6, 2, rope="halves"),
           grouped_heads(2, 3, DIM, rope=True)),
    family("multi-query", lambda: SelfAttention(3, 1), grouped_heads(1, 3, DIM, rope=False)),
    family("rope-halves", lambda: SelfAttention(rope="halves"),
           grouped_heads(HEADS, 1, DIM, rope=True), why="q/k dims turn at rates of their own"),
    family("rope-interleaved", lambda: SelfAttention(fused=True, rope="interleaved"),
           grouped_heads(HEADS, 1, DIM, rope=True)),
    family("rope-complex", ComplexRope, grouped_heads(HEADS, 1, DIM, rope=True)),
    family("latent-attention", Compressed, perms(5) * plain, why="and the narrow projection"),
    family("relative-position-table", lambda: SelfAttention(position="table"), plain,
           why="a head takes its column of the table along"),
    family("relative-position-buckets", lambda: SelfAttention(position="buckets"), plain),
    family("relative-position-learned", lambda: SelfAttention(position="learned"), plain),
    family("alibi", lambda: SelfAttention(position="alibi"), perms(DIM) ** (2 * HEADS),
           why="each head has a slope of its own"),
    family("qk-norm", lambda: SelfAttention(norm=True),
           perms(HEADS) * perms(DIM) * perms(DIM) ** HEADS,
           why="one scale serves all heads, so their q/k dims move together"),
]  # fmt: skip
