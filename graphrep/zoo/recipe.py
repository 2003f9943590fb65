"""What every recipe of a zoo shares, whatever its networks are trained for.

A recipe is a frozen dataclass that decides a zoo's content: the same recipe
gives the same bits. Each kind of recipe (classifiers, implicit, policies) has
its own folder; `graphrep.zoo.kinds` chooses among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from ..parsing import parse_dataclass
from .choices import DTYPES, check_choice as check_choice, check_fractions
from .record import Record


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of `create_zoo` that all kinds of zoos have; see conf/zoo/base.yaml."""

    kind: ClassVar[str]  # how the kind is called in conf/zoo and zoo.json

    name: str
    num_models: int = 200
    seed: int = 0
    validation_fraction: float = 0.15  # of the models
    test_fraction: float = 0.15
    dtype: str = "float32"  # of the stored weights; float16 halves them, with a stated loss
    licence: str = "CC-BY-4.0"  # of the zoo
    num_workers: int | None = None  # processes; None for one a core; changes no result

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        if not self.name:
            raise ValueError("name must not be empty")
        if self.num_models < 1:
            raise ValueError(f"num_models must be positive, got {self.num_models}")
        check_fractions(self.validation_fraction, self.test_fraction)
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")

    @property
    def chunk(self) -> int:
        """How many models are made, and kept, at once."""
        return 1

    def identity(self) -> dict[str, Any]:
        """Everything that decides the zoo's content, as plain JSON values."""
        content = {"kind": self.kind, **asdict(self)}
        del content["num_workers"]
        return _plain(content)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Recipe:
        """The recipe of a YAML file or of `identity`, checked.

        Raises:
            ValueError: an unknown key, a wrong type, a value out of range; the key is named.
        """
        return parse_dataclass(cls, {k: v for k, v in content.items() if k != "kind"}, "zoo")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class Workshop(Protocol):
    """Makes models of one recipe, in whichever process it stands."""

    def make(self, indices: Sequence[int]) -> list[Record]:
        """The models of these indices, a record each, in order.

        What a model becomes depends on the recipe and its index alone. A recipe whose
        `chunk` is above 1 is always handed whole chunks (the last one may be short).
        """
        ...
