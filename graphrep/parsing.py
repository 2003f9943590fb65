"""Frozen dataclasses from the plain mappings of YAML and JSON, every value checked.

OmegaConf treats frozen dataclasses as read-only schemas and cannot merge into
nested ones, hence this. The dataclass checks ranges itself when it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse_dataclass(cls: type[T], content: Any, place: str = "") -> T:
    """An instance of `cls` from nested mappings, lists and plain values.

    Understands str, int, float, bool, `X | None`, tuple[X, ...], dict[str, X]
    and dataclasses of these.

    Args:
        place: Where in the config this stands, for messages.

    Raises:
        ValueError: an unknown or missing key or a wrong type; valid keys are listed.
    """
    assert is_dataclass(cls)
    where = place or "config"
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a mapping with keys {_names(cls)}, got {content!r}")
    if unknown := [str(key) for key in content if key not in {f.name for f in fields(cls)}]:
        raise ValueError(f"{where} has no key {', '.join(unknown)}. Valid keys: {_names(cls)}")
    types = get_type_hints(cls)
    values = {}
    for field in fields(cls):
        inner = f"{place}.{field.name}".strip(".")
        if field.name in content and content[field.name] != "???":
            values[field.name] = _parse(types[field.name], content[field.name], inner)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{inner} is not set, and it has no default")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}" if place else str(error)) from error


def _names(cls: Any) -> str:
    return ", ".join(field.name for field in fields(cls))


def _parse(kind: Any, value: Any, place: str) -> Any:
    if get_origin(kind) in (Union, UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    if is_dataclass(kind):
        return parse_dataclass(kind, value, place)  # type: ignore[arg-type]
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        inner = get_args(kind)[0]
        return tuple(_parse(inner, item, f"{place}[{i}]") for i, item in enumerate(value))
    if get_origin(kind) is dict and isinstance(value, Mapping):
        inner = get_args(kind)[1]
        return {str(key): _parse(inner, item, f"{place}.{key}") for key, item in value.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and value == int(value):
        return int(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    expected = {tuple: "a list", dict: "a mapping", int: "a whole number", float: "a number"}
    name = expected.get(get_origin(kind) or kind, getattr(kind, "__name__", str(kind)))
    raise ValueError(f"{place} must be {name}, got {value!r}")
