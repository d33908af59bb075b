"""Tensor programs, naively, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.row_program.program import Step
from intaglio.kernels.row_program.reference import OPERATIONS
from intaglio.kernels.tensor_program.operand import Operand
from intaglio.kernels.tensor_program.program import TensorProgram

Array = NDArray[np.float64]

MORE: dict[str, Callable[..., Any]] = {
    "not": lambda x: x == 0,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sign": np.sign,
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "where": lambda condition, yes, no: np.where(condition != 0, yes, no),
}


def places(extents: Sequence[int], operand: Operand) -> NDArray[np.int64]:
    """Where each element of an operand lies, in the shape of `extents`."""
    found = np.full(tuple(extents), operand.offset, np.int64)
    for axis, (extent, stride) in enumerate(zip(extents, operand.strides, strict=True)):
        shape = [1] * len(extents)
        shape[axis] = extent
        found += (np.arange(extent) * stride).reshape(shape)
    return found


def tensor_program(program: TensorProgram, inputs: Sequence[NDArray[Any]]) -> Array:
    """The result in the shape of `extents`, from flat buffers; without regard to `zeros`."""
    values: list[Array] = []
    for step in program.steps:
        if step.op == "input":
            one = program.inputs[step.index]
            values.append(inputs[step.index][places(program.extents, one)].astype(np.float64))
        elif step.op == "number":
            values.append(np.full(program.extents, step.number))
        else:
            values.append(_step(step, [values[i] for i in step.arguments]))
    return values[-1]


def _step(step: Step, arguments: list[Array]) -> Array:
    if step.op == "power_of_number":
        return np.asarray(arguments[0] ** step.number, np.float64)
    operation = MORE.get(step.op) or OPERATIONS[step.op]
    return np.asarray(operation(*arguments), np.float64)
