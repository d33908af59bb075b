"""Between torch tensors and numpy arrays, over the same memory where that can be."""

from __future__ import annotations

import sys
from typing import Any, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor; asks torch only where it has been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(value: Any, dtype: np.dtype[Any]) -> Array:
    """A torch tensor, array or number as an array; numbers and lists become `dtype`, if they can."""
    if is_torch(value):
        return _from_torch(value)
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError):
        return np.asarray(value, object)  # told to be of the wrong type


def to_torch(array: Array) -> Any:
    """As a torch tensor over the same memory."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _from_torch(tensor: Any) -> Array:
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return cast(Array, tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return cast(Array, tensor.numpy())
