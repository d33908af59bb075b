"""SwiGLU, naively, in float64 (Shazeer 2020, equation 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) · up, elementwise."""
    result: Array = gate / (1 + np.exp(-gate)) * up
    return result
