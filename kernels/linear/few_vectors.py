"""Quantised matrix × a few vectors: batches and drafts of 2 to 64 rows.

The floor is the larger of the weight's bytes over the bandwidth and the products over the peak of 8-bit dot
products. Between a vector and a prompt, both matter:

1. as for one vector, each worker reads one stream of weights, with software prefetch;
2. a line of codes is unpacked into registers and multiplied with all rows of a tile (at most 8) there and
   then: no panel is written. Further tiles find the block of 16 outputs in the cache;
3. what the offset and the minimum contribute is prepared once per call and worker: in the loop a group costs
   a row one product and one or two multiply-adds besides its dot products.

The operations of an output are those of `QuantizedMatrixVector`, in the same order: results are equal to the
bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.linear.row_tiles import PADDING, each_block, group_vectors
from intaglio.kernels.tir import Expression, KernelFrame, tirx


@dataclass(frozen=True)
class QuantizedFewVectors:
    """`result[row, outputs] = x Wᵀ` for `count` quantised rows.

    Pointers: codes, scales (, minima), activation int8 `[rows, columns]`, activation_scales and
    activation_sums `[rows, columns / activation_group]`; scratch `[workers, most_rows + PADDING, columns /
    activation_group]`: starts int32 where the weight has an offset, lows float32 where it has minima; result
    float32 `[rows, result_stride]`. Buffers of rows hold `PADDING` rows more than `count`.
    """

    weight: QuantizedWeight
    activation_group: int
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    result_stride: int
    most_rows: int  # of a call
    result_offset: int = 0  # of output 0 in a row of results, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        starts = {"starts": "int32"} if self.weight.offset else {}
        lows = {"lows": "float32"} if self.weight.minimum else {}
        weight = quantized.weight_pointers(self.weight)
        return {**weight, **quantized.ACTIVATION_POINTERS, **starts, **lows, "result": "float32"}

    @property
    def scratch_bytes(self) -> dict[str, int]:
        """Sizes of the scratch buffers of one worker."""
        size = 4 * (self.most_rows + PADDING) * (self.weight.columns // self.activation_group)
        return {name: size for name in ("starts", "lows") if name in self.pointers}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        writer = _Writer(self, instructions, frame)
        writer.prepare()
        each_block(self, frame, instructions, writer.block)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: QuantizedFewVectors, instructions: Instructions, frame: KernelFrame) -> None:
        weight, rows = kernel.weight, frame.count + tir.int32(PADDING)
        self.kernel, self.instructions, self.frame = kernel, instructions, frame
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = quantized.activation_views(frame, weight.columns, kernel.activation_group, rows)
        self.groups = weight.columns // kernel.activation_group
        scratch = (frame.workers, kernel.most_rows + PADDING, self.groups)
        self.starts = frame.buffer("starts", scratch, "int32") if weight.offset else None
        self.lows = frame.buffer("lows", scratch, "float32") if weight.minimum else None

    def prepare(self) -> None:
        """What each group of each row adds besides its products, for this worker."""
        with T.serial(self.frame.count) as row, T.serial(self.groups) as group:
            at = [self.frame.worker, row, group]
            total = tir.bind(self.activation.sums[row, group])
            if self.starts is not None:
                tir.store(self.starts, at, total * tir.int32(-self.kernel.weight.offset))
            if self.lows is not None:
                tir.store(self.lows, at, self.activation.scales[row, group] * total.astype("float32"))

    def block(self, block: Expression, first: Expression, rows: int) -> list[Expression]:
        """Sixteen outputs of each row."""
        total = [tir.local((ROWS,)) for _ in range(rows)]
        for one in total:
            tir.store(one, [0], tir.zeros())
        with T.serial(self.groups) as group:
            self.group(block, group, first, total)
        return [tir.bind(tir.load(one, [0])) for one in total]

    def group(self, block: Expression, group: Expression, first: Expression, total: list[Expression]) -> None:
        """Add one activation group's contribution to `total`."""
        weight, width, worker = self.kernel.weight, self.kernel.activation_group, self.frame.worker
        at = [first + tir.int32(row) for row in range(len(total))]
        partial = [tir.local((ROWS,), "int32") for _ in total]
        for one, row in zip(partial, at, strict=True):
            start = tir.int32(0) if self.starts is None else tir.bind(self.starts[worker, row, group])
            tir.store(one, [0], tir.spread(start))
        self.products(block, group, first, partial)
        weight_group = tir.bind(tirx.floordiv(group * tir.int32(width), tir.int32(weight.group)))
        scale, minimum = group_vectors(self.streams, block, weight_group)
        for one, part, row in zip(total, partial, at, strict=True):
            factor = scale * tir.spread(tir.bind(self.activation.scales[row, group]))
            value = tir.load(part, [0]).astype("float32x16")
            running = tir.fused_multiply_add(value, factor, tir.load(one, [0]))
            if minimum is not None and self.lows is not None:
                low = tir.spread(tir.bind(self.lows[worker, row, group]))
                running = tir.fused_multiply_add(minimum, low, running)
            tir.store(one, [0], running)

    def products(
        self, block: Expression, group: Expression, first: Expression, partial: list[Expression]
    ) -> None:
        """Integer products of one group of columns."""
        lines = self.kernel.activation_group // self.kernel.weight.chunk
        step = next(size for size in (4, 2, 1) if lines % size == 0)
        start = tir.bind(group * tir.int32(lines))
        with T.serial(lines // step) as outer:
            for inner in range(step):
                line = tir.bind(start + outer * tir.int32(step) + tir.int32(inner))
                self.line(block, line, first, partial)

    def line(self, block: Expression, line: Expression, first: Expression, partial: list[Expression]) -> None:
        """Add one 64-byte line of codes, unpacked once for all rows."""
        weight = self.kernel.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        words = weight.chunk // 4
        for word, codes in enumerate(quantized.unpack_line(weight, packed)):
            held = codes if words == 1 else tir.hold(codes)
            for row, one in enumerate(partial):
                at = [first + tir.int32(row), line * tir.int32(words) + tir.int32(word)]
                activation = tir.bind(self.activation.codes[tuple(at)])
                sums = tir.load(one, [0])
                product = tir.dot4(sums, held, activation, self.instructions, weight.largest_code)
                tir.store(one, [0], product)
