"""How all figures look: one palette, one type size, figures outside pyplot's global state.

Knows matplotlib. Colours are those of Okabe and Ito, which colour-blind readers tell
apart; an encoder has the same colour in every figure.
Source: Okabe & Ito 2008, Color Universal Design.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#000000")
GREY = "#8A8A8A"
INK = "#222222"
_OWN_COLOURS = {
    "graph": PALETTE[0],
    "token": PALETTE[1],
    "statistics": PALETTE[2],
    "raw": PALETTE[3],
    "pna": PALETTE[4],
    "hyperrep": PALETTE[6],
    # shades of what they are variants of
    "graph_responses": PALETTE[5],
    "graph_probed": "#003F7D",
    "graph_bare": "#9CCBE8",
    "token_responses": "#F2A679",
    "token_moments": "#A84600",
    "token_probed": "#6E2C00",
    "pna_responses": "#F5D38A",
    "pna_moments": "#B87F00",
    "pna_probed": "#8A5F00",
    "answers": "#882255",
    "statistics_answers": "#005C45",
    "statistics_asinh": PALETTE[2],
    "statistics_plain": "#7FCFB9",
    "hyperrep_e_d": "#94842A",
    "hyperrep_e_c": "#A69A4D",
    "hyperrep_e_cd": "#D0C890",
    "hyperrep_e_c_plus_d": "#4A4000",
    "scratch": GREY,
    "from scratch": GREY,
    "random init": GREY,
}
_LABELS = {
    "test_accuracy": "test accuracy (fraction correct)",
    "train_accuracy": "training accuracy (fraction correct)",
    "accuracy": "accuracy (fraction correct)",
    "generalisation_gap": "generalisation gap (training − test accuracy)",
    "generalization_gap": "generalisation gap (training − test accuracy)",
    "test_loss": "test loss (nats)",
    "psnr": "PSNR (dB)",
    "mse": "mean squared error",
    "test_return": "return (sum of rewards)",
    "train_loss": "training loss (nats)",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "epoch": "epoch",
    "training_fraction": "training fraction (of the images)",
    "batch_size": "batch size (images)",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "figure.titlesize": 12.0,
    "savefig.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside it: matplotlib's settings are the project's, and afterwards the user's."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def panels(
    num: int,
    *,
    columns: int = 3,
    size: tuple[float, float] = (3.8, 3.2),
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `num` panels in rows, each `size` inches; call it inside `style()`.

    With `share`, all have the same axes, and only the outer ones are labelled.
    """
    from matplotlib.figure import Figure

    columns = min(num, columns)
    rows = -(-num // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    axes = list(grid.flat)
    for unused in axes[num:]:
        unused.remove()
    return figure, axes[:num]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour a name: known encoders have their own, others get what is left.

    What stands before a comma decides: "graph, joint" has the colour of "graph".
    """
    names = list(dict.fromkeys(names))
    bases = list(dict.fromkeys(name.split(",")[0] for name in names))
    of_base = {base: _OWN_COLOURS[base] for base in bases if base in _OWN_COLOURS}
    left = [colour for colour in PALETTE if colour not in of_base.values()] or list(PALETTE)
    others = [base for base in bases if base not in of_base]
    of_base |= {base: left[i % len(left)] for i, base in enumerate(others)}
    return {name: of_base[name.split(",")[0]] for name in names}


def label(name: str) -> str:
    """A property's name as people read it, with its unit where it is known."""
    return _LABELS.get(name, name.replace("_", " "))


def spans_decades(values: np.ndarray) -> bool:
    """Whether a logarithmic scale reads better: positive, and spread a hundredfold."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() / finite.min() >= 100)


def check_columns(table_columns: Iterable[object], needed: Iterable[str], what: str) -> None:
    """Raise ValueError naming the columns that a table lacks."""
    there = {str(column) for column in table_columns}
    missing = [name for name in needed if name not in there]
    if missing:
        raise ValueError(
            f"{what}: the table lacks {', '.join(missing)}; it has {', '.join(sorted(there))}"
        )
