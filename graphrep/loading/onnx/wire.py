"""How many fields an ONNX file has, counted before protobuf makes objects of them.

An empty message takes 2 bytes in a file and about 100 in memory, so that a small file could
fill it. Only lengths are walked over; weights are skipped as one field each.

Format: protobuf's wire format; numbers of fields are those of onnx.proto.
"""

from __future__ import annotations

from typing import Any

MOST_FIELDS = 3_000_000
DEEPEST = 64
SIZES = {1: 8, 5: 4}  # bytes of values of fixed length, by wire type

Schema = dict[int, Any]  # messages inside a message, by field number
_entries: Schema = {}
_tensor: Schema = {13: _entries}
_type: Schema = {1: {2: {1: {}}}}
_type |= {4: {1: _type}, 5: {2: _type}, 8: {1: {2: {1: {}}}}, 9: {1: _type}}
_value: Schema = {2: _type}
_attribute: Schema = {5: _tensor, 10: _tensor, 14: _type, 15: _type}
_node: Schema = {5: _attribute}
_graph: Schema = {1: _node, 5: _tensor, 11: _value, 12: _value, 13: _value}
_attribute |= {6: _graph, 11: _graph}
_function: Schema = {7: _node, 11: _attribute, 12: _value}
MODEL: Schema = {7: _graph, 20: {1: _graph, 2: _graph}, 25: _function}


def check_fields(content: bytes) -> None:
    """Raise ValueError where a file has more fields than any honest one, or is not protobuf."""
    left = MOST_FIELDS
    pending: list[tuple[int, int, Schema, int]] = [(0, len(content), MODEL, 0)]
    while pending:
        at, end, schema, depth = pending.pop()
        if depth > DEEPEST:
            raise ValueError(f"holds messages nested more than {DEEPEST} deep")
        while at < end:
            left -= 1
            if left < 0:
                raise ValueError(f"holds more than {MOST_FIELDS:,} fields")
            key, at = _varint(content, at, end)
            match key & 7:
                case 0:
                    _, at = _varint(content, at, end)
                case 2:
                    length, at = _varint(content, at, end)
                    inside = schema.get(key >> 3)
                    if inside is not None and length:
                        pending.append((at, min(at + length, end), inside, depth + 1))
                    at += length
                case 1 | 5 as kind:
                    at += SIZES[kind]
                case _:
                    raise ValueError("is not in protobuf's format")
            if at > end:
                raise ValueError("ends within a field")


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("ends within a field")
