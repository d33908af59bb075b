"""Checks what a run is given against what the graph declares, and turns it into torch tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from intaglio.backends.reference.tensors import from_numpy, torch_dtype
from intaglio.compiler.errors import OptionError

Given = Tensor | NDArray[np.generic]


def check_inputs(
    given: Mapping[str, Given], required: Mapping[str, ir.Value], optional: Mapping[str, ir.Value]
) -> None:
    """Raise `OptionError` that lists all missing, unknown and ill-shaped inputs."""
    values = {**optional, **required}
    problems = [f"input {name!r} is missing" for name in sorted(set(required) - set(given))]
    problems += [f"{name!r} is not an input" for name in given if name not in values]
    shapes = {values[name]: tuple(one.shape) for name, one in given.items() if name in values}
    problems += [one for value, shape in shapes.items() for one in _shape_problems(value, shape)]
    if problems := problems or list(_size_conflicts(shapes)):
        raise OptionError("[reference] run: " + "; ".join(problems))


def as_tensor(value: ir.Value, given: Given, working: torch.dtype) -> Tensor:
    """`given` as the graph declares `value`, float32 being `working`."""
    assert value.dtype is not None, "checked by require_support"
    tensor = given if isinstance(given, Tensor) else from_numpy(given, ir.DataType.from_numpy(given.dtype))
    return tensor.to(torch_dtype(value.dtype, working))


def _shape_problems(value: ir.Value, shape: tuple[int, ...]) -> Iterator[str]:
    if value.shape is None:
        return
    declared = tuple(value.shape)
    sizes = zip(declared, shape, strict=False)
    fits = all(not isinstance(wanted, int) or wanted == found for wanted, found in sizes)
    if len(declared) != len(shape) or not fits:
        yield f"{value.name!r} has shape {list(shape)}, declared {value.shape}"


def _size_conflicts(shapes: Mapping[ir.Value, tuple[int, ...]]) -> Iterator[str]:
    """Sizes of one name that differ, such as the batch of two inputs."""
    known: dict[str, tuple[int, str | None]] = {}
    for value, shape in shapes.items():
        for declared, size in zip(value.shape or (), shape, strict=False):
            name = None if isinstance(declared, int) else declared.value
            if name is None:
                continue
            first, owner = known.setdefault(name, (size, value.name))
            if first != size:
                yield f"{name!r} is {first} in {owner!r} and {size} in {value.name!r}"
