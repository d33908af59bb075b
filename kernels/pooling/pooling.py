"""Poolings as data. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.convolution.convolution import LANES, padded
from intaglio.kernels.convolution.geometry import Axis, phases

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

MODES = ("max", "average", "average_with_padding")
ELEMENTS = ("float32", "uint8", "int8")


@dataclass(frozen=True)
class Pooling:
    """The maximum or average of a window of each channel, over images of fixed size.

    Input `[batch, height, width, input_stride]`, result `[batch, height', width', result_stride]`; channels
    are read and written in whole vectors of 16, so that zeros beyond the last channel stay zeros. Elements
    outside the image are left out, by "average_with_padding" counted as zeros. `overhang` rows and columns
    beyond the lower and the right padding give room to further windows, but never count: ONNX's ceil_mode.
    Bytes have a maximum only. Pointers: input, result, both of type `element`.

    Raises:
        CodegenError: if sizes contradict each other.
    """

    batch: int
    size: tuple[int, int]  # height and width of the input
    channels: int
    kernel: tuple[int, int]  # the size of the input: one window over the whole image
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    overhang: tuple[int, int] = (0, 0)
    mode: str = "max"  # one of `MODES`
    element: str = "float32"  # one of `ELEMENTS`
    input_stride: int = 0  # elements from pixel to pixel; 0: channels rounded up to 16
    input_offset: int = 0  # a multiple of 16, as are the following
    result_stride: int = 0
    result_offset: int = 0

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise CodegenError("pooling: " + "; ".join([*problems, "please report this"]))

    @property
    def result_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.axis(0).count, self.axis(1).count

    @property
    def whole(self) -> bool:
        """Whether one window covers exactly the image."""
        return self.kernel == self.size and self.pads == (0, 0, 0, 0) and self.result_size == (1, 1)

    @property
    def pixel(self) -> int:
        """Elements from pixel to pixel of the input."""
        return self.input_stride or padded(self.channels)

    @property
    def result_pixel(self) -> int:
        """Elements from pixel to pixel of the result."""
        return self.result_stride or padded(self.channels)

    def axis(self, axis: int) -> Axis:
        """Rows (0) or columns (1)."""
        pads = (self.pads[axis], self.pads[axis + 2] + self.overhang[axis])
        numbers = (self.size[axis], self.kernel[axis], self.strides[axis], self.dilations[axis])
        return phases(*numbers, pads, False, 0)[0]

    def counted(self, axis: int) -> tuple[int, int]:
        """The inputs of rows (0) or columns (1) that count for an average, from … to."""
        if self.mode != "average_with_padding":
            return 0, self.size[axis]
        return -self.pads[axis], self.size[axis] + self.pads[axis + 2]

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return dict.fromkeys(["input", "result"], self.element)

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.pooling.kernel import emit_pooling  # imports TVM

        emit_pooling(self, frame, instructions)


def find_problems(kernel: Pooling) -> list[str]:
    """Everything that is wrong with a pooling, in words; empty if nothing is."""
    positive = (kernel.batch, *kernel.size, kernel.channels, *kernel.kernel, *kernel.strides)
    if min(*positive, *kernel.dilations) < 1 or min(*kernel.pads, *kernel.overhang) < 0:
        return ["sizes, strides and dilations are at least 1, paddings at least 0"]
    problems = []
    for axis in range(2):
        more = kernel.pads[axis] + kernel.pads[axis + 2] + kernel.overhang[axis]
        if kernel.size[axis] + more <= kernel.dilations[axis] * (kernel.kernel[axis] - 1):
            problems.append(f"a window of {kernel.kernel} does not fit the image")
    if kernel.mode not in MODES or kernel.element not in ELEMENTS:
        problems.append(f"there is no {kernel.mode!r} of {kernel.element!r}")
    if kernel.mode != "max" and kernel.element != "float32":
        problems.append(f"there is no average of {kernel.element}")
    for offset, stride in (
        (kernel.input_offset, kernel.pixel),
        (kernel.result_offset, kernel.result_pixel),
    ):
        if offset % LANES or stride % LANES or offset + padded(kernel.channels) > stride:
            problems.append(f"{kernel.channels} channels from {offset} on do not fit a stride of {stride}")
    return problems
