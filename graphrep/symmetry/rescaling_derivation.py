"""All rescalings of a module: searched group by group, recombined, and checked together."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..architecture import Architecture
from ..architecture.spec import Note
from ..architecture.trace import Inputs
from .rehearsal import Rehearsal
from .rescaling import End, Kind, Part, Rescaling, Rescalings, ends_of, members_of, places
from .rescaling_search import MAX_RUNS, Search

_derived: dict[tuple[str, str], Rescalings] = {}  # by fingerprint and the run's operations

Place = tuple[str, End, int | None]  # block, end, slot


def derive_rescalings(
    architecture: Architecture, module: nn.Module, example_inputs: Inputs
) -> Rescalings:
    """All diagonal rescalings of a module's parameters, each checked numerically.

    Args:
        architecture: Of this module, as `to_graph` gives it.
        module: Left as it was found; only a copy with random weights runs.
        example_inputs: As for `to_graph`. Small ones do.

    A batch norm's mean and variance count as one column, so that they stay the statistics of
    what they meet; trading the variance alone for the norm's scale is not offered.

    Raises:
        ValueError: the module is on `meta`, or cannot be run in float64 or float32.

    Source: the groups of Kalogeropoulos et al. 2024, arXiv:2406.10685, section 4, for any module.
    """
    key = architecture.fingerprint, architecture.behaviour
    if key not in _derived:
        if any(t.is_meta for t in module.state_dict().values()):
            raise ValueError(
                f"rescalings of '{architecture.name}' are found by running it, but the module is "
                "on the meta device; give one with values"
            )
        _derived[key] = _derive(architecture, _rehearsal(architecture, module, example_inputs))
    return _derived[key]


def _rehearsal(architecture: Architecture, module: nn.Module, inputs: Inputs) -> Rehearsal:
    reason = ""
    for dtype in (torch.float64, torch.float32):
        try:
            return Rehearsal(architecture, module, inputs, dtype)
        except Exception as error:  # a module that cannot be copied or fixes its own dtype
            reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"rescalings of '{architecture.name}' cannot be tried ({reason})")


def _derive(architecture: Architecture, rehearsal: Rehearsal) -> Rescalings:
    factors: list[Rescaling] = []
    notes: list[Note] = []
    kinds: tuple[Kind, ...] = ("positive", "sign")
    for units in architecture.units:
        for kind in kinds:
            search = Search(architecture, rehearsal, units.name, kind)
            factors += _apart(search.basis())
            for failed in search.failed:
                notes.append(_note(failed, "it changed the outputs of other random weights"))
            if search.exhausted:
                why = f"the search for {kind} rescalings took more than {MAX_RUNS} runs"
                notes.append(Note(subject=units.name, operation="rescale", module="", reason=why))
    together: list[Rescaling] = []
    factors = _independent(architecture, factors)
    if rehearsal.holds(factors):
        together = factors
    else:  # each holds alone, so leave out what does not go with those before it
        for factor in factors:
            if rehearsal.holds([*together, factor]):
                together.append(factor)
            else:
                notes.append(_note(factor, "it changed the outputs together with others"))
    return Rescalings(architecture.fingerprint, tuple(together), tuple(notes))


def _note(factor: Rescaling, reason: str) -> Note:
    return Note(subject=str(factor), operation="rescale", module="", reason=reason)


def _apart(factors: list[Rescaling]) -> list[Rescaling]:
    """The same rescalings, recombined so that a running variance leads one of them alone.

    After a depthwise convolution, the scale before it and that of its filters both reach the
    next norm's variance; their quotient does not. From the last to the first, each is divided
    by what has a variance in common with it.
    """
    done: list[Rescaling] = []
    leading: list[tuple[dict[Part, int], Part]] = []  # exponents by part (its own set to one)
    for factor in reversed(factors):
        powers = {replace(p, exponent=1): p.exponent for p in factor.parts}
        for other, key in leading:
            times, rest = divmod(powers.get(key, 0), other[key])
            if times and not rest:
                for place, exponent in other.items():
                    powers[place] = powers.get(place, 0) - times * exponent
        powers = {place: exponent for place, exponent in powers.items() if exponent}
        variance = next((place for place in powers if place.offset), None)
        if variance is not None:
            leading.append((powers, variance))
        parts = tuple(replace(place, exponent=exponent) for place, exponent in powers.items())
        done.append(replace(factor, parts=parts))
    return done[::-1]


def _independent(architecture: Architecture, factors: list[Rescaling]) -> list[Rescaling]:
    """Leave out what units' rescalings say already when those of units within them are known."""
    known = places(architecture)
    kept: list[Rescaling] = []

    def powers(factor: Rescaling, units: str) -> dict[Place, int]:
        """Exponents by block, end and slot, as seen from units that the factor's may sit within."""
        total: dict[Place, int] = {}
        for part in factor.parts:
            ends = ends_of(architecture, known[part.block][0], units)
            key = part.block, part.end if part.end in ends else ends[0], part.slot
            total[key] = total.get(key, 0) + part.exponent
        return total

    for factor in factors:
        below = [
            powers(other, factor.units)
            for other in factors
            if other.kind == factor.kind
            and members_of(architecture, other.units, factor.units) is not None
            and (other.units != factor.units or other in kept)
        ]
        own = powers(factor, factor.units)
        if _rank([*below, own], factor.kind) > _rank(below, factor.kind):
            kept.append(factor)
    return kept


def _rank(vectors: list[dict[Place, int]], kind: Kind) -> int:
    """Rank of exponents, over the rationals or (for signs) over two elements."""
    number = {key: n for n, key in enumerate({key: None for v in vectors for key in v})}
    matrix = torch.zeros(len(vectors), len(number), dtype=torch.float64)
    for row, vector in enumerate(vectors):
        for key, exponent in vector.items():
            matrix[row, number[key]] = exponent
    if kind == "positive":
        return int(torch.linalg.matrix_rank(matrix)) if matrix.numel() else 0
    left, rank = (matrix % 2).bool(), 0
    for column in range(left.shape[1]):
        rows = torch.nonzero(left[rank:, column]).flatten() + rank
        if len(rows):
            left[[rank, int(rows[0])]] = left[[int(rows[0]), rank]]
            others = left[:, column].clone()
            others[rank] = False
            left[others] ^= left[rank]
            rank += 1
    return rank
