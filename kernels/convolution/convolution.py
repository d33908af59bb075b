"""Convolutions as data: shapes, layouts, and what follows. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.chain.steps import ChainStep, operands_of
from intaglio.kernels.chain.steps import find_problems as chain_problems
from intaglio.kernels.convolution.geometry import Axis, output_extent, phases

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

LANES = 16  # channels of a vector
FULL_GROUPS = (4, 3, 5)  # blocks of channels that share a tile, best first


@dataclass(frozen=True)
class Convolution:
    """`result[n, y, x, :] = chain(bias + Σ weight · input)` over images of fixed size, float32.

    Input `[batch, height, width, input_stride]`, of which channels `input_offset …` are read; with `layout`
    "plain" it is `[batch, channels, height, width]`. Result `[batch, height', width', result_stride]`,
    written from channel `result_offset` on in whole vectors: channels up to a multiple of 16 become zero.
    Depthwise convolutions read whole vectors, too, whose padding must be finite. Workers share the work; the
    result may not lie in place of an operand or the input.
    Pointers: input, weight (see `packing.pack_weight`), bias `[channels rounded up to 16]`, operand0 …
    of the chain `[batch, height', width', stride]` or `[batch, stride]`, result.

    Raises:
        CodegenError: if sizes contradict each other.
    """

    batch: int
    size: tuple[int, int]  # height and width of the input
    inputs: int  # channels
    outputs: int  # channels
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)  # of a transposed convolution: bottom, right
    chain: tuple[ChainStep, ...] = ()
    layout: str = "last"  # of the input: "last", or "plain"
    input_stride: int = 0  # floats from pixel to pixel; 0: channels rounded up to 16
    input_offset: int = 0
    result_stride: int = 0  # as input_stride
    result_offset: int = 0  # a multiple of 16

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise CodegenError("convolution: " + "; ".join([*problems, "please report this"]))

    @property
    def depthwise(self) -> bool:
        """Whether every channel is by itself."""
        return self.groups == self.inputs == self.outputs and self.layout == "last" and self.outputs > 1

    @property
    def result_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        height, width = (output_extent(*self._axis(axis)) for axis in range(2))
        return height, width

    @property
    def blocks(self) -> int:
        """Vectors of output channels."""
        return -(-self.outputs // LANES)

    @property
    def together(self) -> int:
        """Blocks that share a tile, and whose weights are interleaved; the last ones may be fewer."""
        if self.depthwise or (self.groups > 1 and (self.outputs // self.groups) % LANES):
            return 1
        blocks = self.blocks if self.groups == 1 else self.outputs // self.groups // LANES
        return blocks if blocks <= 5 else next((one for one in FULL_GROUPS if blocks % one == 0), 4)

    @property
    def window(self) -> int:
        """Input channels that a block of output channels is computed from."""
        if self.groups == 1:
            return self.inputs
        return max(self.window_end(block) - self._first_group(block) for block in range(self.blocks))

    def window_end(self, block: int) -> int:
        """The input channel after the last one that output block `block` needs."""
        last = min((block + 1) * LANES, self.outputs) - 1
        return (last // (self.outputs // self.groups) + 1) * (self.inputs // self.groups)

    def window_start(self, block: int) -> int:
        """The input channel from which on output block `block` reads `window` channels."""
        return min(self._first_group(block), self.inputs - self.window)

    def _first_group(self, block: int) -> int:
        return block * LANES // (self.outputs // self.groups) * (self.inputs // self.groups)

    @property
    def pixel(self) -> int:
        """Floats from pixel to pixel of the input."""
        return self.input_stride or padded(self.inputs)

    @property
    def result_pixel(self) -> int:
        """Floats from pixel to pixel of the result."""
        return self.result_stride or padded(self.outputs)

    @property
    def pointwise(self) -> bool:
        """Whether output i is computed from input i alone, whatever their rows."""
        plain = self.kernel == self.strides == (1, 1) and self.pads == (0, 0, 0, 0)
        return plain and self.output_padding == (0, 0) and self.layout == "last"

    @property
    def flat(self) -> bool:
        """Whether all pixels of all images may be taken for one row."""
        images = any(step.over == "image" for step in operands_of(self.chain))
        return self.pointwise and (self.batch == 1 or not images)

    def axes(self, axis: int) -> list[Axis]:
        """The phases of axis 0 (rows) or 1 (columns)."""
        return phases(*self._axis(axis))

    def _axis(self, axis: int) -> tuple[int, int, int, int, tuple[int, int], bool, int]:
        pads = (self.pads[axis], self.pads[axis + 2])
        numbers = (self.size[axis], self.kernel[axis], self.strides[axis], self.dilations[axis])
        return *numbers, pads, self.transposed, self.output_padding[axis]

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        operands = [f"operand{i}" for i in range(len(operands_of(self.chain)))]
        return dict.fromkeys(["input", "weight", "bias", *operands, "result"], "float32")

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.convolution.dense import emit_dense  # imports TVM
        from intaglio.kernels.convolution.depthwise import emit_depthwise
        from intaglio.kernels.convolution.images import Images

        emit = emit_depthwise if self.depthwise else emit_dense
        emit(Images(self, frame, self.pointers), frame, instructions)


def padded(channels: int) -> int:
    """`channels` rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def find_problems(kernel: Convolution) -> list[str]:
    """Everything that is wrong with a convolution, in words; empty if nothing is."""
    positive = (kernel.batch, *kernel.size, kernel.inputs, kernel.outputs, *kernel.kernel, kernel.groups)
    if min(*positive, *kernel.strides, *kernel.dilations) < 1:
        return ["sizes, strides, dilations and groups are at least 1"]
    problems = chain_problems(kernel.chain)
    if kernel.inputs % kernel.groups or kernel.outputs % kernel.groups:
        problems.append(f"{kernel.inputs} and {kernel.outputs} channels are not in {kernel.groups} groups")
        return problems
    if min(kernel.result_size) < 1:
        problems.append(f"a result of {kernel.result_size} is empty")
    if kernel.layout not in ("last", "plain"):
        problems.append(f"there is no layout {kernel.layout!r}")
    if kernel.result_offset % LANES or kernel.result_offset + padded(kernel.outputs) > kernel.result_pixel:
        problems.append(f"{kernel.outputs} channels from {kernel.result_offset} on do not fit the result")
    if kernel.input_offset + kernel.inputs > kernel.pixel:
        problems.append(f"{kernel.inputs} channels from {kernel.input_offset} on do not fit the input")
    if kernel.depthwise and kernel.input_offset + padded(kernel.inputs) > kernel.pixel:
        problems.append(f"a depthwise convolution reads whole vectors from {kernel.input_offset} on")
    if not kernel.transposed and kernel.output_padding != (0, 0):
        problems.append("only a transposed convolution has an output padding")
    return problems
