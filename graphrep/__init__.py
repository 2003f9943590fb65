"""Networks are data: parameter graphs, representations of them, and new weights.

Public names are loaded when first used, so that importing graphrep costs little
more than importing torch.
"""

from typing import TYPE_CHECKING

from .architecture import Architecture as Architecture
from .graph import ParameterGraph as ParameterGraph, to_graph as to_graph
from .symmetry import (
    Permutation as Permutation,
    align as align,
    random_permutation as random_permutation,
)

if TYPE_CHECKING:
    from .representation import Representation as Representation
    from .zoo import Zoo as Zoo

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Zoo":
        from .zoo import Zoo

        return Zoo
    if name == "Representation":
        from .representation import Representation

        return Representation
    raise AttributeError(f"module 'graphrep' has no attribute '{name}'")
