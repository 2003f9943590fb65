"""What an importer of a foreign zoo is: a list of names, and a record for each.

`graphrep.zoo.importing` drives it: it asks for the names that the zoo lacks,
stages what comes, and lists what was skipped. A reader knows no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..record import Record, Skipped


class Reader(Protocol):
    """A foreign zoo, opened. The class is called with the source's path and options.

    Opening raises ValueError where the source is no zoo of this layout at all, naming the
    path, what was found and what the layout has.
    """

    title: str  # of the zoo, for its header
    facts: Mapping[str, Any]  # what the source says of itself: config, citation, ...; plain JSON

    def names(self) -> Sequence[str]:
        """Every model by a unique name, in a fixed order, without reading weights."""
        ...

    def read(self, name: str) -> Iterator[Record | Skipped]:
        """One model: at most one record, and what of it could not be taken.

        Raises:
            ValueError: the whole model cannot be taken; the message is its reason.
        """
        ...
