"""What calls of one kind have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True)
class CallKey:
    """What calls of one kind have in common."""

    shapes: Mapping[str, tuple[int, ...]]
    fixed: Mapping[str, Any]  # values of inputs that are whole numbers without axes: modes, rates, lengths


def key_of(call: Mapping[str, Array]) -> CallKey:
    """The kind of `call`."""
    fixed = {name: one.item() for name, one in call.items() if one.ndim == 0 and one.dtype.kind in "biu"}
    return CallKey({name: tuple(one.shape) for name, one in call.items()}, fixed)
