"""The catalogue of operations: what is supported, and what each rule says of units."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from .call import RULES, Rule


def catalogue(families: Sequence[ModuleType]) -> str:
    """The table of rules as Markdown, a section a family, a row for operations of one rule."""
    lines = [
        "# Operations that the tracer knows",
        "",
        f"{len(RULES)} primitive operations of torch (`aten`), as they arrive when a module runs. "
        "Composed ones come down to them. An operation that is not listed costs symmetry, never "
        "soundness: what it touches keeps its place, `graph.report()` names it, and "
        "`to_graph(..., strict=True)` raises with its module and line. Written from the table of "
        "rules by the test run (`GRAPHREP_WRITE_DOCS=1`).",
    ]
    for family in families:
        own: dict[str, list[Rule]] = {}
        for rule in RULES.values():
            if rule.apply.__module__ == family.__name__:
                own.setdefault(rule.says, []).append(rule)
        title, _, _ = (family.__doc__ or family.__name__).strip().partition("\n")
        lines += ["", f"## {title.removeprefix('Rules of ').rstrip('.').capitalize()}", ""]
        lines += ["| operations | what is said of units |", "| --- | --- |"]
        for says, rules in own.items():
            names = " ".join(f"`{rule.name}`" for rule in rules)
            lines.append(f"| {names} | {' '.join(says.split())} |")
    return "\n".join(lines) + "\n"
