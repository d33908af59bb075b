"""All kernels by name, and their parameters as JSON.

Importing this module imports TVM: only code generation and tests do.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Protocol

from intaglio.kernels.attention.batch import BatchAttention
from intaglio.kernels.attention.cache import RotateAndCache
from intaglio.kernels.attention.combine import CombineAttention
from intaglio.kernels.attention.decode import DecodeAttention
from intaglio.kernels.attention.prefill import PrefillAttention
from intaglio.kernels.attention_whole.kernel import WholeAttention
from intaglio.kernels.ceilings.kernel import MultiplyInCache, ReadMemory
from intaglio.kernels.choose.kernel import BlockMaxima
from intaglio.kernels.convolution.convolution import Convolution
from intaglio.kernels.convolution.quantized import QuantizedConvolution
from intaglio.kernels.embedding.kernel import FloatEmbedding, QuantizedEmbedding
from intaglio.kernels.gather.kernel import GatherRows
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear.dequantized_matrix import DequantizedMatrixMatrix
from intaglio.kernels.linear.dequantized_vector import DequantizedMatrixVector
from intaglio.kernels.linear.few_dequantized import DequantizedFewVectors
from intaglio.kernels.linear.few_floating import FloatFewVectors
from intaglio.kernels.linear.few_vectors import QuantizedFewVectors
from intaglio.kernels.linear.floating import FloatLinear
from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector
from intaglio.kernels.linear.requantized import RequantizedMatrixMatrix
from intaglio.kernels.movement.movement import Movement
from intaglio.kernels.pooling.pooling import Pooling
from intaglio.kernels.quantize_activation.kernel import QuantizeActivation
from intaglio.kernels.reduction.reduction import Reduction
from intaglio.kernels.resize.resize import Resize
from intaglio.kernels.row_program.program import RowProgram
from intaglio.kernels.softmax.softmax import Softmax
from intaglio.kernels.tensor_program.program import TensorProgram
from intaglio.kernels.tir import KernelFrame


class Kernel(Protocol):
    """What code generation asks of a kernel."""

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order: name → element type."""

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""


KERNELS: tuple[type[Any], ...] = (
    BatchAttention,
    BlockMaxima,
    CombineAttention,
    Convolution,
    DecodeAttention,
    DequantizedFewVectors,
    DequantizedMatrixMatrix,
    DequantizedMatrixVector,
    FloatEmbedding,
    FloatFewVectors,
    FloatLinear,
    Movement,
    MultiplyInCache,
    Pooling,
    PrefillAttention,
    QuantizeActivation,
    QuantizedConvolution,
    QuantizedEmbedding,
    QuantizedFewVectors,
    QuantizedMatrixMatrix,
    QuantizedMatrixVector,
    ReadMemory,
    Reduction,
    RequantizedMatrixMatrix,
    Resize,
    RotateAndCache,
    RowProgram,
    GatherRows,
    Softmax,
    TensorProgram,
    WholeAttention,
)


def kernel_from_json(name: str, parameters: dict[str, Any]) -> Kernel:
    """The kernel of class `name` with `parameters`; KeyError or TypeError for those of another version."""
    classes = {kernel.__name__: kernel for kernel in KERNELS}
    kernel: Kernel = _build(classes[name], parameters)
    return kernel


def _build(cls: type[Any], values: dict[str, Any]) -> Any:
    types = typing.get_type_hints(cls)
    return cls(**{name: _value(types[name], value) for name, value in values.items()})


def _value(kind: Any, value: Any) -> Any:
    """`value`, from JSON, as a field of type `kind` has it: a dataclass, a tuple of one kind, or itself."""
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast("type[Any]", kind), value)
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        return tuple(_value(element, one) for one in value)
    return value
