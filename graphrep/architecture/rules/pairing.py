"""Products of two activations: queries with keys, attention with values."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labels import NONE, Ledger, index_of, varying_dims
from .call import Call


def product_of_activations(call: Call, a: Tensor, b: Tensor) -> None:
    """a [..., n, k] @ b [..., k, m]: what is contracted is tied, pair by pair of the batch.

    Where the batch index runs over heads, each pair of rows has a larger unit in common, the
    head, and the product carries it. Keys that several queries share (grouped queries) stay
    one: each query's dims then go with their head and with the key's dims.
    """
    ledger = call.ledger
    if call.tracked(a) is None or call.tracked(b) is None:
        labelled = a if call.tracked(b) is None else b
        ledger.freeze(call.labels(labelled), "it is multiplied with a constant matrix")
        return call.give_none()
    la, lb = call.labels(a), call.labels(b)
    va, vb = varying_dims(la), varying_dims(lb)
    n, k_a, k_b, m = la.dim() - 2, la.dim() - 1, lb.dim() - 2, lb.dim() - 1
    batch = call.out.shape[:-2]
    if k_a not in va and {k_b, m} <= vb:  # places whose units have not met yet, such as a token
        lb = ledger.tie_along(lb, {k_b}).expand(lb.shape)
    if k_b not in vb and {k_a, n} <= va:
        la = ledger.tie_along(la, {k_a}).expand(la.shape)
    va, vb = varying_dims(la), varying_dims(lb)
    if k_a in va or k_b in vb or la.shape[-1] == 1:
        if weigh_columns(call, la, lb):
            return
        left = _rows(ledger.tie_along(la, {n}).select(n, 0), batch)
        right = _rows(ledger.tie_along(lb, {m}).select(m, 0), batch)
        found = contract_pairs(ledger, left, right)
    elif n in va and m in vb:
        return pair_units(call, la, lb)
    elif n in va:
        found = mix_rows(
            ledger, _rows(lb.select(m, 0)[..., :1], batch), _rows(la.select(k_a, 0), batch)
        )
        call.record([la, lb], [found])
        return call.give(
            found.view(*batch, -1, 1) if found.shape[1] > 1 else found.view(*batch, 1, 1)
        )
    else:
        found = mix_rows(
            ledger, _rows(la.select(n, 0)[..., :1], batch), _rows(lb.select(k_b, 0), batch)
        )
    call.record([la, lb], [found])
    call.give(found.view(*batch, 1, -1))


def weigh_columns(call: Call, la: Tensor, lb: Tensor) -> bool:
    """Units weighted by others and summed, column by column: gates of experts over their answers.

    Rows a [k], columns b [k, m] of units of their own, for each pair of the batch; what the
    units of a column have in common is the label of its sum.
    """
    ledger, n, m = call.ledger, la.dim() - 2, lb.dim() - 1
    batch = call.out.shape[:-2]
    for rows, columns, turned in ((la, lb, False), (lb.mT, la.mT, True)):
        both_vary = {m - 1, m} <= varying_dims(columns)
        if n in varying_dims(rows) or not both_vary:
            continue
        weights = _rows(rows.select(n, 0), batch)
        flat = columns.expand(*batch, *columns.shape[-2:]).reshape(-1, *columns.shape[-2:])
        own_units = bool((flat >= 0).all()) and ledger.are_siblings(flat)
        if not own_units or not bool((weights >= 0).all()):
            continue
        ledger.link(flat, weights.unsqueeze(-1).expand(flat.shape))
        sums = ledger.hub(flat.mT.reshape(-1, flat.shape[1]), "sums").view(*batch, 1, -1)
        call.record([la, lb], [sums])
        call.give(sums.mT if turned else sums)
        return True
    return False


def pair_units(call: Call, la: Tensor, lb: Tensor) -> None:
    """An outer product has a unit for each pair of units: keys times values, summed over places."""
    ledger, batch = call.ledger, call.out.shape[:-2]
    left, right = _rows(la.select(-1, 0), batch), _rows(lb.select(-2, 0), batch)
    kept, number = torch.unique(torch.cat([left, right], 1), dim=0, return_inverse=True)
    left, right = kept.split([left.shape[1], right.shape[1]], 1)
    real = bool((kept >= 0).all()) and not bool(ledger.is_input(kept).any())
    if not real or len(kept) * left.shape[1] * right.shape[1] > 4_000_000:
        ledger.freeze(la, "an outer product of units", True)
        ledger.freeze(lb, "an outer product of units", True)
        return call.give_none()
    pairs = ledger.pairs(left, right)[number]
    call.record([la, lb], [pairs])
    call.give(pairs.view(*batch, *pairs.shape[1:]))


def _rows(labels: Tensor, batch: torch.Size) -> Tensor:
    """[..., k] -> [pairs, k] over the whole batch."""
    return labels.expand(*batch, labels.shape[-1]).reshape(-1, labels.shape[-1])


def contract_pairs(ledger: Ledger, left: Tensor, right: Tensor) -> Tensor:
    """Contract rows [pairs, k] with rows [pairs, k]; what each pair has in common, [pairs, 1]."""
    if not bool((left >= 0).any()) or not bool((right >= 0).any()):
        ledger.tie(left, right)  # freezes what meets values without labels
        return torch.full((len(left), 1), NONE)
    of_left, of_right, of_pair = _distinct(left, right)
    num_left, num_right, num = (int(x.max()) + 1 for x in (of_left, of_right, of_pair))
    if num == num_left == num_right:
        ledger.tie(left, right)
        return ledger.hub(left, "heads").unsqueeze(1)
    for one, other in ((left, right), (right, left)):
        ledger.freeze(torch.where(other == NONE, one, NONE), "it meets values without units")
    if num == num_left:
        ledger.link(left, right)
        return _pair_heads(ledger, left, right).unsqueeze(1)
    if num == num_right:
        ledger.link(right, left)
        return _pair_heads(ledger, right, left).unsqueeze(1)
    ledger.tie(left, right)
    pairs = index_of(torch.Size([len(left), 1])).expand(left.shape)
    ledger.colour(left, pairs)
    ledger.colour(right, pairs)
    return torch.full((len(left), 1), NONE)


def _pair_heads(ledger: Ledger, fine: Tensor, shared: Tensor) -> Tensor:
    heads = ledger.hub(fine, "heads")
    ledger.link(heads, ledger.hub(shared, "shared_heads"))
    return heads


def mix_rows(ledger: Ledger, weights: Tensor, values: Tensor) -> Tensor:
    """Values [pairs, m] mixed by weights that carry one label a pair, [pairs, 1] -> [pairs, m]."""
    if not bool((values >= 0).any()):
        return weights.expand(values.shape)
    untold = weights == NONE
    if bool(untold.any()):
        pairs = index_of(torch.Size([len(values), 1]))
        of_values = torch.unique(values, dim=0, return_inverse=True)[1]
        if int(of_values.max()) > 0:
            ledger.colour(values, torch.where(untold, pairs, -1).expand(values.shape))
        if bool(untold.all()):
            return values
    of_weights, of_values, of_pair = _distinct(weights, values)
    num_weights, num_values, num = (int(x.max()) + 1 for x in (of_weights, of_values, of_pair))
    if num == 1:
        return values
    if num == num_values:
        ledger.link(values, weights.expand(values.shape))
        if num > num_weights:
            ledger.link(ledger.hub(values, "rows"), weights.squeeze(1))
        return values
    if num == num_weights:  # values that several heads share: a copy for each
        atoms = ledger.new_atoms(num * values.shape[1]).view(num, -1)
        copies = torch.where(values >= 0, atoms[of_pair], values)
        ledger.link(copies, weights.expand(values.shape))
        ledger.link(copies, values)
        ledger.link(weights.squeeze(1), ledger.hub(values, "shared_heads"))
        return copies
    ledger.freeze(values, "rows of it meet weights of several kinds")
    ledger.freeze(weights, "it weighs rows of several kinds")
    return values


def _distinct(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the distinct left rows, right rows and pairs of both."""
    of_left = torch.unique(left, dim=0, return_inverse=True)[1]
    of_right = torch.unique(right, dim=0, return_inverse=True)[1]
    both = torch.unique(torch.stack([of_left, of_right], 1), dim=0, return_inverse=True)[1]
    return of_left, of_right, both
