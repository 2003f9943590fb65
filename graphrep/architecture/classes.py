"""From atoms to units: what is tied together, what may be exchanged, what sits within what.

Units are the connected components of the ties. Units that meet the same axes and colours form
a cell; cells are refined until the members of one cell have the same number of links to each
other cell (colour refinement, Weisfeiler and Leman 1968). Links between cells then say which
units sit within which. Knows the ledger of a run; knows no operation and no shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .labels import Ledger, distinct_pairs, scatter_bits


@dataclass
class Classes:
    """Units by number, in order of their first atoms within each cell."""

    of_atom: Tensor  # [num_atoms]
    num: int
    frozen: Tensor  # bool [num]
    told_apart: Tensor  # bool [num]: alone in their cell by what they meet or sit within
    base: Tensor  # [num]: equal for units that meet the same axes
    cell: Tensor  # [num]: equal for units that may be exchanged
    first: Tensor  # [num]: their first atoms
    slot_key: Tensor  # [num_atoms]: orders the places of one unit alike in all units of its cell
    parents: dict[int, list[Tensor]]  # by cell: [2, size] of unit and parent unit, sorted by unit


def classify(ledger: Ledger, axes: Mapping[tuple[str, tuple[int, ...]], Tensor]) -> Classes:
    """The units of a run, from its ties, links, colours and the axes that its units lie along."""
    ties = [*ledger.ties, _in_common(ledger)]
    of_atom, num = _components(ledger.num_atoms, _joined(ties))
    own = _atom_colours(ledger)
    atom_links = _joined(ledger.links)
    slot_key: Tensor | None = None
    more_frozen: list[Tensor] = []  # atoms
    while True:
        frozen = _marked(num, of_atom, [*ledger.frozen, *more_frozen])
        base = _axes_met(axes, of_atom, num)
        links = _class_links(atom_links, of_atom)
        same = _same_children(links)
        if same.shape[1]:
            of_atom, num = _merge(of_atom, num, same)
            continue
        cell = _refine(base + _colours_met(ledger, own, of_atom, num), frozen, links)
        if slot_key is None:
            slot_key = _slot_keys(cell[of_atom], own)
        found = _relations(cell, links, _torn(axes, ledger.products, atom_links, of_atom, cell))
        if found.ties.shape[1]:
            of_atom, num = _merge(of_atom, num, found.ties)
        elif len(found.irregular):
            first = _first_atoms(of_atom, num)
            more_frozen.append(first[torch.isin(cell, found.irregular)])
        elif found.links.shape[1]:
            first = _first_atoms(of_atom, num)
            atom_links = torch.cat([atom_links, first[found.links]], 1)
        else:
            break
    sizes, base_sizes = _sizes(cell), _sizes(base)
    told_apart = (sizes == 1) & (base_sizes > 1) & ~frozen
    return Classes(
        of_atom,
        num,
        frozen,
        told_apart,
        base,
        cell,
        _first_atoms(of_atom, num),
        slot_key,
        found.parents,
    )


@dataclass
class _Relations:
    ties: Tensor  # [2, k] units that always move together
    links: Tensor  # [2, k] units of which one follows from the other
    irregular: Tensor  # cells with relations that no family of orders expresses
    parents: dict[int, list[Tensor]]


def _in_common(ledger: Ledger) -> Tensor:
    """Larger units of which each atom of one belongs to one of the other: pairs [2, k] to tie.

    Asked of single atoms, before ties make them slots of one unit.
    """
    child, parent = _joined(ledger.links)
    order = torch.argsort(child, stable=True)
    child, parent = child[order], parent[order]
    made = torch.searchsorted(torch.tensor(ledger.starts), parent, right=True)
    found = [torch.empty(2, 0, dtype=torch.int64)]
    for shift in range(1, 4):
        same = child[shift:] == child[:-shift]
        one, other = parent[:-shift][same], parent[shift:][same]
        kinds = made[:-shift][same] * (len(ledger.starts) + 2) + made[shift:][same]
        for kind in torch.unique(kinds).tolist():
            pairs = distinct_pairs(one[kinds == kind], other[kinds == kind])
            sizes = {len(torch.unique(line)) for line in pairs}
            if sizes == {pairs.shape[1]} and pairs.shape[1] > 1:
                found.append(pairs)
    return _joined(found)


def _torn(
    axes: Mapping[tuple[str, tuple[int, ...]], Tensor],
    products: list[Tensor],
    links: Tensor,
    of_atom: Tensor,
    cell: Tensor,
) -> Tensor:
    """Cells of larger units that single places of one unit belong to.

    No order of that unit says how its places follow them. Joint axes are told apart by
    what they are merged with.
    """
    owner = torch.full((len(of_atom),), -1)
    for number, ((_, joint), atoms) in enumerate(axes.items()):
        if len(joint) == 1:
            owner[atoms.reshape(-1)] = number
    for number, atoms in enumerate(products, len(axes)):
        owner[atoms.reshape(-1)] = number
    links = links[:, owner[links[0]] >= 0]
    if not links.shape[1]:
        return torch.empty(0, dtype=torch.int64)
    child, parent = of_atom[links]
    place = child * (int(owner.max()) + 1) + owner[links[0]]
    _, place = torch.unique(place[child != parent], return_inverse=True)
    place, parent = distinct_pairs(place, parent[child != parent])
    base = int(cell.max()) + 1
    code, counts = torch.unique(place * base + cell[parent], return_counts=True)
    return (code[counts > 1] % base).unique()


def _relations(cell: Tensor, links: Tensor, torn: Tensor) -> _Relations:
    """What links between cells come down to: one and the same, within, or nothing."""
    none = torch.empty(2, 0, dtype=torch.int64)
    size = torch.bincount(cell)
    ties, new_links = [none], [none]
    irregular = [c for c in torn.tolist() if int(size[c]) > 1]
    parents: dict[int, list[Tensor]] = {}
    known: set[tuple[int, int]] = set()
    links = links[:, (size[cell[links]] > 1).all(0)]
    pair_of = cell[links]
    num = len(size)
    code, number = torch.unique(pair_of[0] * num + pair_of[1], return_inverse=True)
    pairs = torch.stack([code // num, code % num])
    by_pair = torch.argsort(number, stable=True)
    counts = torch.bincount(number, minlength=pairs.shape[1]).tolist()
    for (child, parent), own in zip(pairs.T.tolist(), by_pair.split(counts), strict=True):
        here = links[:, own]
        children, above = int(size[child]), int(size[parent])
        if len(own) == children == above:
            ties.append(here)
        elif len(own) == children:
            known.add((child, parent))
            parents.setdefault(child, []).append(here[:, torch.argsort(here[0])])
        elif len(own) != children * above:
            irregular += [child, parent]
    for child, found in parents.items():
        for i, one in enumerate(found):
            for other in found[i + 1 :]:
                a, b = int(cell[one[1, 0]]), int(cell[other[1, 0]])
                both = distinct_pairs(one[1], other[1])
                if both.shape[1] == size[a] == size[b]:
                    ties.append(both)
                elif both.shape[1] == size[a] and (a, b) not in known:
                    new_links.append(both)
                elif both.shape[1] == size[b] and (b, a) not in known:
                    new_links.append(both.flip(0))
        parents[child] = _nearest(found, parents, cell)
    return _Relations(torch.cat(ties, 1), torch.cat(new_links, 1), torch.tensor(irregular), parents)


def _nearest(
    found: list[Tensor], parents: Mapping[int, list[Tensor]], cell: Tensor
) -> list[Tensor]:
    """Parents that are not themselves above another parent; the finest first."""
    cells = [int(cell[p[1, 0]]) for p in found]
    over = {int(cell[q[1, 0]]) for c in cells for q in parents.get(c, [])}
    kept = [p for p, c in zip(found, cells, strict=True) if c not in over]
    return sorted(kept, key=lambda p: (-len(torch.unique(p[1])), int(p[1].min())))


def _same_children(links: Tensor) -> Tensor:
    """Larger units with exactly the same members are one: pairs [2, k] to tie."""
    if not links.shape[1]:
        return links
    hubs, number = torch.unique(links[1], return_inverse=True)
    digest = torch.zeros_like(hubs).index_add_(0, number, scatter_bits(links[0]))
    _, group = torch.unique(digest, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), int(hubs.max()) + 1)
    first.scatter_reduce_(0, group, hubs, "amin")
    pairs = torch.stack([hubs, first[group]])
    return pairs[:, pairs[0] != pairs[1]]


def _refine(base: Tensor, frozen: Tensor, links: Tensor) -> Tensor:
    """The coarsest cells whose members look alike, numbered by their first units."""
    own = torch.arange(len(base))
    state = torch.where(frozen, scatter_bits(own + 1) * 3, base)
    state, num = _renumber(state)
    child, parent = links
    while True:
        mixed = scatter_bits(state) * 5
        up = torch.zeros_like(state).index_add_(0, child, scatter_bits(state[parent] * 2 + 1))
        down = torch.zeros_like(state).index_add_(0, parent, scatter_bits(state[child] * 2))
        state, found = _renumber(mixed + up * 7 + scatter_bits(down) * 11)
        if found == num:
            return state
        num = found


def _renumber(state: Tensor) -> tuple[Tensor, int]:
    """The same distinctions, numbered in order of appearance."""
    kept, number = torch.unique(state, return_inverse=True)
    first = torch.full((len(kept),), len(state)).scatter_reduce_(
        0, number, torch.arange(len(state)), "amin"
    )
    rank = torch.empty_like(first)
    rank[torch.argsort(first)] = torch.arange(len(first))
    return rank[number], len(kept)


def _slot_keys(cells: Tensor, own: Tensor) -> Tensor:
    """A number for each atom: by its cell, then by the colours that it alone met."""
    _, colour = torch.unique(own, return_inverse=True)
    return cells * (int(colour.max()) + 1 if len(colour) else 1) + colour


def _axes_met(
    axes: Mapping[tuple[str, tuple[int, ...]], Tensor], of_atom: Tensor, num: int
) -> Tensor:
    """A digest of the axes that a unit lies along, and at how many places."""
    digest = torch.zeros(num, dtype=torch.int64)
    for number, atoms in enumerate(axes.values()):
        units, counts = torch.unique(of_atom[atoms.reshape(-1)], return_counts=True)
        digest[units] += scatter_bits(counts * 1_000_003 + number)
    return digest


def _atom_colours(ledger: Ledger) -> Tensor:
    """A digest of the colours that each atom met by itself, 0 where none."""
    digest = torch.zeros(ledger.num_atoms, dtype=torch.int64)
    for operation, (atoms, values) in enumerate(ledger.colours):
        digest.index_add_(0, atoms, scatter_bits(values * 31 + operation))
    return digest


def _colours_met(ledger: Ledger, own: Tensor, of_atom: Tensor, num: int) -> Tensor:
    """A digest of the colours that a unit meets, and of those that what it holds meets."""
    digest = torch.zeros(num, dtype=torch.int64)
    met = own.nonzero().flatten()
    digest.index_add_(0, of_atom[met], scatter_bits(own[met]))
    child, parent = _joined(ledger.links)
    coloured = own[child] != 0
    digest.index_add_(0, of_atom[parent[coloured]], scatter_bits(own[child[coloured]] + 1))
    _tell_slots_apart(ledger, of_atom, digest)
    return digest


def _tell_slots_apart(ledger: Ledger, of_atom: Tensor, digest: Tensor) -> None:
    """Larger units that turned out to be one keep apart what each of them holds."""
    slot = torch.full((len(of_atom),), -1)
    for number, (atoms, _) in enumerate(ledger.hubs):
        if len(torch.unique(of_atom[atoms])) < len(atoms):
            slot[atoms] = number * 1_000_003 + torch.arange(len(atoms))
    links = _joined(ledger.links)
    links = links[:, slot[links[1]] >= 0]
    digest.index_add_(0, of_atom[links[0]], scatter_bits(slot[links[1]]))


def _class_links(links: Tensor, of_atom: Tensor) -> Tensor:
    found = distinct_pairs(*of_atom[links])
    return found[:, found[0] != found[1]]


def _marked(num: int, of_atom: Tensor, atoms: list[Tensor]) -> Tensor:
    marked = torch.zeros(num, dtype=torch.bool)
    for some in atoms:
        marked[of_atom[some]] = True
    return marked


def _first_atoms(of_atom: Tensor, num: int) -> Tensor:
    first = torch.full((num,), len(of_atom))
    return first.scatter_reduce_(0, of_atom, torch.arange(len(of_atom)), "amin")


def _sizes(number: Tensor) -> Tensor:
    """How many share each one's number."""
    _, where, counts = torch.unique(number, return_inverse=True, return_counts=True)
    return counts[where]


def _joined(pairs: list[Tensor]) -> Tensor:
    return torch.cat([torch.empty(2, 0, dtype=torch.int64), *pairs], dim=1)


def _merge(of_atom: Tensor, num: int, ties: Tensor) -> tuple[Tensor, int]:
    again, fewer = _components(num, ties)
    return again[of_atom], fewer


def _components(num: int, pairs: Tensor) -> tuple[Tensor, int]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if num == 0:
        return torch.empty(0, dtype=torch.int64), 0
    ones = torch.ones(pairs.shape[1], dtype=torch.int8).numpy()
    first, second = pairs.numpy()
    graph = coo_array((ones, (first, second)), shape=(num, num))
    found, of_atom = connected_components(graph, directed=False)
    return torch.as_tensor(of_atom, dtype=torch.int64), int(found)
