"""Reductions, naively, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.reduction.reduction import Reduction
from intaglio.kernels.tensor_program.reference import places

Array = NDArray[np.float64]


def reduction(kernel: Reduction, source: NDArray[Any]) -> Array:
    """From a flat buffer, the result in the shape of `extents`, reduced axes being 1."""
    values = source[places(kernel.extents, kernel.input)].astype(np.float64)
    if kernel.op.endswith("squares"):
        values = values * values
    functions = {"max": np.max, "min": np.min, "product": np.prod}
    function: Any = functions.get(kernel.op, np.mean if kernel.op.startswith("mean") else np.sum)
    return np.asarray(function(values, axis=kernel.reduced, keepdims=True), np.float64)
