"""Recurrent families: a unit owns a row in every gate, and a column in the recurrence."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Family, draw, floats, integers, perms


class Last(nn.Module):
    """A recurrent layer and a head that reads its last step."""

    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Steps(nn.Module):
    """A cell stepped by hand, from a start that is learned or zero."""

    def __init__(self, kind: str, learned: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.cell: nn.Module = getattr(nn, f"{kind}Cell")(4, 5)
        self.start = nn.Parameter(torch.zeros(1, 5)) if learned else None
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5) if self.start is None else self.start.expand(len(x), -1)
        c = torch.zeros_like(h)
        for step in x.unbind(1):
            if self.kind == "LSTM":
                h, c = self.cell(step, (h, c))
            else:
                h = self.cell(step, h)
        return self.head(h)


class Elman(nn.Module):
    """h <- tanh(W x + U h), written out; every step's answer is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.again, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 6).to(x)
        found = []
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(x[:, t]) + self.again(h))
            found.append(self.head(h))
        return torch.stack(found, 1)


class LanguageModel(nn.Module):
    """Embedding, LSTM, projection, and an output tied with the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(11, 6), nn.LSTM(6, 5, batch_first=True)
        self.project = nn.Linear(5, 6)
        self.out = nn.Linear(6, 11)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.project(self.cell(self.embed(x))[0]))


class Translate(nn.Module):
    """A GRU reads, its last state starts another that writes; additive attention between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.reader = nn.GRU(4, 5, batch_first=True)
        self.writer = nn.GRU(4, 5, batch_first=True)
        self.query, self.key = nn.Linear(5, 7, bias=False), nn.Linear(5, 7)
        self.score, self.head = nn.Linear(7, 1), nn.Linear(10, 9)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.reader(self.embed(source))
        state, _ = self.writer(self.embed(target), last)
        pairs = torch.tanh(self.query(state)[:, :, None] + self.key(memory)[:, None])
        context = self.score(pairs).squeeze(-1).softmax(-1) @ memory
        return self.head(torch.cat([state, context], -1))


class Selective(nn.Module):
    """A Mamba block: depthwise convolution, a selective scan over states, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.inner, self.states, self.rank = 4, 6, 3, 2
        self.embed, self.norm = nn.Linear(2, self.width), nn.RMSNorm(self.width)
        self.expand = nn.Linear(self.width, 2 * self.inner, bias=False)
        self.conv = nn.Conv1d(self.inner, self.inner, 3, padding=2, groups=self.inner)
        self.select = nn.Linear(self.inner, self.rank + 2 * self.states, bias=False)
        self.step = nn.Linear(self.rank, self.inner)
        self.decay = nn.Parameter(torch.zeros(self.inner, self.states))
        self.skip = nn.Parameter(torch.zeros(self.inner))
        self.reduce, self.head = nn.Linear(self.inner, self.width), nn.Linear(self.width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        inner, gate = self.expand(self.norm(x)).chunk(2, -1)
        inner = F.silu(self.conv(inner.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, write, read = self.select(inner).split([self.rank, self.states, self.states], -1)
        step = F.softplus(self.step(step))
        rate = -self.decay.exp()
        state = inner.new_zeros(len(x), self.inner, self.states)
        found = []
        for t in range(x.shape[1]):
            kept = (step[:, t, :, None] * rate).exp()
            state = kept * state + (step[:, t] * inner[:, t])[..., None] * write[:, t, None]
            found.append((state * read[:, t, None]).sum(-1))
        y = torch.stack(found, 1) + inner * self.skip
        return self.head((x + self.reduce(y * F.silu(gate))).mean(1))


SERIES = floats(2, 4, 4)
WHOLE = ("rnn", "lstm", "gru", "sequence-to-sequence")  # run by torch's own loops

FAMILIES = [
    Family(name="rnn", build=lambda: Last(nn.RNN(4, 5, 2, batch_first=True), 5), inputs=SERIES,
           symmetry=perms(5, 5)),
    Family(name="rnn-relu-no-bias",
           build=lambda: Last(nn.RNN(4, 5, nonlinearity="relu", bias=False, batch_first=True), 5),
           inputs=SERIES, symmetry=perms(5)),
    Family(name="lstm", build=lambda: Last(nn.LSTM(4, 5, batch_first=True), 5), inputs=SERIES,
           symmetry=perms(5)),
    Family(name="lstm-two-layers",
           build=lambda: Last(nn.LSTM(4, 5, 2, batch_first=True, dropout=0.1), 5), inputs=SERIES,
           symmetry=perms(5, 5)),
    Family(name="lstm-bidirectional",
           build=lambda: Last(nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), 10),
           inputs=SERIES, symmetry=perms(5) ** 4, why="a layer and direction has its own units"),
    Family(name="lstm-projected",
           build=lambda: Last(nn.LSTM(4, 5, 2, batch_first=True, proj_size=3), 3), inputs=SERIES,
           symmetry=perms(5, 3) ** 2, why="cells, and what is projected from them and fed back"),
    Family(name="gru", build=lambda: Last(nn.GRU(4, 5, batch_first=True), 5), inputs=SERIES,
           symmetry=perms(5)),
    Family(name="gru-bidirectional",
           build=lambda: Last(nn.GRU(4, 5, 2, batch_first=True, bidirectional=True), 10),
           inputs=SERIES, symmetry=perms(5) ** 4),
    Family(name="lstm-cell", build=lambda: Steps("LSTM"), inputs=SERIES, symmetry=perms(5)),
    Family(name="gru-cell", build=lambda: Steps("GRU"), inputs=SERIES, symmetry=perms(5)),
    Family(name="rnn-cell-learned-start", build=lambda: Steps("RNN", learned=True),
           inputs=SERIES, symmetry=perms(5)),
    Family(name="elman-written-out", build=Elman, inputs=SERIES, symmetry=perms(6)),
    Family(name="lstm-language-model", build=lambda: LanguageModel(False),
           inputs=integers(11, 2, 4), symmetry=perms(6, 5, 6)),
    Family(name="lstm-language-model-tied", build=lambda: LanguageModel(True),
           inputs=integers(11, 2, 4), symmetry=perms(6, 5),
           why="the embedding's columns are the output's too, and so the projection's rows"),
    Family(name="sequence-to-sequence", build=Translate,
           inputs=lambda dtype: (integers(9, 2, 4)(dtype), integers(9, 2, 3)(dtype)),
           symmetry=perms(4, 5, 7),
           why="the reader's last state starts the writer, which ties their units"),
    Family(name="mamba", build=Selective,
           inputs=lambda dtype: draw(2, 4, 2, dtype=dtype), symmetry=perms(4, 6, 3, 2),
           least=perms(4, 2),
           why="stream, channels, states of the scan, rank of the step size; channels and states "
           "are not found, as the scan runs over pairs of both"),
]  # fmt: skip

# On the CPU torch multiplies a whole sequence with the input weights at once, elsewhere step by
# step: the units and blocks are the same, the operations are not.
STEPWISE = "torch runs nn.RNN, nn.LSTM and nn.GRU in another order off the CPU"
FAMILIES = [
    replace(f, no_meta=STEPWISE) if f.name.startswith(WHOLE) and "cell" not in f.name else f
    for f in FAMILIES
]
