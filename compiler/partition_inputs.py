"""The calls that a graph is compiled for: the examples given, or one that is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.compiler.array_exchange import Array
from intaglio.compiler.errors import OptionError
from intaglio.compiler.graph_benchmark import generated_inputs
from intaglio.compiler.graph_calls import Inputs, arrays_of
from intaglio.compiler.graph_ports import GraphPorts


def example_calls(examples: Any) -> tuple[Any, ...]:
    """`example_inputs` of `compile` as calls: a list of dicts or tuples is several, all else is one."""
    if examples is None:
        return ()
    several = isinstance(examples, list) and all(isinstance(one, Mapping | tuple) for one in examples)
    return tuple(examples) if several and examples else (examples,)


def arrays_of_examples(ports: GraphPorts, examples: Sequence[Inputs]) -> tuple[dict[str, Array], ...]:
    """The arrays of every example. Raises `OptionError` that lists what does not fit, of all of them."""
    calls, problems = [], []
    for index, one in enumerate(examples):
        try:
            calls.append(arrays_of(ports, _by_name(ports, one)))
        except OptionError as error:
            problems.append(f"example {index}: {error}")
    if problems:
        raise OptionError("\n".join(["compile: example_inputs do not fit the model:", *problems]))
    return tuple(calls)


def made_call(ports: GraphPorts) -> tuple[dict[str, Array], ...]:
    """One call with made inputs, as `bench` makes them; none where a rank is unknown."""
    if any(port.shape is None for port in ports.inputs.values()):
        return ()
    return (generated_inputs(ports),)


def _by_name(ports: GraphPorts, example: Inputs) -> Inputs:
    """Models without a signature take a tuple of arrays in the order of their inputs, too."""
    if ports.call is not None or isinstance(example, Mapping):
        return example
    if len(example) != len(ports.inputs):
        raise OptionError(
            f"{len(example)} arrays for {len(ports.inputs)} inputs: give {', '.join(ports.inputs) or 'none'}"
        )
    return dict(zip(ports.inputs, example, strict=True))
