"""What leaves a network's function unchanged."""

from .alignment import (
    align as align,
    align_many as align_many,
    align_running as align_running,
    match_activations as match_activations,
    match_weights as match_weights,
)
from .canonical_form import canonical as canonical, canonical_rows as canonical_rows
from .duplicates import merge_copies as merge_copies, split_units as split_units
from .merging import (
    Barrier as Barrier,
    interpolate as interpolate,
    loss_barrier as loss_barrier,
    merge as merge,
    reset_statistics as reset_statistics,
)
from .permutation import (
    Permutation as Permutation,
    identity as identity,
    random_permutation as random_permutation,
)
from .rescaling import (
    Part as Part,
    Rescaling as Rescaling,
    Rescalings as Rescalings,
    random_rescaling as random_rescaling,
    rescale as rescale,
)
from .rescaling_derivation import derive_rescalings as derive_rescalings
