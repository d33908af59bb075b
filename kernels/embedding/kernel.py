"""Rows gathered from a table packed for the linear kernels, so that a tied embedding is stored once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear.layout import ROWS, FloatWeight, QuantizedWeight
from intaglio.kernels.tir import Expression, KernelFrame, tirx


@dataclass(frozen=True)
class QuantizedEmbedding:
    """`result[i] = dequantised row tokens[i]`, `tokens[i] + offset` where `source` is "rows", or
    `position + i + offset` where it is "positions".

    Pointers: codes, scales (, minima), tokens int32 `[count]` unless positions are the source, result float32
    `[count, stride]`; padding is set to zero.
    """

    weight: QuantizedWeight
    stride: int
    source: str = "tokens"
    offset: int = 0  # added to positions, and to rows

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        weight = {"codes": "uint8", "scales": self.weight.scale_dtype}
        if self.weight.minimum:
            weight["minima"] = self.weight.minimum
        return {**weight, **source_pointer(self.source), "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # a gather: bound by memory latency
        frame.each_own(frame.count, _QuantizedWriter(self, frame).row)


class _QuantizedWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: QuantizedEmbedding, frame: KernelFrame) -> None:
        weight = kernel.weight
        groups = (weight.blocks, weight.columns // weight.group, ROWS)
        self.kernel = kernel
        self.codes = frame.buffer("codes", (weight.blocks, weight.columns // weight.chunk, ROWS, 4), "uint8")
        self.scales = frame.buffer("scales", groups, weight.scale_dtype)
        self.minima = frame.buffer("minima", groups, weight.minimum) if weight.minimum else None
        self.source = source_rows(kernel.source, kernel.offset, frame)
        self.result = frame.buffer("result", (frame.count, kernel.stride), "float32")

    def row(self, row: Expression) -> None:
        """One token."""
        weight = self.kernel.weight
        token = self.source(row)
        block, lane = tir.bind(tirx.floordiv(token, ROWS)), tir.bind(tirx.floormod(token, ROWS))
        with T.serial(weight.columns // weight.group) as group:
            scale = tir.bind(self.scales[block, group, lane].astype("float32"))
            low = None if self.minima is None else tir.bind(self.minima[block, group, lane].astype("float32"))
            with T.serial(weight.group) as column:
                at = tir.bind(group * tir.int32(weight.group) + column)
                code = self.code(block, lane, at) - tir.int32(weight.offset)
                value = code.astype("float32") * scale
                tir.store(self.result, [row, at], value if low is None else value + low)
        clear_padding(self.result, row, weight.columns, self.kernel.stride)

    def code(self, block: Expression, lane: Expression, column: Expression) -> Expression:
        """The unsigned code of one element."""
        chunk = self.kernel.weight.chunk
        line = tirx.floordiv(column, chunk)
        inside = tirx.floormod(column, chunk)
        byte = self.codes[block, line, lane, tirx.floormod(inside, 4)].astype("int32")
        if chunk == 4:
            return byte
        return (byte >> (tirx.floordiv(inside, 4) * tir.int32(4))) & tir.int32(15)


@dataclass(frozen=True)
class FloatEmbedding:
    """`result[i] = row tokens[i]`, `tokens[i] + offset` or `position + i + offset`, as in
    `QuantizedEmbedding`.

    Pointers: weight, tokens int32 `[count]` unless positions are the source, result `[count, stride]`.
    """

    weight: FloatWeight
    stride: int
    source: str = "tokens"
    offset: int = 0  # added to positions, and to rows

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        element = "float32" if self.weight.dtype == "float32" else "uint16"
        return {"weight": element, **source_pointer(self.source), "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # a gather: bound by memory latency
        source = source_rows(self.source, self.offset, frame)
        result = frame.buffer("result", (frame.count, self.stride), "float32")
        pair = 2 if self.weight.dtype == "bfloat16" else 1
        shape = (self.weight.blocks, self.weight.padded_columns // pair, ROWS, pair)
        table = frame.buffer("weight", shape, self.pointers["weight"])
        frame.each_own(frame.count, lambda row: self.row(table, source(row), result, row))

    def row(self, table: Expression, token: Expression, result: Expression, row: Expression) -> None:
        """One token."""
        block, lane = tir.bind(tirx.floordiv(token, ROWS)), tir.bind(tirx.floormod(token, ROWS))
        pair = 2 if self.weight.dtype == "bfloat16" else 1
        with T.serial(self.weight.columns) as column:
            value = table[block, tirx.floordiv(column, pair), lane, tirx.floormod(column, pair)]
            if pair == 2:
                value = tir.reinterpret(value.astype("uint32") << tir.constant(16, "uint32"), "float32")
            tir.store(result, [row, column], value)
        clear_padding(result, row, self.weight.columns, self.stride)


def source_pointer(source: str) -> dict[str, str]:
    """The pointer that holds the rows' numbers: none for positions."""
    return {} if source == "positions" else {"tokens": "int32"}


def source_rows(source: str, offset: int, frame: KernelFrame) -> Callable[[Expression], Expression]:
    """Which row of the table belongs to a row of the result."""
    if source != "positions":
        tokens = frame.buffer("tokens", (frame.count,), "int32")
        start = offset if source == "rows" else 0
        return lambda row: tir.bind(tokens[row] + tir.int32(start))
    first = tir.bind(frame.position + tir.int32(offset))
    return lambda row: tir.bind(first + row)


def clear_padding(result: Expression, row: Expression, columns: int, stride: int) -> None:
    """Zero what lies between the columns and the stride: the kernels downstream rely on it."""
    for column in range(columns, stride):
        tir.store(result, [row, column], tir.float32(0.0))
