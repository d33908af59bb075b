"""Quantised matrix × one vector: decoding. The floor is the bytes of the weight over the memory's bandwidth.

1. one stream of weights per worker, a block of 16 rows after the other: several at once are slower cold;
2. software prefetch 4 KB ahead: 2, 8 and 16 KB are slower on a Zen 4;
3. epilogues (residual add, SwiGLU) spare a pass over the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import finish
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.tir import Expression, KernelFrame, tirx

PREFETCH_BYTES = 4096


@dataclass(frozen=True)
class QuantizedMatrixVector:
    """`result[rows] = x Wᵀ` for one quantised token; every worker has its own copy of the activations.

    Pointers: codes, scales (, minima), activation `[workers, columns]`, activation_scales and activation_sums
    `[workers, columns / activation_group]`, result float32.
    """

    weight: QuantizedWeight
    activation_group: int
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    result_offset: int = 0  # of row 0 in result, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {
            **quantized.weight_pointers(self.weight),
            **quantized.ACTIVATION_POINTERS,
            "result": "float32",
        }

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        writer = _Writer(self, instructions, frame)
        frame.each_own(self.weight.blocks // self.weight.interleave, writer.write)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: QuantizedMatrixVector, instructions: Instructions, frame: KernelFrame) -> None:
        weight = kernel.weight
        self.kernel = kernel
        self.instructions = instructions
        self.worker = frame.worker
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = quantized.activation_views(
            frame, weight.columns, kernel.activation_group, frame.workers
        )
        columns = kernel.result_offset + weight.blocks // weight.interleave * ROWS
        self.result = frame.buffer("result", (columns,), "float32")

    def write(self, unit: Expression) -> None:
        """One unit: a block of rows, or a gate and an up block."""
        interleave = self.kernel.weight.interleave
        sums = [self.block(unit * tir.int32(interleave) + tir.int32(part)) for part in range(interleave)]
        at = [unit * tir.int32(ROWS) + tir.int32(self.kernel.result_offset)]
        finish(self.result, at, sums, self.kernel.epilogue)

    def block(self, block: Expression) -> Expression:
        """Sixteen rows times the activations."""
        total = tir.local((ROWS,))
        tir.store(total, [0], tir.zeros())
        groups = self.kernel.weight.columns // self.kernel.activation_group
        with T.serial(groups) as group:
            tir.store(total, [0], self.group(block, group, tir.load(total, [0])))
        return tir.bind(tir.load(total, [0]))

    def group(self, block: Expression, group: Expression, total: Expression) -> Expression:
        """`total` plus one activation group's contribution."""
        weight, worker, width = self.kernel.weight, self.worker, self.kernel.activation_group
        activation_sum = tir.bind(self.activation.sums[worker, group])
        accumulator = quantized.start(weight, activation_sum)
        for line in range(width // weight.chunk):
            at = group * tir.int32(width // weight.chunk) + tir.int32(line)
            accumulator = self.line(block, at, accumulator)
        weight_group = tir.bind(tirx.floordiv(group * tir.int32(width), tir.int32(weight.group)))
        activation_scale = tir.bind(self.activation.scales[worker, group])
        scale = quantized.group_vector(self.streams.scales, block, weight_group)
        scale = scale * tir.spread(activation_scale)
        total = tir.fused_multiply_add(accumulator.astype("float32x16"), scale, total)
        self.prefetch_groups(block, weight_group)
        if self.streams.minima is None:
            return total
        minimum = quantized.group_vector(self.streams.minima, block, weight_group)
        factor = tir.bind(activation_scale * activation_sum.astype("float32"))
        return tir.fused_multiply_add(minimum, tir.spread(factor), total)

    def line(self, block: Expression, line: Expression, accumulator: Expression) -> Expression:
        """Add one 64-byte line of codes."""
        weight = self.kernel.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        words = weight.chunk // 4
        activations = [
            tir.bind(self.activation.codes[self.worker, line * tir.int32(words) + tir.int32(word)])
            for word in range(words)
        ]
        codes = quantized.unpack_line(weight, packed)
        return quantized.dot_line(codes, activations, accumulator, self.instructions, weight.largest_code)

    def prefetch_groups(self, block: Expression, weight_group: Expression) -> None:
        """Scales and minima are read once per block: a few lines ahead is far enough."""
        ahead = 16 * ROWS
        tir.prefetch(self.streams.scales, [block, weight_group, ahead])
        if self.streams.minima is not None:
            tir.prefetch(self.streams.minima, [block, weight_group, ahead])
