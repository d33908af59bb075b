"""Names and other text: protobuf hands out bytes where a field is no UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def text_problems(message: Any, place: str = "model") -> Iterator[str]:
    """A sentence for every text field of the protobuf `message`, at any depth, that is not UTF-8."""
    if message.DESCRIPTOR.name == "TensorProto":  # looking at its fields would copy the weights
        fields = [(message.DESCRIPTOR.fields_by_name["name"], message.name)]
    else:
        fields = message.ListFields()
    for field, value in fields:
        values = value if field.is_repeated else [value]
        if field.type == field.TYPE_STRING:
            yield from (
                f"{place}.{field.name} is no text: {one!r}" for one in values if isinstance(one, bytes)
            )
        elif field.type == field.TYPE_MESSAGE:
            for one in values:
                yield from text_problems(one, f"{place}.{field.name}")
