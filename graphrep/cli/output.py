"""What all commands share: how they take settings and how they print."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[OVERRIDES]...", help="group=choice or key=value, see conf/"),
]


def say(text: Any) -> None:
    """Print text or something that rich draws."""
    from rich.console import Console

    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(table: object, title: str) -> None:
    """Print a data frame."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    assert isinstance(table, pd.DataFrame)
    shown = Table(title=title)
    for column in table.columns:
        shown.add_column(
            str(column), justify="right" if table[column].dtype.kind in "fi" else "left"
        )
    for row in table.itertuples(index=False):
        cells = [
            "" if v != v or v is None else f"{v:.3f}" if isinstance(v, float) else str(v)
            for v in row
        ]
        shown.add_row(*cells)
    Console().print(shown)
