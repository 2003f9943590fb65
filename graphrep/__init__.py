"""Networks are data: parameter graphs, representations of them, and new weights.

Public names are loaded when first used, so that `graphrep --help` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .architecture import Architecture as Architecture
    from .estimator import NetworkEmbedding as NetworkEmbedding
    from .graph import ParameterGraph as ParameterGraph, to_graph as to_graph
    from .loading import Loaded as Loaded, load_graph as load_graph
    from .neighbours import nearest as nearest
    from .representation import Representation as Representation
    from .symmetry import (
        Permutation as Permutation,
        Rescalings as Rescalings,
        align as align,
        align_many as align_many,
        canonical as canonical,
        derive_rescalings as derive_rescalings,
        interpolate as interpolate,
        loss_barrier as loss_barrier,
        merge as merge,
        merge_copies as merge_copies,
        random_permutation as random_permutation,
        random_rescaling as random_rescaling,
        rescale as rescale,
        reset_statistics as reset_statistics,
        split_units as split_units,
    )
    from .zoo import Zoo as Zoo

__version__ = "0.1.0"

_HOMES = {
    "Architecture": ".architecture",
    "Loaded": ".loading",
    "NetworkEmbedding": ".estimator",
    "ParameterGraph": ".graph",
    "Permutation": ".symmetry",
    "Representation": ".representation",
    "Rescalings": ".symmetry",
    "Zoo": ".zoo",
    "align": ".symmetry",
    "align_many": ".symmetry",
    "canonical": ".symmetry",
    "derive_rescalings": ".symmetry",
    "interpolate": ".symmetry",
    "load_graph": ".loading",
    "loss_barrier": ".symmetry",
    "merge": ".symmetry",
    "merge_copies": ".symmetry",
    "nearest": ".neighbours",
    "random_permutation": ".symmetry",
    "random_rescaling": ".symmetry",
    "rescale": ".symmetry",
    "reset_statistics": ".symmetry",
    "split_units": ".symmetry",
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
