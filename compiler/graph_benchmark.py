"""How fast a compiled graph runs, in turns with onnxruntime on the graph as traced."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from intaglio.compiler.array_exchange import Array
from intaglio.compiler.errors import IntaglioError, OptionError
from intaglio.compiler.graph_ports import GraphPort, GraphPorts
from intaglio.compiler.workload import is_count

if TYPE_CHECKING:
    import onnx_ir as ir

Run = Callable[[Mapping[str, Array]], object]

SEED = 0
FIRST_SIZE, OTHER_SIZE = 1, 16  # of axes that are not fixed
SECONDS_PER_ROUND = 0.05  # short calls are repeated until so much time has gone by


@dataclass(frozen=True)
class GraphBenchmark:
    """Seconds of one call over the rounds."""

    rounds: int
    threads: int
    median_seconds: float
    minimum_seconds: float
    maximum_seconds: float
    original_median_seconds: float | None  # of onnxruntime on the graph as traced, in turns with the above
    speedup: float | None  # median over the rounds of how many times faster this is than the original
    note: str  # why there is no original to compare with, if there is none
    shapes: dict[str, list[int]]  # of the inputs

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


def measure(
    run: Run, inputs: Mapping[str, Array], original: Callable[[], ir.Model], threads: int, rounds: int
) -> GraphBenchmark:
    """Time `run` on `inputs`, and onnxruntime on what `original` gives, in turns.

    Raises `OptionError` where `rounds` is no count or the model refuses the inputs.
    """
    if not is_count(rounds):
        raise OptionError(f"bench: rounds={rounds!r}: give a whole number from 1.")
    other, note = _session(original, threads)
    calls = _calls_per_round(run, inputs)
    pairs = []
    for index in range(rounds + 1):  # the first does not count
        pair = _seconds(run, inputs, calls), None if other is None else _seconds(other, inputs, calls)
        pairs += [pair] if index else []
    ours = [mine for mine, _ in pairs]
    theirs = [one for _, one in pairs if one is not None]
    return GraphBenchmark(
        rounds=rounds,
        threads=threads,
        median_seconds=statistics.median(ours),
        minimum_seconds=min(ours),
        maximum_seconds=max(ours),
        original_median_seconds=statistics.median(theirs) if theirs else None,
        speedup=statistics.median(one / mine for mine, one in pairs if one) if theirs else None,
        note=note,
        shapes={name: list(array.shape) for name, array in inputs.items()},
    )


def generated_inputs(ports: GraphPorts) -> dict[str, Array]:
    """Inputs that fit `ports`; sizes of one name are equal. Raises `OptionError` where a rank is unknown."""
    unknown = [name for name, port in ports.inputs.items() if port.shape is None]
    if unknown:
        raise OptionError(f"bench: {', '.join(unknown)} may have any rank: give inputs.")
    sizes: dict[str, int] = {}
    return {name: _generated(port, sizes) for name, port in ports.inputs.items()}


def _generated(port: GraphPort, sizes: dict[str, int]) -> Array:
    shape = []
    for axis, one in enumerate(port.shape or ()):
        usual = OTHER_SIZE if axis else FIRST_SIZE
        shape.append(one if isinstance(one, int) else usual if one is None else sizes.setdefault(one, usual))
    if port.numpy.kind in "iub":
        return np.ones(shape, port.numpy)
    return np.random.default_rng(SEED).standard_normal(shape).astype(port.numpy)


def _session(original: Callable[[], ir.Model], threads: int) -> tuple[Run | None, str]:
    from intaglio.backends.onnxruntime import OnnxRuntimeSession

    try:
        return OnnxRuntimeSession(original(), threads=threads).run, ""
    except IntaglioError as error:
        return None, f"not compared: {error}"


def _calls_per_round(run: Run, inputs: Mapping[str, Array]) -> int:
    run(inputs)
    return max(1, round(SECONDS_PER_ROUND / max(_seconds(run, inputs, 1), 1e-6)))


def _seconds(run: Run, inputs: Mapping[str, Array], calls: int) -> float:
    """Of one call, on average."""
    start = time.perf_counter()
    for _ in range(calls):
        run(inputs)
    return (time.perf_counter() - start) / calls
