"""Networks are data: parameter graphs, representations of them, and new weights.

Public names are loaded when first used, so that `graphrep --help` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .architecture import Architecture as Architecture
    from .graph import ParameterGraph as ParameterGraph, to_graph as to_graph
    from .loading import Loaded as Loaded, load_graph as load_graph
    from .representation import Representation as Representation
    from .symmetry import (
        Permutation as Permutation,
        align as align,
        random_permutation as random_permutation,
    )
    from .zoo import Zoo as Zoo

__version__ = "0.1.0"

_HOMES = {
    "Architecture": ".architecture",
    "Loaded": ".loading",
    "ParameterGraph": ".graph",
    "Permutation": ".symmetry",
    "Representation": ".representation",
    "Zoo": ".zoo",
    "align": ".symmetry",
    "load_graph": ".loading",
    "random_permutation": ".symmetry",
    "to_graph": ".graph",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphrep' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
