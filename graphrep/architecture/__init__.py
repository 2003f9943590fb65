"""What a network is without its values, derived by tracing."""

from .spec import Architecture as Architecture
from .spec import Block as Block
from .spec import Note as Note
from .spec import Operation as Operation
from .spec import Span as Span
from .spec import TensorSpec as TensorSpec
from .spec import Units as Units
from .trace import trace as trace
