"""What leaves a network's function unchanged."""

from .alignment import align as align
from .alignment import match_weights as match_weights
from .permutation import Permutation as Permutation
from .permutation import identity as identity
from .permutation import random_permutation as random_permutation
