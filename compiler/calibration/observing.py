"""Running a graph on calibration inputs and looking at values inside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.compiler.calibration.histogram import Histogram

Arrays = Mapping[str, NDArray[np.generic]]
AT_ONCE = 48  # values that are kept from one run, so that a large graph does not fill the memory


def observe(
    model: ir.Model, names: Iterable[str], calls: Sequence[Arrays], threads: int
) -> dict[str, Histogram]:
    """Histograms of the float values `names` over `calls`, one call at a time; `model` is left as it is.

    Inputs of the graph are looked at as they are. A value that is never computed keeps an empty histogram.
    """
    wanted = tuple(names)
    seen = {name: Histogram() for name in wanted}
    fed = {str(one.name) for one in model.graph.inputs}
    for call in calls:
        for name in set(wanted) & fed:
            seen[name].add(np.asarray(call[name]).astype(np.float32))
    computed = [name for name in wanted if name not in fed]
    for group in _groups(computed):
        session = OnnxRuntimeSession(exposing(model, group), threads=threads)
        for call in calls:
            results = session.run(call)
            for name in group:
                seen[name].add(results[name].astype(np.float32, copy=False))
    return seen


def exposing(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of `model` that gives the values `names` as outputs."""
    copy = model.clone()
    given = {str(one.name) for one in copy.graph.outputs}
    wanted = set(names) - given
    for value in [one for node in copy.graph for one in node.outputs if one.name in wanted]:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        copy.graph.outputs.append(value)
    return copy


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]
