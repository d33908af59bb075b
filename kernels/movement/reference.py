"""Movements, naively: element by element."""

from __future__ import annotations

import itertools
from typing import Any

from numpy.typing import NDArray

from intaglio.kernels.movement.movement import Movement


def move(movement: Movement, source: NDArray[Any], result: NDArray[Any]) -> None:
    """Write what `movement` writes into `result`; both are flat."""
    for indices in itertools.product(*(range(axis.extent) for axis in movement.axes)):
        pairs = list(zip(indices, movement.axes, strict=True))
        place = movement.result_offset + sum(i * axis.result for i, axis in pairs)
        if all(axis.before <= i < axis.extent - axis.after for i, axis in pairs):
            origin = movement.source_offset + sum((i - axis.before) * axis.source for i, axis in pairs)
            result[place] = source[origin]
        else:
            result[place] = movement.fill
