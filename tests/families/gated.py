"""Gated layers and mixtures: units that come in pairs, experts that change places whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Family, draw, experts, floats, perms
from .normalisation import within

WIDTH, HIDDEN, EXPERTS = 6, 5, 4


class Stream(nn.Module):
    """A residual stream of 6 around a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, WIDTH), nn.RMSNorm(WIDTH)
        self.layer, self.head = layer, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.layer(self.norm(x)))


class Gated(nn.Module):
    """SwiGLU and GEGLU, with separate or fused projections."""

    def __init__(self, activation: str, fused: str = "") -> None:
        super().__init__()
        self.activation, self.fused = getattr(F, activation), fused
        if fused:
            self.gate_up = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
        else:
            self.gate, self.up = nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        match self.fused:
            case "halves":
                gate, up = self.gate_up(x).chunk(2, -1)
            case "interleaved":
                gate, up = self.gate_up(x)[..., ::2], self.gate_up(x)[..., 1::2]
            case _:
                gate, up = self.gate(x), self.up(x)
        return self.down(self.activation(gate) * up)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.change = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return gate * self.change(x).relu() + (1 - gate) * x


def expert() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))


class Soft(nn.Module):
    """All experts, weighted by a softmax; a module each."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(expert() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gate(x).softmax(-1)
        answers = torch.stack([e(x) for e in self.experts], dim=-1)
        return (answers * weight.unsqueeze(-2)).sum(-1)


class Stacked(nn.Module):
    """All experts, weighted by a softmax; their weights stacked in 3-D parameters."""

    def __init__(self, product: str) -> None:
        super().__init__()
        self.product, self.gate = product, nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.zeros(EXPERTS, WIDTH, HIDDEN))
        self.bias = nn.Parameter(torch.zeros(EXPERTS, 1, HIDDEN))
        self.down = nn.Parameter(torch.zeros(EXPERTS, HIDDEN, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gate(x).softmax(-1)
        if self.product == "einsum":
            hidden = torch.einsum("nc,ech->enh", x, self.up) + self.bias
            answers = torch.einsum("enh,ehc->enc", F.gelu(hidden), self.down)
            return torch.einsum("ne,enc->nc", weight, answers)
        hidden = torch.bmm(x.expand(EXPERTS, -1, -1), self.up) + self.bias
        answers = torch.bmm(F.gelu(hidden), self.down)
        return (weight.T.unsqueeze(-1) * answers).sum(0)


class Hard(nn.Module):
    """The best experts of each row, in a Python loop; optionally one that all rows share."""

    def __init__(self, top: int, shared: bool = False) -> None:
        super().__init__()
        self.top, self.gate = top, nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(expert() for _ in range(EXPERTS))
        self.shared = expert() if shared else None

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(-1).topk(self.top, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        result = torch.zeros_like(x) if self.shared is None else self.shared(x)
        for number, one in enumerate(self.experts):
            row, rank = torch.where(chosen == number)
            if len(row):
                result.index_add_(0, row, one(x[row]) * weight[row, rank, None])
        return result


class HardStacked(nn.Module):
    """The best two experts of each row, gathered from 3-D parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.zeros(EXPERTS, 2 * HIDDEN, WIDTH))
        self.down = nn.Parameter(torch.zeros(EXPERTS, WIDTH, HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).topk(2, -1)
        gate, up = torch.einsum("nkhc,nc->nkh", self.up[chosen], x).chunk(2, -1)
        answers = torch.einsum("nkch,nkh->nkc", self.down[chosen], F.silu(gate) * up)
        return (answers * weight.softmax(-1).unsqueeze(-1)).sum(1)


class Mixer(nn.Module):
    """MLP-Mixer: one MLP over positions, one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH)
        self.places = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
        self.channels, self.head = expert(), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.places(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x))[:, 1:].mean(1))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 6)
        self.both, self.head = nn.Bilinear(5, 6, 7), nn.Linear(7, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.both(self.left(left).tanh(), self.right(right).tanh())))


ROWS = floats(16, 4)  # enough that a hard gate meets every expert
stream, mixture = perms(WIDTH), experts(EXPERTS, HIDDEN)
MODULES = "not found: whole modules change places, with the gate's rows"


def family(name: str, layer, symmetry, **more) -> Family:
    return Family(
        name=name,
        build=lambda: Stream(layer()),
        symmetry=stream * symmetry,
        **{"inputs": ROWS, **more},
    )


FAMILIES = [
    family("swiglu", lambda: Gated("silu"), perms(HIDDEN)),
    family("geglu", lambda: Gated("gelu"), perms(HIDDEN)),
    family("swiglu-fused", lambda: Gated("silu", "halves"), perms(HIDDEN),
           why="a unit owns a row in each half"),
    family("geglu-interleaved", lambda: Gated("gelu", "interleaved"), perms(HIDDEN)),
    Family(name="glu", build=lambda: within(nn.GLU(), width=4), inputs=ROWS, symmetry=perms(4)),
    family("highway", Highway, perms()),
    family("moe-soft", Soft, mixture, least=stream * mixture / perms(EXPERTS), why=MODULES),
    family("moe-soft-einsum", lambda: Stacked("einsum"), mixture),
    family("moe-soft-bmm", lambda: Stacked("bmm"), mixture),
    family("moe-top-2", lambda: Hard(2), mixture, no_meta="the loop reads values",
           least=stream * mixture / perms(EXPERTS), why=MODULES),
    family("moe-top-2-shared", lambda: Hard(2, shared=True), mixture * perms(HIDDEN),
           inputs=floats(40, 4),  # so that some rows choose each expert
           no_meta="the loop reads values", least=stream * mixture * perms(HIDDEN) / perms(EXPERTS),
           why=MODULES),
    family("moe-top-2-gathered", HardStacked, mixture),
    Family(name="mlp-mixer", build=Mixer, inputs=floats(2, 5, 4),
           symmetry=perms(WIDTH, 7, HIDDEN)),
    Family(name="bilinear", build=Bilinear,
           inputs=lambda dtype: (draw(3, 4, dtype=dtype), draw(3, 3, dtype=dtype, seed=2)),
           symmetry=perms(5, 6, 7), least=perms(), opaque=("both.weight", "both.bias"),
           why="not found: a table of three axes of units"),
]  # fmt: skip
