"""What an objective is handed of the population that it trains on, beyond the weights.

Filled by `graphrep.training.targets.context_of`; knows no zoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...running import Behaviour
from .property_head import Target


@dataclass(frozen=True, eq=False)
class Context:
    """`targets` a column of `Rows.targets` each; `behaviours` by fingerprint.

    `num_responses` are the columns of what networks answer, those of several zoos side by side.
    """

    targets: tuple[Target, ...] = ()
    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    num_responses: int = 0
