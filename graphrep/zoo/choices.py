"""Settings that several parts of a zoo check."""

from __future__ import annotations

DTYPES = ("float32", "float16")  # of stored weights


def check_choice(field: str, found: object, allowed: object) -> None:
    """Raise a ValueError that lists the choices where `found` is none of them."""
    choices = list(allowed)  # type: ignore[call-overload]
    if found not in choices:
        raise ValueError(f"{field} must be one of {', '.join(map(str, choices))}, got '{found}'")


def check_fractions(validation: float, test: float) -> None:
    """Raise a ValueError where fractions of the models leave none to train with."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            "validation_fraction and test_fraction must leave models to train with, got "
            f"{validation} and {test}"
        )
