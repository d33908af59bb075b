"""Quantised weights × a few float32 rows by products of bytes: rows in two planes of bytes, as for one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.fixed_point import HIGH, LOW, FixedPointWriter
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.linear.row_tiles import group_vectors
from intaglio.kernels.tir import Expression, KernelFrame, tirx

if TYPE_CHECKING:
    from intaglio.kernels.linear.few_dequantized import DequantizedFewVectors


class FewFixedPointWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: DequantizedFewVectors, frame: KernelFrame, instructions: Instructions) -> None:
        self.kernel, self.weight, self.width = kernel, kernel.weight, kernel.vector.width
        self.instructions, self.frame = instructions, frame
        self.groups = self.weight.columns // self.width
        # Scratch as if every row of every worker were a worker's own.
        self.first = tir.bind(frame.worker * tir.int32(kernel.room))
        places = dataclasses.replace(frame, worker=self.first, workers=frame.workers * tir.int32(kernel.room))
        self.rows = _Rows(kernel.vector, places, instructions)
        shape = (places.workers, self.groups)
        self.shifts = frame.buffer("shifts", shape, "float32") if self.weight.offset else None
        self.lows = frame.buffer("lows", shape, "float32") if self.weight.minimum else None

    def prepare(self) -> None:
        """Planes of all rows, and what a group adds besides its products, for this worker."""
        with T.serial(self.frame.count) as row:
            self.rows.quantize_row(row, tir.bind(self.first + row))
            with T.serial(self.groups) as group:
                self._terms([self.first + row, group])

    def _terms(self, at: list[Expression]) -> None:
        plain = tir.bind(self.rows.sums[tuple(at)].astype("float32"))
        if self.shifts is not None:
            tir.store(self.shifts, at, plain * tir.float32(self.weight.offset))
        if self.lows is not None:
            tir.store(self.lows, at, self.rows.scales[tuple(at)] * plain)

    def block(self, block: Expression, first: Expression, rows: int) -> list[Expression]:
        """Sixteen outputs of each row."""
        total = [tir.local((ROWS,)) for _ in range(rows)]
        for one in total:
            tir.store(one, [0], tir.zeros())
        place = tir.bind(self.first + first)
        with T.serial(self.groups) as group:
            self._group(block, group, place, total)
        return [tir.bind(tir.load(one, [0])) for one in total]

    def _group(
        self, block: Expression, group: Expression, place: Expression, total: list[Expression]
    ) -> None:
        """Add one activation group's contribution to `total`."""
        lines = self.width // self.weight.chunk
        partial = [[tir.local((ROWS,), "int32") for _ in (HIGH, LOW)] for _ in total]
        for row in partial:
            for one in row:
                tir.store(one, [0], tir.spread(tir.int32(0)))
        for line in range(lines):
            self._line(block, tir.bind(group * tir.int32(lines) + tir.int32(line)), place, partial)
        weight_group = tir.bind(tirx.floordiv(group * tir.int32(self.width), tir.int32(self.weight.group)))
        scale, minimum = group_vectors(self.streams, block, weight_group)
        for index, (one, planes) in enumerate(zip(total, partial, strict=True)):
            at = (place + tir.int32(index), group)
            high, low = (tir.load(plane, [0]).astype("float32x16") for plane in planes)
            products = tir.fused_multiply_add(high, tir.spread(tir.float32(256.0)), low)
            if self.shifts is not None:
                products = products - tir.spread(tir.bind(self.shifts[at]))
            factor = scale * tir.spread(tir.bind(self.rows.scales[at]))
            running = tir.fused_multiply_add(products, factor, tir.load(one, [0]))
            if minimum is not None and self.lows is not None:
                running = tir.fused_multiply_add(minimum, tir.spread(tir.bind(self.lows[at])), running)
            tir.store(one, [0], running)

    @property
    def streams(self) -> quantized.Streams:
        """Views of the packed weight."""
        return self.rows.streams

    def _line(
        self, block: Expression, line: Expression, place: Expression, partial: list[list[Expression]]
    ) -> None:
        """Add one 64-byte line of codes to the sums of both planes, unpacked once for all rows."""
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        words = self.weight.chunk // 4
        for word, codes in enumerate(quantized.unpack_line(self.weight, packed)):
            held = codes if words == 1 else tir.hold(codes)
            at = tir.bind(line * tir.int32(words) + tir.int32(word))
            for row, planes in enumerate(partial):
                for plane, one in enumerate(planes):
                    factor = tir.bind(self.rows.words[place + tir.int32(row), plane, at])
                    tir.store(one, [0], tir.dot4(tir.load(one, [0]), held, factor, self.instructions))


class _Rows(FixedPointWriter):
    """The rows' planes, written one after the other."""

    def quantize_row(self, row: Expression, place: Expression) -> None:
        """Row `row` of the activations into the scratch at `place`."""
        self.row, self.worker = row, place
        self.quantize()
