"""Row programs, naively: step by step over whole rows in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.row_program.program import RowInput, RowProgram, Step

Array = NDArray[np.float64]

OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "negate": np.negative,
    "absolute": np.abs,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "logistic": lambda x: 0.5 + 0.5 * np.tanh(x / 2),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "square": np.square,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu_erf": lambda x: x * 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(x / 2)),
}


def row_program(
    program: RowProgram, inputs: Sequence[Array], vectors: Sequence[Array], count: int, workers: int
) -> Array:
    """Inputs `[rows, stride]` and vectors `[columns padded]` → what the result holds, `[rows, columns]`.

    "all" has `count` rows, "shared" one, the others one per worker.
    """
    rows = {"all": count, "shared": 1}.get(program.rows, workers)
    return np.stack([_row(program, inputs, vectors, row, count) for row in range(rows)])


def _row(
    program: RowProgram, inputs: Sequence[Array], vectors: Sequence[Array], row: int, count: int
) -> Array:
    tokens = {"all": row, "last": count - 1}
    places = {"all": tokens.get(program.rows, 0), "own": row, "shared": 0}
    values: list[Array] = []
    for step in program.steps:
        if step.op == "input":
            one = program.inputs[step.index]
            values.append(_columns(one, inputs[step.index][places[one.rows]], program.columns))
        elif step.op == "vector":
            values.append(vectors[step.index][: program.columns].astype(np.float64))
        else:
            values.append(_step(step, [values[i] for i in step.arguments], program.columns))
    return values[-1]


def _columns(one: RowInput, row: Array, columns: int) -> Array:
    if one.broadcast:
        return np.full(columns, row[one.offset], np.float64)
    return row[one.offset : one.offset + columns].astype(np.float64)


def _step(step: Step, arguments: list[Array], columns: int) -> Array:
    if step.op == "number":
        return np.full(columns, step.number)
    if step.op == "power_of_number":
        return np.asarray(arguments[0] ** step.number, np.float64)
    if step.op not in ("rms_norm", "layer_norm"):
        return OPERATIONS[step.op](*arguments)
    x, *scaling = arguments
    if step.op == "layer_norm":
        x = x - x.mean()
    result: Array = x / np.sqrt((x * x).mean() + step.number)
    for combine, scale in zip((np.multiply, np.add), scaling, strict=False):
        result = combine(result, scale)
    return result
