"""What a run said of the expert that was chosen, said of all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .labels import Ledger


def settle_routes(ledger: Ledger) -> None:
    """Say of every expert what was said of the first; freeze units that chose otherwise."""
    routed = torch.cat([torch.empty(0, dtype=torch.int64), *ledger.routed])
    choosers, ledger.choosers = ledger.choosers, []
    for atoms in choosers:
        rest = atoms[(atoms >= 0) & ~torch.isin(atoms, routed)]
        if len(rest):
            ledger.frozen.append(rest)
    by_size: dict[int, list[Tensor]] = {}
    for some in ledger.slices:
        by_size.setdefault(some.shape[1], []).append(some)
    for parts in by_size.values():
        table = torch.unique(torch.cat(parts), dim=0)
        row = torch.full((ledger.num_atoms,), -1)
        row[table[:, 0]] = torch.arange(len(table))

        def spread(atoms: Tensor, row: Tensor = row, table: Tensor = table) -> Tensor:
            own = row[atoms]
            return torch.where(own.unsqueeze(-1) >= 0, table[own.clamp(min=0)], atoms.unsqueeze(-1))

        for pairs in (ledger.ties, ledger.links):
            for i, some in enumerate(pairs):
                if bool((row[some] >= 0).any()):
                    pairs[i] = torch.unique(spread(some).reshape(2, -1), dim=1)
        for i, some in enumerate(ledger.frozen):
            ledger.frozen[i] = torch.unique(spread(some))
        for i, (some, values) in enumerate(ledger.colours):
            wide = spread(some)
            told, values = torch.unique(
                torch.stack([wide, values.unsqueeze(-1).expand(wide.shape)]).reshape(2, -1),
                dim=1,
            )
            ledger.colours[i] = (told, values)
    ledger.links += ledger.routes
    ledger.routes, ledger.slices = [], []
