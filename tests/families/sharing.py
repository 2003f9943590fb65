"""Sharing, several inputs and outputs, buffers and types of all kinds, control flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Family, draw, floats, integers, perms


class Recurring(nn.Module):
    """One layer applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.again, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).tanh()
        for _ in range(3):
            x = self.again(x).tanh()
        return self.head(x)


class TwoNames(nn.Module):
    """One module under two names, once on each of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(5, 3)
        self.first = self.second = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(self.left(x).relu()) * self.second(self.right(x).relu()))


class Siamese(nn.Module):
    """One encoder reads both inputs; their answers are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5))
        self.head = nn.Linear(5, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.encoder(left), self.encoder(right)
        return self.head((a - b).abs()), F.cosine_similarity(a, b)


class TiedEmbedding(nn.Module):
    """An embedding that is also the output, and a transposed tie inside."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.down = nn.Embedding(9, 6), nn.Linear(6, 4)
        self.up_bias = nn.Parameter(torch.zeros(6))
        self.out = nn.Linear(6, 9, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.table(x)).relu()
        return self.out(F.linear(y, self.down.weight.T, self.up_bias))


class Unused(nn.Module):
    """A parameter, a layer and a statistic that the forward never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)
        self.spare, self.layer = nn.Parameter(torch.zeros(5)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).relu())


class Cumulative(nn.Module):
    """One weight, read through sums that no reordering survives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.cumsum(0).cumsum(1))


class Several(nn.Module):
    """An image, a row and tokens in; a dictionary, nested, out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.row, self.token = nn.Conv2d(3, 6, 3), nn.Linear(4, 6), nn.Embedding(9, 5)
        self.mix, self.label, self.box = nn.Linear(11, 7), nn.Linear(7, 4), nn.Linear(7, 2)

    def forward(self, image: Tensor, *, row: Tensor, token: Tensor) -> dict[str, object]:
        seen = self.image(image).relu().amax((2, 3)) + self.row(row)
        x = self.mix(torch.cat([seen, self.token(token).mean(1)], -1)).relu()
        return {"label": self.label(x), "boxes": [self.box(x), (self.box(x).exp(),)]}


class Buffers(nn.Module):
    """Buffers of many types: they ride along, those that meet units of one kind only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False, True, True, True]))
        self.register_buffer("order", torch.tensor([4, 0, 3, 1, 2], dtype=torch.int32))
        self.register_buffer("levels", torch.arange(4, dtype=torch.uint8))
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, self.order.long()].masked_fill(~self.mask, 0.0)
        return self.outer(torch.tanh(self.inner(x))) * self.scale.to(x)


class Masked(nn.Module):
    """A buffer that switches hidden units off: it stays, so they stay."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("kept", torch.tensor([True, True, False, True, False, True]))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).tanh() * self.kept)


class Branching(nn.Module):
    """A path chosen by values, an early exit, and a list of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.layers = nn.ParameterList(torch.zeros(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x).tanh()
        for weight in self.layers:
            x = x + (x @ weight).tanh()
            if float(x.square().sum()) < 0:
                break
        if bool((x.mean(-1) > -9).all()):
            x = x * 2
        return self.head(x)


class Sets(nn.Module):
    """Deep sets: members are summed, a bag of tokens beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6))
        self.bag = nn.EmbeddingBag(9, 6, mode="mean")
        self.outside = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, members: Tensor, tokens: Tensor) -> Tensor:
        return self.outside(self.inside(members).sum(1) + self.bag(tokens))


def narrow(dtype: torch.dtype) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6)]
    return nn.Sequential(*layers, nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)


class Mixed(nn.Module):
    """Tensors of three types in one state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 5, dtype=torch.float64)
        self.third = nn.Linear(5, 3, dtype=torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = layer(x.to(layer.weight.dtype)).tanh()
        return self.third(x.to(self.third.weight.dtype))


VALUES = "the forward reads a buffer's values"
ROWS, IMAGE = floats(3, 4), floats(2, 3, 4, 4)
FAMILIES = [
    Family(name="mlp", build=lambda: nn.Sequential(
               nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
           inputs=ROWS, symmetry=perms(8, 6)),
    Family(name="mlp-one-hidden-unit",
           build=lambda: nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3)), inputs=ROWS,
           symmetry=perms(), why="one unit has one order"),
    Family(name="shared-layer", build=Recurring, inputs=ROWS, symmetry=perms(6)),
    Family(name="shared-module-two-names", build=TwoNames, inputs=ROWS, symmetry=perms(6, 5),
           why="both branches are read by the same columns"),
    Family(name="siamese", build=Siamese,
           inputs=lambda dtype: (draw(3, 4, dtype=dtype), draw(3, 4, dtype=dtype, seed=2)),
           symmetry=perms(7, 5)),
    Family(name="tied-embedding", build=TiedEmbedding, inputs=integers(9, 2, 3),
           symmetry=perms(6, 4), why="rows of a vocabulary stay; columns are tied to both ends"),
    Family(name="unused-parameters", build=Unused, inputs=ROWS, symmetry=perms(6),
           opaque=("spare", "layer.weight", "layer.bias")),
    Family(name="nothing-to-place", build=Cumulative, inputs=ROWS, symmetry=perms(),
           opaque=("weight",)),
    Family(name="several-inputs-and-outputs", build=Several,
           inputs=lambda dtype: {
               "image": draw(2, 3, 4, 4, dtype=dtype), "row": draw(2, 4, dtype=dtype),
               "token": integers(9, 2, 3)(dtype)},
           symmetry=perms(6, 5, 7)),
    Family(name="buffers-of-all-types", build=Buffers, inputs=floats(3, 5), symmetry=perms(6),
           no_meta=VALUES),
    Family(name="masked-by-a-buffer", build=Masked, inputs=ROWS, symmetry=perms(4, 2),
           least=perms(), no_meta=VALUES, why="another checkpoint may bring another mask"),
    Family(name="control-flow", build=Branching, inputs=ROWS, symmetry=perms(6),
           no_meta="the path depends on values"),
    Family(name="deep-sets", build=Sets,
           inputs=lambda dtype: (draw(2, 5, 4, dtype=dtype), integers(9, 2, 3)(dtype)),
           symmetry=perms(7, 6, 5)),
    Family(name="bfloat16", build=lambda: narrow(torch.bfloat16), inputs=IMAGE,
           dtype=torch.bfloat16, symmetry=perms(8, 6)),
    Family(name="float16", build=lambda: narrow(torch.float16), inputs=IMAGE,
           dtype=torch.float16, symmetry=perms(8, 6)),
    Family(name="mixed-types", build=Mixed, inputs=ROWS, symmetry=perms(6, 5)),
]  # fmt: skip
