"""The table of rules: what each primitive operation does to unit labels.

One rule an operation (or a family that behaves alike). A rule reads the labels
of an operation's operands and says three things: which labels the result
carries, which atoms must move together, and which must not move. An operation
without a rule freezes all that it touches, so a missing rule costs symmetry,
never soundness. The numeric check in `verify.py` is what holds a rule to its word.
"""

from . import choosing, deriving, elementwise, indexing, movement, products, reductions
from .call import RULES as RULES, Call as Call, give_up as give_up, tensors_in as tensors_in
from .elementwise import ACTIVATIONS as ACTIVATIONS

FAMILIES = (
    movement,
    indexing,
    elementwise,
    products,
    deriving,
    reductions,
    choosing,
)  # importing them fills the table
