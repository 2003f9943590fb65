"""What leaves a network's function unchanged."""

from .alignment import align as align, match_weights as match_weights
from .permutation import (
    Permutation as Permutation,
    identity as identity,
    random_permutation as random_permutation,
)
