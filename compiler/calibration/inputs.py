"""The calibration inputs: those given, or made ones, some of them held out for the gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import OptionError
from intaglio.compiler.graph_benchmark import generated_inputs
from intaglio.compiler.graph_calls import arrays_of
from intaglio.compiler.graph_ports import GraphPorts

Arrays = Mapping[str, NDArray[Any]]
LARGEST = 1 << 30  # bytes of all calls together
LEAST = 8
HELD_OUT = 3  # every third call is held out
MADE = 12
SEED = 1


@dataclass(frozen=True)
class CalibrationInputs:
    """Calls of a graph. `made`: they are random numbers of the right shapes, so they show ranges of those."""

    calls: tuple[Arrays, ...]
    made: bool = False

    @classmethod
    def of(
        cls, ports: GraphPorts, given: Iterable[Any] | None, examples: Sequence[Arrays] = ()
    ) -> CalibrationInputs:
        """`given` as arrays for `ports`: dicts by name, tuples in their order, or arrays for a single input.

        Left out, calls are made in the shapes of `examples`, or of the ports. Raises `OptionError` that lists
        what does not fit, for fewer than eight calls, and for more than 1 GiB of them.
        """
        if given is None:
            return cls(_made(ports, examples), made=True)
        calls = _arrays(ports, tuple(_limited(given)))
        if len(calls) < LEAST:
            raise OptionError(
                f"compile: calibration holds {len(calls)} inputs: give at least {LEAST}, since every third "
                "is held out to measure what rounding costs."
            )
        return cls(calls)

    @property
    def seen(self) -> tuple[Arrays, ...]:
        """Those that ranges are taken from."""
        return tuple(one for index, one in enumerate(self.calls) if index % HELD_OUT != 1)

    @property
    def held_out(self) -> tuple[Arrays, ...]:
        """Those that quality is measured on."""
        return tuple(one for index, one in enumerate(self.calls) if index % HELD_OUT == 1)

    def __str__(self) -> str:
        kind = "inputs made from the ports (none were given)" if self.made else "calibration inputs"
        return f"{len(self.seen)} {kind}, and {len(self.held_out)} held out"


def _arrays(ports: GraphPorts, given: Sequence[Any]) -> tuple[Arrays, ...]:
    calls, problems = [], []
    for index, one in enumerate(given):
        try:
            calls.append(arrays_of(ports, _by_name(ports, one)))
        except OptionError as error:
            problems.append(f"input {index}: {error}")
    if problems:
        raise OptionError("\n".join(["compile: calibration does not fit the model:", *problems]))
    return tuple(calls)


def _by_name(ports: GraphPorts, one: Any) -> Any:
    if ports.call is not None or isinstance(one, Mapping):
        return one if isinstance(one, Mapping | tuple) else (one,)
    leaves = one if isinstance(one, tuple) else (one,)
    if len(leaves) != len(ports.inputs):
        raise OptionError(f"{len(leaves)} arrays for {len(ports.inputs)} inputs: {', '.join(ports.inputs)}")
    return dict(zip(ports.inputs, leaves, strict=True))


def _limited(given: Iterable[Any]) -> Iterator[Any]:
    if isinstance(given, Mapping | str) or not isinstance(given, Iterable):
        raise OptionError(
            f"compile: calibration is {type(given).__name__}: give several inputs, such as a list of dicts."
        )
    total = 0
    for one in given:
        leaves = one.values() if isinstance(one, Mapping) else one if isinstance(one, tuple) else (one,)
        total += sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves)
        if total > LARGEST:
            raise OptionError(f"compile: calibration holds more than {LARGEST >> 20} MiB: give fewer inputs.")
        yield one


def _made(ports: GraphPorts, examples: Sequence[Arrays]) -> tuple[Arrays, ...]:
    """Calls with differing floats; integers stay, since nobody knows what range they may have."""
    unknown = [name for name, port in ports.inputs.items() if port.shape is None]
    if unknown and not examples:
        raise OptionError(f"compile: {', '.join(unknown)} may have any rank: give calibration inputs.")
    models = tuple(examples) or (generated_inputs(ports),)
    random = np.random.default_rng(SEED)
    return tuple(
        {name: _varied(one, random) for name, one in models[index % len(models)].items()}
        for index in range(MADE)
    )


def _varied(array: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind in "iub":
        return array
    return random.standard_normal(array.shape).astype(array.dtype)
