"""The table of families and laws in docs/families.md: written on request, read to check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .case import Family

PATH = Path(__file__).parents[2] / "docs" / "families.md"
LAWS = ("round trip", "permutation", "size", "alignment", "meta", "embedding")
HEADINGS = (
    "family", "parameters", "unit groups", "log10 symmetries", "theory", "round trip",
    "permutation", "size = theory", "alignment", "meta", "embedding",
)  # fmt: skip

INTRODUCTION = """# Families of architectures and the laws they keep

Written by `GRAPHREP_WRITE_DOCS=1 python -m pytest tests/test_families.py`, not by hand; that test
compares it with every run. What each law says stands in
[tests/test_families.py](../tests/test_families.py), the modules and how their theoretical sizes
come about in [tests/families](../tests/families).

*Theory* is the size of the group of permutations that keep the function, derived by hand: (3!)^2
is two groups of three interchangeable units. *log10 symmetries* is what the tracer finds. Where
it need not find all and does not, *size* says "part". A dash: the law does not apply, because a
forward that reads values cannot run on `meta`, or because nothing can be permuted.
"""

PEERS = """## Peers

What public encoders of weights accept, as far as we found it stated or measured; blank where we
did not. NG is neural-graphs (arXiv 2403.12143), whose graph ScaleGMN (2406.10685) shares; GMN is
graph_metanetworks (2312.04501), NFN nfn (2302.14040), DWS DWSNets (2301.12780), UNF universal
neural functionals (2402.05232), rebasin the package of that name.

| | NG | GMN | NFN, DWS | UNF | rebasin |
| --- | --- | --- | --- | --- | --- |
| structure from | constants given, values | a flat `nn.Sequential` | one architecture a model | \
a specification by hand | tracing |
| layers without bias | no | | | | |
| kernels that are not square | no | | | | |
| grouped and depthwise convolution | no | no | | | |
| flatten of more than one place | yes | no | | | |
| normalisation | no | yes | | | |
| norms without scale and shift | no | no | | | |
| residual connections | yes | yes | | | |
| transposed convolution | | no | | | |
| embeddings | | no | | | |
| nested modules | | no | | | |
| attention | | yes | | | weak |
| heads as units | no | no | no | no | no |
| mixed architectures in one batch | no | no | no | no | no |
| an arbitrary module | no | no | no | no | no |
"""


@dataclass
class Row:
    """What a run found of one family."""

    parameters: int | None = None
    groups: int | None = None
    log10: float | None = None
    laws: dict[str, str] = field(default_factory=dict)  # law -> yes, no, part or -


def write(families: Sequence[Family], rows: Mapping[str, Row]) -> None:
    """Write the whole table; every family must have been through every law.

    Raises:
        ValueError: a law was not run for some family.
    """
    missing = [
        f"{family.name}: {law}"
        for family in families
        for law in LAWS
        if law not in rows.get(family.name, Row()).laws
    ]
    if missing:
        raise ValueError(f"cannot write {PATH}, these were not run: {missing[:10]}")
    lines = [INTRODUCTION]
    for group in dict.fromkeys(family.group for family in families):
        lines += [f"## {group.capitalize()}", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
        for family in families:
            if family.group == group:
                row = rows[family.name]
                found = "" if row.log10 is None else f"{row.log10:.2f}"
                cells = [family.name, f"{row.parameters:,}", str(row.groups), found]
                lines.append(_line([*cells, str(family.symmetry), *map(row.laws.get, LAWS)]))
        lines.append("")
    PATH.write_text("\n".join(lines) + "\n" + PEERS)


def read() -> dict[str, float]:
    """Names and log10 sizes that the file states."""
    rows = [line.strip("| ").split(" | ") for line in PATH.read_text().splitlines()]
    return {
        row[0]: float(row[3])
        for row in rows
        if len(row) == len(HEADINGS) and row[0] not in ("family", "---")
    }


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
