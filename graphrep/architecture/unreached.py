"""What the example did not reach: slices of a stack, columns that met nothing but zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from .labels import Ledger
from .remarks import Remark


def settle_unreached(ledger: Ledger) -> None:
    """Slices that were not read are taken to be like those that were; idle units keep places."""
    reached = torch.zeros(ledger.num_atoms, dtype=torch.bool)
    for pairs in (*ledger.ties, *ledger.links):
        reached[pairs.reshape(-1)] = True
    for (tensor, axes), atoms in list(ledger.axes.items()):
        if len(axes) > 1:
            sizes = [len(ledger.axes[tensor, (a,)]) for a in axes]
            _like_the_first(ledger, atoms.reshape(sizes), reached)
    for atoms in ledger.idle:
        rest = atoms[~reached[atoms]]
        if len(rest):
            ledger.frozen.append(rest)
            why = "it met nothing but zeros; a longer example may show more"
            ledger.remarks.append(Remark(rest, "", "", why))


def _like_the_first(ledger: Ledger, atoms: Tensor, reached: Tensor) -> None:
    read = reached[atoms].flatten(1).any(1)
    if bool(read.all()) or not bool(read.any()):
        return
    first = atoms[read][:1]
    ledger.tie(atoms[~read], first.expand(atoms[~read].shape))
