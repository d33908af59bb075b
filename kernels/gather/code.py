"""The code of choosing rows."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.gather.kernel import LANES, GatherRows
from intaglio.kernels.tir import Expression, KernelFrame, tirx


def emit_gather(kernel: GatherRows, frame: KernelFrame) -> None:
    """Each worker copies the rows of its share of indices, sixteen columns at a time."""
    table = frame.buffer("table", (kernel.rows * kernel.stride,), "float32")
    index = frame.buffer("index", (frame.count,), kernel.index)
    result = frame.buffer("result", (frame.count * tir.int32(kernel.result_stride),), "float32")

    def row(number: Expression) -> None:
        number = tir.bind(number)
        chosen = tir.bind(index[number].astype("int32"))
        wrapped = tirx.Select(chosen < tir.int32(0), chosen + tir.int32(kernel.rows), chosen)
        chosen = tir.hold(tirx.Max(tir.int32(0), tirx.Min(wrapped, tir.int32(kernel.rows - 1))))
        source = tir.bind(chosen * tir.int32(kernel.stride))
        target = tir.bind(number * tir.int32(kernel.result_stride))
        whole = kernel.columns // LANES
        if whole:
            with T.serial(whole) as vector:
                at = tir.bind(vector * tir.int32(LANES))
                tir.store(result, [target + at], tir.load(table, [source + at]))
        for column in range(whole * LANES, kernel.columns):
            tir.store(result, [target + tir.int32(column)], table[source + tir.int32(column)])

    frame.each_own(frame.count, row)
