"""What a network is without its values, derived by tracing."""

from .spec import (
    Architecture as Architecture,
    Block as Block,
    Note as Note,
    Operation as Operation,
    Parent as Parent,
    Span as Span,
    TensorSpec as TensorSpec,
    Units as Units,
)
from .trace import trace as trace
