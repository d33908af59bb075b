"""From the arguments of a call of a graph to arrays by input name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.compiler.array_exchange import Array
from intaglio.compiler.errors import OptionError
from intaglio.compiler.graph_ports import GraphPorts

# Arguments of a call, or inputs by name.
Inputs = Sequence[Any] | Mapping[str, Any]


def named(ports: GraphPorts, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """The leaves of a call by input name. Raises `OptionError` for a call of another signature."""
    if ports.call is not None:
        return ports.call.inputs(arguments, keywords)
    if not arguments:
        return keywords
    (first, *others) = arguments
    if others or keywords or not isinstance(first, Mapping):
        raise OptionError(
            f"call: {len(arguments)} arguments by position: this model takes its inputs by name, as "
            f"keywords or as one dict: {', '.join(ports.inputs)}."
        )
    return first


def arrays_of(ports: GraphPorts, inputs: Inputs) -> dict[str, Array]:
    """The arrays of a call with `inputs`. Raises `OptionError` that lists all that does not fit."""
    if not isinstance(inputs, Mapping):
        return ports.arrays(named(ports, tuple(inputs), {}))
    # Inputs by name serve models with a signature, too, unless they are its keyword arguments.
    if ports.call is None or set(inputs) == set(ports.inputs):
        return ports.arrays(inputs)
    return ports.arrays(named(ports, (), inputs))
